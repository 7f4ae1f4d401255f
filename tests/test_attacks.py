# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to have a wrong thing said that an attack on the verdicts found; each says what has to be said."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kvmharness.contract import EntitledClaim
from kvmharness.judging import kvm
from kvmharness.judging.difference import compare_sessions, first_difference
from kvmharness.judging.judge import judge_scenario
from kvmharness.judging.probe import Probe
from kvmharness.judging.session import Session, SessionResult, judged
from kvmharness.judging.verdict import BY_CONTRACTS, MAINLINE, Verdict, exit_status
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import Pace, simulate
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.script import Operation
from kvmharness.trace import Event, GuestExit, Place, Trace
from tests.made_up import play, probe, session, with_step

LAB = Place("debian:6.12", "amd", "s", False, True, True)
ALL = list(SCENARIOS.values())
YOUNG, OLD = SCENARIOS["young-restore"], SCENARIOS["old-restore"]


def in_lab(of: Session) -> Session:
    """The session as if a machine had played it that counts instructions."""
    return Session(
        Probe(tuple(replace(each, place=LAB) for each in of.probe.traces)),
        {name: replace(each, place=LAB) for name, each in of.traces.items()},
    )


def verdicts(result: SessionResult) -> dict[str, Verdict]:
    return {each.scenario: each.verdict for each in result.results}


def settled(sessions: Sequence[Session], scenarios: Sequence[Scenario]) -> SessionResult:
    return judged(sessions, scenarios, MAINLINE, confirm=False)


def before_6_7(scenario: Scenario) -> Trace:
    return session([scenario], "mainline-before-6.7").traces[scenario.name]


def interrupted(trace: Trace) -> Trace:
    last = replace(trace.events[-1], error="EINTR", values=(), exits=())
    return replace(trace, events=(*trace.events[:-1], last))


@pytest.mark.parametrize(
    "name", ["offset-then-zero", "young-restore", "qemu-pair-old", "khz-change-then-write"]
)
def test_readings_of_debugfs_that_one_trace_lacks_are_no_difference(name: str) -> None:
    scenario = SCENARIOS[name]
    shown, not_shown = (
        simulate(name, scenario.script, POLICIES["mainline-6.7"], scenario.host, debugfs=each)
        for each in (True, False)
    )
    assert any(event.debugfs for event in shown.events)
    assert first_difference(shown, not_shown) is None
    assert first_difference(not_shown, shown) is None


def test_a_player_that_was_held_up_makes_no_difference() -> None:
    scenario = SCENARIOS["qemu-pair-old"]
    written = next(each for each in scenario.script if each.label == "restore-0")

    def at(pause_ns: int) -> Trace:
        pace = Pace(pause=2 * pause_ns)  # at 2 GHz
        return simulate(
            scenario.name,
            scenario.script,
            POLICIES["mainline-6.7"],
            scenario.host,
            pace=lambda step: pace if step is written else Pace(),
            debugfs=True,
        )

    assert first_difference(at(5_000), at(1_300_000_000)) is None


@pytest.mark.parametrize("policy", ["mainline-6.7", "mainline-before-6.7"])
@pytest.mark.parametrize("held_up_ms", [2, 30, 300])
def test_a_player_that_was_held_up_at_the_edge_of_the_second_makes_no_difference(
    held_up_ms: int, policy: str
) -> None:
    edges = [each for each in ALL if each.name.startswith(("window-", "first-write-", "write-after-run-"))]
    assert len(edges) == 10

    def at(scenario: Scenario, late: Operation | None) -> Session:
        pause = Pace(pause=2_000_000 * held_up_ms)  # at 2 GHz
        trace = simulate(
            scenario.name,
            scenario.script,
            POLICIES[policy],
            scenario.host,
            pace=lambda step: pause if step is late else Pace(),
            debugfs=True,
        )
        return Session(probe(policy, host=scenario.host), {scenario.name: trace})

    for scenario in edges:
        for late in scenario.script:
            found = compare_sessions([at(scenario, None)], [at(scenario, late)])
            assert found.differences == (), late


def test_where_no_two_runs_differ_a_trace_that_was_impossible_once_is_a_fail() -> None:
    wrong, right = in_lab(Session(probe(), {YOUNG.name: before_6_7(YOUNG)})), in_lab(session([YOUNG]))
    assert verdicts(settled([wrong, right], [YOUNG])) == {YOUNG.name: Verdict.FAIL}


def test_where_no_two_runs_differ_a_probe_that_diverged_once_is_a_fail() -> None:
    odd = with_step(probe(), "vm-khz", error="EIO", values=())
    cut = {YOUNG.name: interrupted(session([YOUNG]).traces[YOUNG.name])}
    found = settled([in_lab(Session(odd, cut)), *[in_lab(Session(probe(), cut))] * 2], [YOUNG])
    assert verdicts(found)["probe-khz"] is Verdict.FAIL
    assert exit_status(found.results) == 1


def test_a_trace_whose_clocks_jump_after_the_fault_says_nothing_of_what_the_kernel_behaves_as() -> None:
    trace = before_6_7(YOUNG)
    bracket = trace.events[-1].bracket
    later = bracket._replace(tsc_before=bracket.tsc_before + 10**11, tsc_after=bracket.tsc_after + 10**11)
    both = session([OLD, YOUNG])
    both.traces[YOUNG.name] = replace(
        trace, events=(*trace.events[:-1], replace(trace.events[-1], bracket=later))
    )
    found = settled([both], [OLD, YOUNG])
    assert verdicts(found) == {OLD.name: Verdict.PASS, YOUNG.name: Verdict.INCONCLUSIVE}
    assert found.identity is not None
    assert "mainline-6.7" in found.identity.behaves_as


@pytest.mark.parametrize("error", ["EIO", "errno-524"])
@pytest.mark.parametrize("kind", ["get_clock", "run"])
def test_an_errno_that_only_kvm_can_have_caused_is_held_against_it_where_nothing_disturbs(
    kind: str, error: str
) -> None:
    scenario = next(each for each in SCENARIOS.values() if kind in {step.name for step in each.script})
    played = session([scenario])
    trace = played.traces[scenario.name]

    def failing(event: Event) -> Event:
        return replace(event, error=error, values=(), exits=()) if event.operation.name == kind else event

    played.traces[scenario.name] = replace(trace, events=tuple(map(failing, trace.events)))
    assert verdicts(settled([in_lab(played)], [scenario])) == {scenario.name: Verdict.FAIL}
    assert verdicts(settled([played], [scenario]))[scenario.name] is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("reason", ["FAIL_ENTRY", "SHUTDOWN", "INTERNAL_ERROR"])
def test_a_guest_may_not_die_of_an_rdtscp_that_works(reason: str) -> None:
    scenario = SCENARIOS["guest-rdtscp"]
    trace = session([scenario]).traces[scenario.name]

    def dying(event: Event) -> Event:
        if not event.operation.by_guest:
            return event
        return replace(event, values=(), exits=(GuestExit(reason, 1),))

    dead = replace(trace, events=tuple(map(dying, trace.events)))
    assert judge_scenario(scenario, dead, kvm.seen(probe())).verdict is Verdict.FAIL


def test_what_every_vm_is_entitled_to_is_open_where_nothing_could_be_read() -> None:
    scenario = Scenario(
        name="mine",
        contract="Nobody's TSC moves by itself.",
        script=YOUNG.script,
        claims=(EntitledClaim(text="nobody's TSC moves by itself", rule="unwritten"),),
    )
    trace = play("mine", YOUNG.script)
    first, *others = trace.events
    unread = replace(
        trace, events=(first, *(replace(each, error="EINTR", values=(), exits=()) for each in others))
    )
    found = judge_scenario(scenario, unread, kvm.seen(probe(), BY_CONTRACTS))
    assert found.verdict is Verdict.INCONCLUSIVE


def test_a_failure_by_contract_that_came_once_says_nothing_of_what_the_kernel_behaves_as() -> None:
    once, again = Session(probe(), {YOUNG.name: before_6_7(YOUNG)}), session([YOUNG])
    found = judged([once, again, again], [YOUNG], BY_CONTRACTS, confirm=True)
    assert verdicts(found) == {YOUNG.name: Verdict.INCONCLUSIVE}
    assert found.identity is None or "mainline-6.7" in found.identity.behaves_as


def test_what_came_once_and_was_played_again_is_no_difference_of_two_kernels() -> None:
    once, again = Session(probe(), {YOUNG.name: before_6_7(YOUNG)}), session([YOUNG])
    assert compare_sessions([once], [again]).differences != ()
    found = compare_sessions([once, again, again], [again])
    assert (found.compared, found.differences, found.kept_by_second) == (1, (), ())


def test_what_could_not_be_compared_to_its_end_is_counted_as_open_and_not_as_alike() -> None:
    cut = Session(probe(), {YOUNG.name: interrupted(session([YOUNG]).traces[YOUNG.name])})
    found = compare_sessions([cut], [session([YOUNG])])
    assert (found.compared, found.left_open, found.differences) == (0, 1, ())
