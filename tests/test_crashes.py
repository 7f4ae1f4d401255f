# SPDX-License-Identifier: GPL-2.0-or-later
"""A scenario that crashes the kernel: what it comes to, and what it costs the others."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kvmharness import api
from kvmharness.judging.session import LostError, Session
from kvmharness.judging.verdict import Expectation, Result, Verdict
from kvmharness.lab import crashes, kernels, play, runs
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import machine, protocol
from kvmharness.lab.machines.catalogue import AMD, AMD_SMP
from kvmharness.lab.machines.console import Remark
from kvmharness.lab.machines.machine import FINISHED, Boot, Machine
from kvmharness.lab.play import CrashError, LostMachineError
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.trace import Trace
from tests.made_up import session

OOPS = "Oops: 0002 [#1] PREEMPT SMP NOPTI"
LOCKUP = "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [python3:1]"
NAMES = ("young-restore", "old-restore", "write-zero", "qemu-pair-old", "qemu-pair-young")
PlaysOf = Callable[[Kernel, Machine, Sequence[Scenario]], Session]


def crash(name: str, line: str = OOPS, kind: str = "the kernel oopsed") -> CrashError:
    remark = Remark(line, kind, name) if line else None
    complaint = remark.text if remark else f"the machine hung, during {name}"
    return CrashError(complaint, [line] if line else [], name, remark)


class Lab:
    """A made-up lab. `crashing` has what comes of each play of a scenario that crashes, if not a trace."""

    def __init__(self, **crashing: Sequence[Exception | None]) -> None:
        self.crashing = {name.replace("_", "-"): list(each) for name, each in crashing.items()}
        self.played: list[list[str]] = []
        self.alone: list[str] = []
        self.crashed: frozenset[str] = frozenset()

    def play(self, kernel: Kernel, on: Machine, scenarios: Sequence[Scenario]) -> Session:
        self.played.append([each.name for each in scenarios])
        self.alone += [each.name for each in scenarios if each.alone]
        for each in scenarios:
            comes = self.crashing.get(each.name)
            error = comes.pop(0) if comes else None
            if error:
                raise error
        return session(scenarios)


def results_of(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, names: Sequence[str] = NAMES, on: Machine = AMD
) -> dict[str, Result]:
    monkeypatch.setattr(play, "play", lab.play)
    scenarios = [SCENARIOS[name] for name in names]
    played = runs.play_on(Kernel("made-up", "6.1", Path(), {}), on, scenarios, Expectation())
    assert [each.scenario for each in played.results] == list(names)
    lab.crashed = played.crashed
    return {each.scenario: each for each in played.results}


def verdicts(found: dict[str, Result]) -> list[str]:
    return [each.verdict.value for each in found.values()]


def test_a_fault_that_comes_twice_is_a_fail_and_the_others_have_their_verdicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(write_zero=[crash("write-zero"), crash("write-zero")])
    found = results_of(lab, monkeypatch)
    assert verdicts(found) == ["PASS", "PASS", "FAIL", "PASS", "PASS"]
    assert found["write-zero"].reason == f"the kernel oopsed during write-zero: {OOPS}, 2 times"
    assert found["write-zero"].conforms is False
    assert lab.crashed == {"write-zero"}
    others = [name for name in NAMES if name != "write-zero"]
    assert lab.played == [list(NAMES), others, ["write-zero"]]
    assert lab.alone == ["write-zero"]


def test_a_crash_stays_one_whatever_policy_the_rest_is_judged_by(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(write_zero=[crash("write-zero"), crash("write-zero")])
    monkeypatch.setattr(play, "play", lab.play)
    monkeypatch.setattr(api, "check_emulator", lambda machine: None)
    monkeypatch.setattr(kernels, "find", lambda spec: Kernel(spec, "6.1", Path(), {}))
    run = api.run_in_lab("debian:6.1", NAMES)
    again = run.judged_by("mainline-before-6.7")
    assert [run.result("write-zero"), again.result("write-zero")] == [run.failed[0]] * 2
    assert again.result("young-restore").verdict is Verdict.FAIL


def test_a_fault_that_does_not_come_again_is_told_beside_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(write_zero=[crash("write-zero")])
    monkeypatch.setattr(play, "play", lab.play)
    scenarios = [SCENARIOS[name] for name in NAMES]
    played = runs.play_on(Kernel("made-up", "6.1", Path(), {}), AMD, scenarios, Expectation())
    assert [each.verdict for each in played.results] == [Verdict.PASS] * len(NAMES)
    assert played.notes == (f"the kernel oopsed during write-zero: {OOPS}", OOPS)


@pytest.mark.parametrize(
    ("second", "on", "verdict"),
    [
        (crash("write-zero", LOCKUP, "a CPU was locked up"), AMD, "FAIL"),
        # Where time is the host's, that may be the host's doing.
        (crash("write-zero", LOCKUP, "a CPU was locked up"), AMD_SMP, "LOST"),
        # Another fault than the first time.
        (crash("write-zero"), AMD, "LOST"),
        # A machine that hangs without a word of the kernel's.
        (crash("write-zero", ""), AMD, "LOST"),
        (LostMachineError("the emulator was killed by signal 9, 3 times", []), AMD, "LOST"),
        (LabError("the cache is gone"), AMD, "LOST"),
    ],
)
def test_only_the_same_fault_of_the_kernel_is_held_against_it(
    monkeypatch: pytest.MonkeyPatch, second: Exception, on: Machine, verdict: str
) -> None:
    first = crash("write-zero", LOCKUP, "a CPU was locked up")
    if isinstance(second, CrashError) and second.fault is None:
        first = crash("write-zero", "")
    found = results_of(Lab(write_zero=[first, second]), monkeypatch, on=on)
    assert verdicts(found) == ["PASS", "PASS", verdict, "PASS", "PASS"]
    assert found["write-zero"].reason.startswith(str(first))


def test_a_scenario_alone_that_crashes_twice_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(write_zero=[crash("write-zero"), crash("write-zero")])
    assert verdicts(results_of(lab, monkeypatch, ["write-zero"])) == ["FAIL"]
    assert len(lab.played) == 2


def test_a_kernel_that_crashes_in_everything_is_given_up_after_some(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(**{name.replace("-", "_"): [crash(name)] * 9 for name in NAMES})
    found = results_of(lab, monkeypatch)
    assert verdicts(found) == ["FAIL"] * crashes.MOST_SUSPECTS + ["LOST"] * (
        len(NAMES) - crashes.MOST_SUSPECTS
    )
    assert found["qemu-pair-old"].reason.startswith("the kernel crashed during young-restore, old-restore, ")
    assert len(lab.played) == 2 * crashes.MOST_SUSPECTS


def test_an_inconclusive_scenario_that_crashes_when_it_is_played_again_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Flaky(Lab):
        def play(self, kernel: Kernel, on: Machine, scenarios: Sequence[Scenario]) -> Session:
            made = super().play(kernel, on, scenarios)
            if len(self.played) > 1:
                return made
            cut = {name: Trace(name, "made-up", ()) for name in ("old-restore", "write-zero")}
            return replace(made, traces={**made.traces, **cut})

    lab = Flaky(old_restore=[None, crash("old-restore"), crash("old-restore")])
    found = results_of(lab, monkeypatch)
    assert verdicts(found) == ["PASS", "FAIL", "PASS", "PASS", "PASS"]
    assert lab.played[1:] == [["old-restore", "write-zero"], ["write-zero"], ["old-restore"]]


@pytest.mark.parametrize("trouble", [LabError("the cache is gone"), LostMachineError("it hung", ["words"])])
def test_what_goes_wrong_in_a_second_attempt_leaves_the_verdicts_of_the_first(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    class Flaky(Lab):
        def play(self, kernel: Kernel, on: Machine, scenarios: Sequence[Scenario]) -> Session:
            if self.played:
                raise trouble
            made = super().play(kernel, on, scenarios)
            return replace(made, traces={**made.traces, "write-zero": Trace("write-zero", "made-up", ())})

    expected = ["PASS", "PASS", "INCONCLUSIVE", "PASS", "PASS"]
    assert verdicts(results_of(Flaky(), monkeypatch)) == expected


def test_a_kernel_that_lacks_something_is_no_lost_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError, match="no module"):
        results_of(Lab(young_restore=[LabError("no module")]), monkeypatch)


# One boot


PLAYED = "[    1.0] kvmharness plays probe\n[    1.1] kvmharness plays young-restore\n"


@pytest.mark.parametrize(
    ("boot", "during"),
    [
        (Boot(0, f"{PLAYED}[    1.2] {OOPS}\n", b"", 1), "young-restore"),
        (Boot(None, PLAYED, b"", 1, ended="the machine hung"), "young-restore"),
        (Boot(FINISHED, f"{PLAYED}[    1.2] {OOPS}\n", b"cut off", 1), "young-restore"),
        # Before any, after all, by somebody else, or misunderstood.
        (Boot(0, f"[    0.2] {OOPS}\n", b"", 1), ""),
        (Boot(0, f"[    1.0] kvmharness plays probe\n[    1.2] {OOPS}\n", b"", 1), ""),
        (Boot(0, f"{PLAYED}[    1.2] {OOPS}\n", b"whole", 1), ""),
        (Boot(-9, PLAYED, b"", 1), ""),
        (Boot(FINISHED, PLAYED, b"damaged", 1), ""),
    ],
)
def test_a_boot_that_is_lost_names_the_scenario_where_one_was_played(
    monkeypatch: pytest.MonkeyPatch, boot: Boot, during: str
) -> None:
    scenarios = [SCENARIOS["young-restore"]]
    number = play.job_for(scenarios).number
    if boot.results == b"whole":
        boot = replace(
            boot, results=protocol.encode(number, ["probe"]) + protocol.encode(number, protocol.END)
        )
    boots: list[Boot] = []

    def booted(*_: object, **__: object) -> Boot:
        boots.append(boot)
        return boot

    monkeypatch.setattr(machine, "boot", booted)
    monkeypatch.setattr(play, "image_for", lambda *_: b"")
    with pytest.raises(LostError) as lost:
        play.play(Kernel("made-up", "6.1", Path(), {}), AMD.without_snapshots, scenarios)
    assert getattr(lost.value, "scenario", "") == during
    assert len(boots) == (1 if during else play.ATTEMPTS)


def test_a_run_from_a_snapshot_that_is_lost_accuses_no_scenario(
    monkeypatch: pytest.MonkeyPatch, cache_root: Path
) -> None:
    """It may be the snapshot's doing: the next attempt boots."""
    (vmlinux := cache_root.parent / "vmlinux").touch()
    boots: list[bool] = []

    def booted(on: Machine, *_: object, **__: object) -> Boot:
        boots.append(on.emulator.keeps_snapshots)
        return Boot(0, f"{PLAYED}[    1.2] {OOPS}\n", b"", 1)

    monkeypatch.setattr(machine, "boot", booted)
    monkeypatch.setattr(play, "image_for", lambda *_: b"")
    with pytest.raises(CrashError):
        play.play(Kernel("made-up", "6.1", vmlinux.parent, {}), AMD, [SCENARIOS["young-restore"]])
    assert boots == [True, False]
