# SPDX-License-Identifier: GPL-2.0-or-later
"""A session: scenarios played on one KVM together with the probe of it, until each has a verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kvmharness import script
from kvmharness.judging import capabilities
from kvmharness.judging.identity import Identity, identify
from kvmharness.judging.verdict import MAINLINE, Expectation, Result, Verdict, judge
from kvmharness.scenarios import Scenario
from kvmharness.trace import Trace

PROBE_NAME = "probe"
ATTEMPTS = 3


class LostError(Exception):
    """What was to be played on was lost on the way."""


@dataclass(frozen=True, slots=True)
class Session:
    """What was played: the probe's trace, and the scenarios' by name.

    `notes` are lines worth showing beside the verdicts: what the kernel complained of meanwhile.
    """

    probe: Trace
    traces: dict[str, Trace]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdicts, in the order of the scenarios, and the session each rests on, by scenario.

    `identity` is None where nothing was played that says anything; `notes` are all sessions'.
    """

    results: tuple[Result, ...]
    sessions: dict[str, Session]
    identity: Identity | None = None
    notes: tuple[str, ...] = ()


def rounds(scenarios: Sequence[Scenario]) -> list[list[tuple[str, list[dict[str, object]]]]]:
    """What a player is to play, as names and JSON, in rounds of scripts that wait together.

    First the probe, then all scenarios that can be played in company, then each of the others.
    """
    together = [each for each in scenarios if not each.alone]
    alone = [[each] for each in scenarios if each.alone]
    found = [[(PROBE_NAME, capabilities.PROBE)]]
    found += [[(each.name, each.script) for each in several] for several in (together, *alone) if several]
    return [[(name, [script.to_json(step) for step in steps]) for name, steps in each] for each in found]


def settle(
    scenarios: Sequence[Scenario],
    play: Callable[[Sequence[Scenario]], Session],
    expectation: Expectation = MAINLINE,
    *,
    confirm: bool = False,
) -> Outcome:
    """Play, judge, identify; what stays inconclusive is played again, alone, three times in all.

    With `confirm`, for what runs in real time and no two runs are the same, a FAIL that no known policy
    explains is one only if it comes a second time. Else it is INCONCLUSIVE, and its trace is the one kept.
    What a session lacks is played again too, and has no result if no session has it. LostError, or an
    OSError of the KVM, passes through the first time: nothing was judged then. Later it leaves the verdicts
    that there are.
    """
    results: dict[str, Result] = {}
    sessions: dict[str, Session] = {}
    once: dict[str, Result] = {}  # failed, and not confirmed
    open_ones = list(scenarios)
    for _ in range(ATTEMPTS):
        try:
            session = play(open_ones)
        except (LostError, OSError):
            if not results:
                raise
            break
        again: list[Scenario] = []
        for scenario in open_ones:
            name = scenario.name
            if name not in session.traces:
                again.append(replace(scenario, alone=True))
                continue
            result = judge(scenario, session.traces[name], session.probe, expectation)
            if result.verdict is Verdict.INCONCLUSIVE:
                again.append(replace(scenario, alone=True))
            elif confirm and result.is_unexplained and name not in once:
                again.append(scenario)
                once[name] = result
            elif result.verdict is Verdict.FAIL:
                once.pop(name, None)
            if name not in once or once[name] is result:
                results[name], sessions[name] = result, session
        open_ones = again
        if not open_ones:
            break
    results |= {name: _not_confirmed(result) for name, result in once.items()}
    played = [(session.probe, session.traces[name]) for name, session in sessions.items() if name not in once]
    identity = identify(played, expectation.policies.values())
    notes = dict.fromkeys(note for session in sessions.values() for note in session.notes)
    return Outcome(
        tuple(results[each.name] for each in scenarios if each.name in results),
        sessions,
        identity,
        tuple(notes),
    )


def _not_confirmed(result: Result) -> Result:
    reason = f"it failed once, and was not seen to fail again: {result.reason}"
    return replace(result, verdict=Verdict.INCONCLUSIVE, reason=reason)
