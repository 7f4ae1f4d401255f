# SPDX-License-Identifier: GPL-2.0-or-later
"""Errnos that say nothing about a kernel, and those that do where nobody else can have caused them."""

import dataclasses

import pytest

from kvmharness.contract import EndClaim, Status
from kvmharness.judging import kvm
from kvmharness.judging.judge import judge_probe
from kvmharness.judging.judge import judge_scenario as verdict_of
from kvmharness.judging.verdict import BY_CONTRACTS, MAINLINE, Expectation, Verdict
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import GetClock
from kvmharness.trace import Bracket, Event, Place, Trace
from tests.made_up import play, probe, with_step

LAB = Place("debian:6.12", "amd", "0", may_protect_tscs=False, counts_instructions=True)
REAL_TIME = dataclasses.replace(LAB, machine="amd-smp", counts_instructions=False)
SHORTAGES = ("ENOMEM", "EINTR", "EMFILE", "ENFILE")
OF_OTHERS = ("EBUSY", "EPERM", "EACCES", "EAGAIN", "ENOSPC")
# One step of each kind, as a scenario plays it.
KINDS = {
    each.operation.name: (name, number)
    for name, scenario in reversed(SCENARIOS.items())
    for number, each in enumerate(play(name, scenario.script, host=scenario.host).events)
    if each.values
}


def failing(name: str, number: int, error: str, place: Place | None) -> Trace:
    """The trace of a scenario up to a step, which fails."""
    scenario = SCENARIOS[name]
    events = play(name, scenario.script, host=scenario.host).events[: number + 1]
    operation = events[-1].operation
    values = events[-1].values if operation.written(events[-1].values, "") else ()
    last = dataclasses.replace(events[-1], error=error, values=values)
    return Trace(name, "made-up", (*events[:-1], last), place)


def possibility(name: str, number: int, error: str, place: Place | None) -> Possibility:
    trace = failing(name, number, error, place)
    return judge(trace, POLICIES["mainline-6.7"], SCENARIOS[name].host).possibility


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_only_kvm_can_have_answered_is_held_against_it_where_nobody_else_runs(kind: str) -> None:
    for error in OF_OTHERS:
        assert possibility(*KINDS[kind], error, LAB) is Possibility.IMPOSSIBLE, error
        assert possibility(*KINDS[kind], error, REAL_TIME) is Possibility.UNDECIDED, error
        assert possibility(*KINDS[kind], error, None) is Possibility.UNDECIDED, error


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_shortage_is_held_against_no_kernel(kind: str) -> None:
    for error in SHORTAGES:
        for place in (LAB, REAL_TIME, None):
            assert possibility(*KINDS[kind], error, place) is Possibility.UNDECIDED, error


@pytest.mark.parametrize("error", SHORTAGES + OF_OTHERS)
def test_a_step_that_was_cut_off_breaks_no_contract(error: str) -> None:
    claim = EndClaim(text="it is answered", seen="clock")
    event = Event(GetClock(label="clock"), Bracket(1, 1, 1, 1), error=error)
    assert claim.check(Trace("a", "", (event,))).status is Status.UNDECIDED
    in_the_lab = claim.check(Trace("a", "", (event,), LAB)).status
    assert in_the_lab is (Status.UNDECIDED if error in SHORTAGES else Status.BROKEN)
    # A claim that names the errno means it.
    named = EndClaim(text="it is refused", seen="clock", errors=(error,))
    assert named.check(Trace("a", "", (event,))).status is Status.KEPT


def test_by_the_contracts_alone_an_interrupted_step_is_inconclusive() -> None:
    name = "khz-refused"
    scenario = SCENARIOS[name]
    label = next(each.seen for each in scenario.claims if isinstance(each, EndClaim))
    trace = play(name, scenario.script)
    events = [
        dataclasses.replace(each, error="EINTR") if each.operation.label == label else each
        for each in trace.events
    ]
    cut_off = dataclasses.replace(trace, events=tuple(events))
    here = kvm.seen(probe(host=HOST), BY_CONTRACTS)
    assert verdict_of(scenario, trace, here).verdict is not Verdict.INCONCLUSIVE
    assert verdict_of(scenario, cut_off, here).verdict is Verdict.INCONCLUSIVE


def test_where_a_trace_says_that_nothing_protects_a_tsc_nothing_excuses_ignored_writes() -> None:
    probed = probe("tsc-protected")
    there = dataclasses.replace(
        probed, traces=tuple(dataclasses.replace(each, place=LAB) for each in probed.traces)
    )
    assert kvm.seen(probed, MAINLINE).divergences == {}
    assert kvm.seen(there, MAINLINE).divergences
    assert kvm.seen(there, Expectation(POLICIES["tsc-protected"])).divergences == {}


@pytest.mark.parametrize("error", ["EIO", "errno-524"])
@pytest.mark.parametrize("label", ["tsc-new", "tsc-aged"])
def test_a_probe_that_cannot_read_a_tsc_is_a_fault_whatever_the_host_is(label: str, error: str) -> None:
    found = kvm.seen(with_step(probe(), label, error=error, values=()))
    assert "could not decide stable-tsc" in found.doubt
    (failed,) = judge_probe(found)
    assert (failed.scenario, failed.verdict) == ("probe", Verdict.FAIL)
    assert f"observed {error}" in failed.reason


def test_a_probe_whose_reading_was_interrupted_is_no_fault() -> None:
    assert judge_probe(kvm.seen(with_step(probe(), "tsc-aged", error="EINTR", values=()))) == []
