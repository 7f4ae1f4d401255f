# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions: what is played again, what is played together, and what a verdict then rests on."""

import dataclasses
from collections.abc import Callable, Sequence

from kvmharness.judging.identity import Identity
from kvmharness.judging.probe import PROBES
from kvmharness.judging.session import ATTEMPTS, LostError, Session, rounds, settle
from kvmharness.judging.verdict import Verdict
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.trace import Trace
from tests.made_up import probe, session


def test_what_is_inconclusive_is_played_again_and_only_that() -> None:
    scenarios = [SCENARIOS["old-restore"], SCENARIOS["young-restore"]]
    played: list[list[str]] = []

    def flaky(wanted: Sequence[Scenario]) -> Session:
        played.append([each.name for each in wanted])
        traces = dict(session(wanted).traces)
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
        traces = session(wanted).traces
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


def names_of(scenarios: Sequence[Scenario]) -> list[list[str]]:
    return [[name for name, _ in scripts] for scripts in rounds(scenarios)]


def test_scenarios_are_played_behind_the_probe_together_unless_they_ask_to_be_alone() -> None:
    young, old, zero = (SCENARIOS[name] for name in ("young-restore", "old-restore", "write-zero"))
    first, last = (dataclasses.replace(each, alone=True) for each in (young, zero))
    assert names_of([young, old, zero]) == [[*PROBES], ["young-restore", "old-restore", "write-zero"]]
    assert names_of([first, old, last]) == [[*PROBES], ["old-restore"], ["young-restore"], ["write-zero"]]
    assert names_of([]) == [[*PROBES]]


def test_what_was_inconclusive_in_company_is_played_again_alone() -> None:
    scenarios = [SCENARIOS["old-restore"], SCENARIOS["young-restore"], SCENARIOS["write-zero"]]
    played: list[list[list[str]]] = []

    def disturbed(wanted: Sequence[Scenario]) -> Session:
        played.append(names_of(wanted))
        made = session(wanted)
        held_up = {each.name: Trace(each.name, "made-up", ()) for each in wanted if not each.alone}
        return Session(made.probe, {**made.traces, **held_up})

    outcome = settle(scenarios, disturbed)
    assert [each.verdict for each in outcome.results] == [Verdict.PASS] * 3
    assert played[1] == [[*PROBES], ["old-restore"], ["young-restore"], ["write-zero"]]


def as_no_kernel_would(trace: Trace) -> Trace:
    """The trace, but for its last value."""
    last = trace.events[-1]
    return dataclasses.replace(
        trace, events=(*trace.events[:-1], dataclasses.replace(last, values=(*last.values[:-1], 12_345)))
    )


def plays_of_young_restore(*failing: bool) -> tuple[list[list[str]], Callable[[Sequence[Scenario]], Session]]:
    """What was played, so far nothing, and a player whose nth play of young-restore is impossible, or not."""
    played: list[list[str]] = []

    def play_it(wanted: Sequence[Scenario]) -> Session:
        made = session(wanted)
        fails = failing[len(played)]
        played.append([each.name for each in wanted])
        odd = {"young-restore": as_no_kernel_would(made.traces["young-restore"])} if fails else {}
        return Session(made.probe, {**made.traces, **odd})

    return played, play_it


OLD_AND_YOUNG = [SCENARIOS["old-restore"], SCENARIOS["young-restore"]]


def test_in_real_time_a_fail_that_nothing_explains_and_that_does_not_come_again_is_inconclusive() -> None:
    played, play_it = plays_of_young_restore(True, False)
    outcome = settle(OLD_AND_YOUNG, play_it, confirm=True)
    assert played == [["old-restore", "young-restore"], ["young-restore"]]
    assert [each.verdict for each in outcome.results] == [Verdict.PASS, Verdict.INCONCLUSIVE]
    assert outcome.results[1].reason.startswith("it failed once and did not fail again: ")
    # What is saved is what failed; a kernel is known by the rest.
    assert outcome.sessions["young-restore"].traces["young-restore"].events[-1].values[-1] == 12_345
    assert outcome.identity
    assert "mainline-6.7" in outcome.identity.behaves_as


def test_in_real_time_a_fail_that_nothing_explains_stands_when_it_comes_again() -> None:
    played, play_it = plays_of_young_restore(True, True)
    outcome = settle(OLD_AND_YOUNG, play_it, confirm=True)
    assert len(played) == 2
    assert outcome.results[1].verdict is Verdict.FAIL
    assert outcome.identity == Identity(())


def test_in_real_time_a_fail_that_another_policy_explains_has_to_come_twice_as_well() -> None:
    calls: list[int] = []

    def before(wanted: Sequence[Scenario]) -> Session:
        calls.append(len(wanted))
        return session(wanted, "mainline-before-6.7")

    outcome = settle(OLD_AND_YOUNG, before, confirm=True)
    assert calls == [2, 1]
    assert outcome.results[1].verdict is Verdict.FAIL
    assert "mainline-before-6.7" in outcome.results[1].consistent_with


def test_where_two_runs_are_the_same_a_fail_is_played_once() -> None:
    played, play_it = plays_of_young_restore(True)
    assert settle(OLD_AND_YOUNG, play_it).results[1].verdict is Verdict.FAIL
    assert len(played) == 1


def test_a_fail_that_nothing_explains_is_not_confirmed_by_a_machine_that_was_lost() -> None:
    played, play_it = plays_of_young_restore(True)

    def lost_later(wanted: Sequence[Scenario]) -> Session:
        if played:
            raise LostError("gone")
        return play_it(wanted)

    outcome = settle(OLD_AND_YOUNG, lost_later, confirm=True)
    assert [each.verdict for each in outcome.results] == [Verdict.PASS, Verdict.INCONCLUSIVE]
    assert outcome.results[1].reason.startswith("it failed once and could not be played again: ")
