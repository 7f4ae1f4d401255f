# SPDX-License-Identifier: GPL-2.0-or-later
"""How KVM_RUN came back: recorded with the step, and told by the judge, claims and verdicts.

A deadline says nothing of a kernel. A guest of ours that ends in any other way than by its OUT was not run as
it should be, and that is the kernel's doing.
"""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmharness import script
from kvmharness.contract import OffsetClaim, ReadsClaim, Status, check_all
from kvmharness.kvm import Exit, KvmError, System, Vcpu, ioctls
from kvmharness.player import player
from kvmharness.player.threads import PlayerError
from kvmharness.script import CreateVcpu, GuestWrite, Operation, Run, RunTogether, SetTscKhz, Sleep
from kvmharness.trace import Event, GuestExit, Trace, from_lines, from_played, to_lines
from tests.command_line import Capture, one_line, status_of
from tests.hand_worked import KHZ, MS, create, judged, possible, step

IO, INTR, SHUTDOWN = GuestExit("IO"), GuestExit("INTR"), GuestExit("SHUTDOWN")
FAIL_ENTRY = GuestExit("FAIL_ENTRY", 0x80000021)


def play(system: System, *operations: Operation) -> tuple[Event, ...]:
    steps = player.Player(system).play([script.to_json(operation) for operation in operations])
    return from_played("test", "release", steps).events


# The player


@pytest.mark.kvm
def test_a_guest_that_exits_and_one_that_is_stopped_are_recorded_so(system: System) -> None:
    _, _, _, exits, endless, writes = play(
        system,
        CreateVcpu(vcpu=0),
        CreateVcpu(vcpu=1, guest="ring-16"),
        CreateVcpu(vcpu=2, guest="wrmsr-16"),
        Run(vcpu=0),
        Run(vcpu=1, ns=MS),
        GuestWrite(vcpu=2, msr="TSC", value=5),
    )
    assert (exits.exits, endless.exits, writes.exits) == ((IO,), (INTR,), (IO,))


@pytest.mark.kvm
def test_each_of_several_vcpus_has_its_exit(system: System) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("missing capability: a second CPU")
    *_, met = play(
        system,
        CreateVcpu(vcpu=0, guest="warp-64"),
        CreateVcpu(vcpu=3, guest="warp-64"),
        RunTogether(vcpus=(3, 0), ns=MS),
    )
    assert met.exits == (INTR, INTR)


@pytest.mark.kvm
def test_what_runs_no_guest_has_no_exit(system: System) -> None:
    created, waited, refused = play(
        system, CreateVcpu(vcpu=0), Sleep(ns=1), GuestWrite(vcpu=0, msr="TSC", value=5)
    )
    assert refused.error == "EINVAL"
    assert (created.exits, waited.exits, refused.exits) == ((), (), ())


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("reason", "exit_"),
    [
        (Exit.SHUTDOWN, SHUTDOWN),
        (Exit.HLT, GuestExit("HLT")),
        (Exit.FAIL_ENTRY, FAIL_ENTRY),
        (Exit.INTERNAL_ERROR, GuestExit("INTERNAL_ERROR", 1)),
        (Exit.UNKNOWN, GuestExit("UNKNOWN", 0x80000021)),
        (37, GuestExit("exit-37")),
    ],
)
def test_any_exit_is_recorded_by_its_name_with_what_kvm_says_of_it(
    system: System, monkeypatch: pytest.MonkeyPatch, reason: int, exit_: GuestExit
) -> None:
    def run(vcpu: Vcpu, timeout_ns: int) -> int:
        if reason == Exit.INTERNAL_ERROR:
            vcpu.shared.internal.suberror = 1
        else:
            vcpu.shared.hw.hardware_exit_reason = 0x80000021  # of a union
        return reason

    monkeypatch.setattr(Vcpu, "run", run)
    _, ran = play(system, CreateVcpu(vcpu=0), Run(vcpu=0))
    assert (ran.exits, ran.values) == ((exit_,), ())


@pytest.mark.kvm
def test_a_run_that_fails_has_an_errno_and_no_exit(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(vcpu: Vcpu, timeout_ns: int) -> int:
        raise KvmError(ioctls.RUN, errno.EFAULT)

    monkeypatch.setattr(Vcpu, "run", run)
    _, ran = play(system, CreateVcpu(vcpu=0), Run(vcpu=0))
    assert (ran.exits, ran.error) == ((), "EFAULT")


# The judge and the claims


def ran(at: int, *values: int, exits: tuple[GuestExit, ...], label: str = "run") -> Event:
    return replace(step(Run(vcpu=0, label=label), at, *values), exits=exits)


def test_a_deadline_leaves_open_whether_the_guest_was_entered() -> None:
    assert possible(create(1000 * MS), ran(1010 * MS, exits=(INTR,)))


@pytest.mark.parametrize("end", [SHUTDOWN, FAIL_ENTRY, GuestExit("INTERNAL_ERROR", 1), GuestExit("exit-37")])
def test_a_guest_that_did_not_survive_is_possible_under_no_policy(end: GuestExit) -> None:
    for policy in ("mainline-6.7", "tsc-protected", "like-xu-v1"):
        judgement = judged(create(1000 * MS), ran(1010 * MS, exits=(end,)), policy=policy)
        assert judgement.step == 2
        assert judgement.mismatch
        assert judgement.mismatch.observed == f"KVM_RUN came back with {end.text}"
        assert judgement.mismatch.expected == "KVM_RUN comes back with IO, or at its deadline"


def test_the_hardwares_reason_is_in_the_text() -> None:
    assert FAIL_ENTRY.text == "FAIL_ENTRY (0x80000021)"


def test_a_guest_whose_instruction_a_cpu_may_refuse_may_end_anyhow() -> None:
    created = step(CreateVcpu(vcpu=0, guest="rdtscp-16"), 1000 * MS, KHZ)
    assert possible(created, ran(1010 * MS, exits=(GuestExit("INTERNAL_ERROR", 1),)))


CLAIM = OffsetClaim(text="a guest reads its TSC", seen=("run",), expected=("create",))


def trace(*events: Event) -> Trace:
    return Trace("test", "release", (step(CreateVcpu(vcpu=0, label="create"), 1000 * MS, KHZ), *events))


def test_a_claim_says_that_the_deadline_came() -> None:
    played = trace(ran(1010 * MS, exits=(INTR,)))
    for claim in (CLAIM, ReadsClaim(text="it reads", seen="run")):
        for finding in (claim.check(played), *check_all([claim], played)):
            assert finding.status is Status.UNDECIDED
            assert finding.reason == "the guest of step 'run' read nothing: its deadline came"


def test_userspace_is_entitled_to_a_guest_that_survives() -> None:
    played = trace(ran(1010 * MS, exits=(SHUTDOWN,)))
    (finding,) = check_all([CLAIM], played)
    assert finding.status is Status.BROKEN
    assert finding.step == 2
    assert finding.reason == "the guest of step 2 did not survive: KVM_RUN came back with SHUTDOWN"


def test_what_a_kvm_can_do_is_not_told_by_a_guest_that_did_not_survive() -> None:
    finding = CLAIM.check(trace(ran(1010 * MS, exits=(SHUTDOWN,))))
    assert finding.status is Status.UNDECIDED
    assert finding.reason.endswith("read nothing: KVM_RUN came back with SHUTDOWN")


def test_an_instruction_that_is_refused_is_missing_and_the_exit_is_named() -> None:
    claim = ReadsClaim(text="RDTSCP", seen="run")
    assert claim.check(trace(ran(1010 * MS, exits=(IO,)))).status is Status.BROKEN
    finding = claim.check(trace(ran(1010 * MS, exits=(GuestExit("INTERNAL_ERROR", 1),))))
    assert finding.status is Status.BROKEN
    assert finding.reason.endswith("KVM_RUN came back with INTERNAL_ERROR (0x1)")


# Verdicts of whole sessions, as they are saved


Lines = list[dict[str, Any]]


def saved(made_up_host: Callable[..., None], folder: Path, capsys: Capture) -> tuple[Path, Lines]:
    made_up_host()
    assert status_of("run", "old-restore", "--save-traces", str(folder)) == 0
    capsys.readouterr()
    (path,) = folder.iterdir()
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def judged_with(
    path: Path, lines: Lines, change: Callable[[dict[str, Any]], bool], exit_: list[Any], capsys: Capture
) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and results, with steps changed so that their guests end like this, having read nothing."""
    for line in lines:
        if line.get("exits") and change(line["op"]):
            line["exits"] = [exit_]
            line.pop("values", None)
    # Two sessions: in real time a failure has to come twice.
    path.write_text("".join(json.dumps(line) + "\n" for line in (*lines, *lines)))
    status = status_of("judge", "--format", "json", str(path))
    (kernel,) = json.loads(capsys.readouterr().out)["kernels"]
    return status, kernel["results"]


@pytest.mark.parametrize("exit_", [["SHUTDOWN"], ["FAIL_ENTRY", 7], ["INTERNAL_ERROR", 1]])
@pytest.mark.parametrize("where", ["guest-16", "guest-64", "guest-written", "guest"])
def test_a_guest_that_dies_is_a_fail_that_names_the_exit_and_no_missing_capability(
    made_up_host: Callable[..., None], tmp_path: Path, capsys: Capture, exit_: list[Any], where: str
) -> None:
    path, lines = saved(made_up_host, tmp_path, capsys)
    status, results = judged_with(path, lines, lambda op: op["label"] == where, exit_, capsys)
    assert status == 1
    assert "SKIP" not in {each["verdict"] for each in results}
    failed = [each for each in results if each["verdict"] == "FAIL"]
    assert failed
    assert all(exit_[0] in json.dumps(each) for each in failed)


@pytest.mark.parametrize("where", ["guest-16", "guest"])
def test_a_guest_that_is_stopped_by_its_deadline_makes_the_scenario_inconclusive(
    made_up_host: Callable[..., None], tmp_path: Path, capsys: Capture, where: str
) -> None:
    path, lines = saved(made_up_host, tmp_path, capsys)
    status, results = judged_with(path, lines, lambda op: op["label"] == where, ["INTR"], capsys)
    assert status == 4
    assert {each["verdict"] for each in results} == {"INCONCLUSIVE"}
    assert all("its deadline came" in each["reason"] for each in results)


# An errno without a name


@pytest.mark.kvm
def test_an_errno_that_python_has_no_name_for_keeps_its_number(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise KvmError(ioctls.VCPU_SET_TSC_KHZ, 524)  # ENOTSUPP of include/linux/errno.h

    monkeypatch.setattr(Vcpu, "set_tsc_khz", refuse)
    _, refused = play(system, CreateVcpu(vcpu=0), SetTscKhz(vcpu=0, khz=1))
    assert refused.error == "errno-524"


def test_an_errno_without_a_name_goes_through_the_file_and_into_the_judges_words() -> None:
    refused = step(SetTscKhz(vcpu=0, khz=1_000_000), 1010 * MS, 1_000_000, error="errno-524")
    played = trace(refused)
    assert list(from_lines(to_lines(played))) == [played]
    judgement = judged(create(1000 * MS), refused)
    assert judgement.mismatch
    assert judgement.mismatch.observed == "errno-524"


# A fault of the player


@pytest.mark.kvm
def test_a_fault_in_a_thread_ends_the_play_and_nothing_is_recorded_as_done(
    system: System, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("missing capability: a second CPU")

    def run(vcpu: Vcpu, timeout_ns: int) -> int:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Vcpu, "run", run)
    pair = (CreateVcpu(vcpu=0, guest="warp-64"), CreateVcpu(vcpu=1, guest="warp-64"))
    with pytest.raises(
        PlayerError, match="a thread of the player failed: ZeroDivisionError: a fault of ours"
    ):
        play(system, *pair, RunTogether(vcpus=(0, 1)))
    assert capsys.readouterr().err == ""


@pytest.mark.kvm
def test_a_fault_in_a_thread_is_one_line_and_status_2(
    system: System, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def write(vcpu: Vcpu, values: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Vcpu, "set_msrs", write)
    monkeypatch.delenv("KVMHARNESS_DEBUG", raising=False)
    assert status_of("run", "crosvm-restore") == 2
    assert "a fault of ours" in one_line(capsys.readouterr().err)


@pytest.mark.kvm
def test_a_vm_that_cannot_be_given_back_in_the_background_ends_the_play(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(stage: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("kvmharness.player.stage.Stage.close", close)
    with pytest.raises(PlayerError, match="a fault of ours"):
        play(system, CreateVcpu(vcpu=0))
