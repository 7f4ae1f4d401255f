# SPDX-License-Identifier: GPL-2.0-or-later
"""From traces to verdicts, on made-up KVMs: one that honours every write, one that ignores them all."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from kvmharness import capabilities, script
from kvmharness.contract import State, check
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.session import ATTEMPTS, PROBE_NAME, LostError, Session, settle
from kvmharness.trace import Trace, from_played
from kvmharness.values import resolve
from kvmharness.verdict import Result, Verdict, exit_status, judge

KHZ = 1_000_000
WIDTH = 1000


def play(
    name: str,
    operations: script.Script,
    *,
    honours_writes: bool = True,
    honours_offsets: bool = True,
    drifts: int = 0,
    errno: str = "",
    young_writes_snap: bool = False,
    held_up: tuple[str, int] = ("", 0),
) -> Trace:
    """A made-up KVM: no synchronization, a host of 1 GHz, every step 1000 cycles and 5000 after the last.

    With `drifts`, every read moves the offset by so many cycles; with `errno`, the offset attribute fails;
    with `young_writes_snap`, a write within a second of what the vCPU counts is overridden, as before 6.7;
    `held_up` is a label and how many ns late the player comes to that step.
    """
    now, offsets, read, steps = 10**9, dict[int, int](), dict[str, int](), []
    for operation in operations:
        data: dict[str, Any] = script.to_json(operation)
        now += held_up[1] if operation.label and operation.label == held_up[0] else 0
        vcpu, begin, values, error = data.get("vcpu", 0), now, list[int](), ""
        middle = begin + WIDTH // 2
        match data["op"]:
            case "create_vcpu":
                offsets[vcpu], values = 0 if not honours_writes else -middle, [KHZ]
            case "sleep":
                now += data["ns"]
            case "set_msrs":
                values = [resolve(data["msrs"][0][1], KHZ, read)]
                snaps = young_writes_snap and abs(values[0] - middle - offsets[vcpu]) < 10**9
                offsets[vcpu] = values[0] - middle if honours_writes and not snaps else offsets[vcpu]
            case "get_clock":
                values = [now, 14]
            case "get_msrs" | "run":
                offsets[vcpu] += drifts
                values = [(middle + offsets[vcpu]) % 2**64]
            case "set_tsc_offset" if "offset-new" in read or "offset-before" in read:
                values, error = [resolve(data["offset"], KHZ, read)], errno
                offsets[vcpu] = values[0] if honours_offsets else offsets[vcpu]
            case "get_tsc_offset":
                values, error = ([], errno) if errno else ([offsets[vcpu] % 2**64], "")
            case "set_tsc_offset":
                break
        now += WIDTH
        step: dict[str, Any] = {"op": data, "tsc": [begin, now], "ns": [begin, now]}
        if values:
            step["values"] = values
            read.setdefault(data.get("label", ""), values[0])
        if error:
            step["errno"] = error
        steps.append(step)
        now += 5000
    return from_played(name, "made-up", steps)


def probe(**how: Any) -> Trace:
    return play(PROBE_NAME, capabilities.PROBE, **how)


def states(trace: Trace) -> dict[str, State]:
    return {name: finding.state for name, finding in capabilities.findings(trace).items()}


def test_a_kvm_that_honours_writes_has_every_capability() -> None:
    assert set(states(probe()).values()) == {State.KEPT}


def test_a_kvm_that_ignores_writes_is_found_out_by_effect() -> None:
    found = states(probe(honours_writes=False, honours_offsets=False))
    assert found == {
        "stable-tsc": State.KEPT,
        "guest-16": State.KEPT,
        "guest-64": State.KEPT,
        "tsc-write": State.BROKEN,
        "tsc-offset": State.BROKEN,
    }


def test_an_unstable_tsc_is_found_out_by_effect() -> None:
    assert states(probe(drifts=50_000))["stable-tsc"] is State.BROKEN


@pytest.mark.parametrize("errno", ["EINVAL", "ENXIO"])
def test_a_kernel_without_the_offset_attribute_lacks_that_alone(errno: str) -> None:
    # EINVAL is what a real 5.10 answers.
    found = states(probe(errno=errno))
    assert [name for name, state in found.items() if state is not State.KEPT] == ["tsc-offset"]


HONEST = ("young-restore", "old-restore", "offset-across-run")


@pytest.mark.parametrize("name", HONEST)
def test_a_kvm_that_honours_every_write_passes(name: str) -> None:
    scenario = SCENARIOS[name]
    assert judge(scenario, play(name, scenario.script), probe()).verdict is Verdict.PASS


@pytest.mark.parametrize("name", ["qemu-pair-old", "qemu-pair-young", "hotplug-after-restore"])
def test_a_kvm_that_never_synchronizes_fails_what_needs_it(name: str) -> None:
    scenario = SCENARIOS[name]
    result = judge(scenario, play(name, scenario.script), probe())
    assert result.verdict is Verdict.FAIL
    assert result.step > 0


def test_a_kvm_that_drops_the_write_fails_the_restore() -> None:
    scenario = SCENARIOS["young-restore"]
    steps = play(scenario.name, scenario.script).events
    # As if the write had not been there: read from the same KVM without it.
    without = tuple(each for each in scenario.script if each.label != "restore")
    unwritten = {each.operation.label: each for each in play(scenario.name, without).events}
    dropped = Trace(
        scenario.name,
        "made-up",
        tuple(
            each
            if each.operation.label in ("restore", "")
            else dataclasses.replace(each, values=unwritten[each.operation.label].values)
            for each in steps
        ),
    )
    result = judge(scenario, dropped, probe())
    assert result.verdict is Verdict.FAIL
    assert "still counts from its creation" in result.reason


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_kvm_cannot_do_is_skipped_by_name(name: str) -> None:
    scenario = SCENARIOS[name]
    trace = play(name, scenario.script, honours_writes=False, honours_offsets=False)
    result = judge(scenario, trace, probe(honours_writes=False, honours_offsets=False))
    assert result.verdict is Verdict.SKIP
    assert result.reason in {capability.missing for capability in capabilities.CAPABILITIES.values()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_unstable_tsc_fails_nothing(name: str) -> None:
    scenario = SCENARIOS[name]
    trace = play(name, scenario.script, drifts=50_000)
    assert judge(scenario, trace, probe(drifts=50_000)).verdict is Verdict.SKIP


def test_a_kernel_before_6_7_fails_the_young_restore() -> None:
    scenario = SCENARIOS["young-restore"]
    trace = play(scenario.name, scenario.script, young_writes_snap=True)
    assert judge(scenario, trace, probe(young_writes_snap=True)).verdict is Verdict.FAIL


@pytest.mark.parametrize(("name", "label"), [("young-restore", "restore"), ("qemu-pair-young", "restore-0")])
def test_a_player_that_was_held_up_proves_nothing(name: str, label: str) -> None:
    # Two seconds late the VM is young no longer, and a kernel before 6.7 keeps the written value too.
    scenario = SCENARIOS[name]
    trace = play(name, scenario.script, young_writes_snap=True, held_up=(label, 2 * 10**9))
    finding = check(scenario.claims[0], trace)
    assert finding.state is State.UNDECIDED
    assert "too far for this to say anything" in finding.reason


def test_a_probe_that_could_not_tell_is_no_missing_capability() -> None:
    scenario = SCENARIOS["young-restore"]
    unsure = probe()
    failed = [
        dataclasses.replace(each, error="ENOMEM") if each.operation.label == "write" else each
        for each in unsure.events
    ]
    unsure = dataclasses.replace(unsure, events=tuple(failed))
    result = judge(scenario, play(scenario.name, scenario.script), unsure)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason == "the probe could not tell tsc-write: write failed with ENOMEM"


def test_a_trace_of_another_script_is_not_judged() -> None:
    trace = play("old-restore", SCENARIOS["old-restore"].script)
    assert judge(SCENARIOS["young-restore"], trace, probe()).verdict is Verdict.INCONCLUSIVE


def test_a_trace_that_ended_early_is_not_judged() -> None:
    scenario = SCENARIOS["young-restore"]
    trace = play(scenario.name, scenario.script)
    cut = dataclasses.replace(trace, events=trace.events[:3])
    assert judge(scenario, cut, probe()).verdict is Verdict.INCONCLUSIVE


def results(*verdicts: Verdict) -> list[Result]:
    return [Result("s", verdict, "c") for verdict in verdicts]


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([Verdict.PASS, Verdict.SKIP], 0),
        ([Verdict.PASS, Verdict.INCONCLUSIVE], 0),
        ([Verdict.PASS, Verdict.FAIL, Verdict.LOST], 1),
        ([Verdict.PASS, Verdict.LOST], 3),
        ([Verdict.SKIP, Verdict.INCONCLUSIVE], 4),
        ([], 4),
    ],
)
def test_the_exit_status_is_that_of_the_gravest_verdict(verdicts: list[Verdict], status: int) -> None:
    assert exit_status(results(*verdicts)) == status


def test_what_is_inconclusive_is_played_again_and_only_that() -> None:
    scenarios = [SCENARIOS["old-restore"], SCENARIOS["young-restore"]]
    played: list[list[str]] = []

    def flaky(wanted: Sequence[Scenario]) -> Session:
        played.append([each.name for each in wanted])
        traces = {each.name: play(each.name, each.script) for each in wanted}
        if len(played) == 1:
            traces["young-restore"] = dataclasses.replace(
                traces["young-restore"], events=traces["young-restore"].events[:2]
            )
        return Session(probe(), traces)

    outcome = settle(scenarios, flaky)
    assert played == [["old-restore", "young-restore"], ["young-restore"]]
    assert [each.verdict for each in outcome.results] == [Verdict.PASS, Verdict.PASS]


def test_a_machine_lost_on_the_second_try_leaves_the_verdicts_of_the_first() -> None:
    scenarios = [SCENARIOS["old-restore"], SCENARIOS["young-restore"]]
    calls: list[int] = []

    def lost_later(wanted: Sequence[Scenario]) -> Session:
        calls.append(len(wanted))
        if len(calls) > 1:
            raise LostError("gone")
        traces = {each.name: play(each.name, each.script) for each in wanted}
        return Session(probe(), {**traces, "young-restore": Trace("young-restore", "made-up", ())})

    outcome = settle(scenarios, lost_later)
    assert [each.verdict for each in outcome.results] == [Verdict.PASS, Verdict.INCONCLUSIVE]


def test_what_stays_inconclusive_is_reported_so() -> None:
    scenario = SCENARIOS["old-restore"]
    calls: list[int] = []

    def hopeless(wanted: Sequence[Scenario]) -> Session:
        calls.append(len(wanted))
        return Session(probe(), {scenario.name: Trace(scenario.name, "made-up", ())})

    outcome = settle([scenario], hopeless)
    assert outcome.results[0].verdict is Verdict.INCONCLUSIVE
    assert len(calls) == ATTEMPTS
