# SPDX-License-Identifier: GPL-2.0-or-later
"""A session: scenarios played on one KVM together with the probe of it, until each has a verdict."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kvmharness import script
from kvmharness.judging import kvm
from kvmharness.judging.decision import decide, is_decided
from kvmharness.judging.identity import Identity, identify
from kvmharness.judging.judge import judge_probe, judge_scenario
from kvmharness.judging.kvm import Kvm
from kvmharness.judging.probe import PROBES, Probe, split
from kvmharness.judging.verdict import MAINLINE, Expectation, Result, Verdict
from kvmharness.player import host_state
from kvmharness.scenarios import Scenario
from kvmharness.trace import Trace

ATTEMPTS = 3


class LostError(Exception):
    """What was to be played on was lost on the way."""


@dataclass(frozen=True, slots=True)
class Session:
    """What was played: the probe's traces, and the scenarios' by name.

    `notes` are lines worth showing beside the verdicts: what the kernel complained of meanwhile. Where
    `changed` says how the host changed meanwhile, nothing in it counts.
    """

    probe: Probe
    traces: dict[str, Trace]
    notes: tuple[str, ...] = ()
    changed: str = ""

    @classmethod
    def of(cls, traces: Sequence[Trace], notes: tuple[str, ...] = ()) -> "Session":
        """The session in which these were played, the probe's among them."""
        probe, others = split(traces)
        return cls(probe, {each.scenario: each for each in others}, notes)

    @property
    def everything(self) -> list[Trace]:
        """All traces, the probe's first."""
        return [*self.probe.traces, *self.traces.values()]


@dataclass(frozen=True, slots=True)
class SessionResult:
    """Verdicts: what the probe diverges in, then the scenarios in their order; and the session that each of
    these rests on, by name.

    `identity` is None where nothing was played that says anything; `notes` are all sessions'. `attempts` are
    the sessions in their order, all of which a verdict may depend on: judged() makes the same of them. `host`
    is what the machine was, by name (player/host_state.py).
    """

    results: tuple[Result, ...]
    sessions: dict[str, Session]
    identity: Identity | None = None
    notes: tuple[str, ...] = ()
    attempts: tuple[Session, ...] = ()
    host: Mapping[str, str] = field(default_factory=dict)


def rounds(scenarios: Sequence[Scenario]) -> list[list[tuple[str, list[dict[str, object]]]]]:
    """What a player is to play, as names and JSON, in rounds of scripts that wait together.

    First the probe, then all scenarios that can be played in company, then each of the others.
    """
    together = [each for each in scenarios if not each.alone]
    alone = [[each] for each in scenarios if each.alone]
    found = [list(PROBES.items())]
    found += [[(each.name, each.script) for each in several] for several in (together, *alone) if several]
    return [[(name, [script.to_json(step) for step in steps]) for name, steps in each] for each in found]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What a scenario, or one of the probe's scripts, came to in one session."""

    result: Result
    session: Session
    kvm: Kvm


def settle(
    scenarios: Sequence[Scenario],
    play: Callable[[Sequence[Scenario]], Session],
    expectation: Expectation = MAINLINE,
    *,
    confirm: bool = False,
) -> SessionResult:
    """Play, judge, identify; what stays inconclusive is played again, alone, three times in all.

    With `confirm`, for what runs in real time and no two runs are the same, a FAIL is one only if it comes a
    second time (see `decision`). Else it is INCONCLUSIVE, and its trace is the one kept. What a session lacks
    is played again too, and has no result if no session has it. What is open when the host does not stop
    changing is INCONCLUSIVE. LostError, or an OSError of the KVM, passes through the first time: nothing was
    judged then. Later it leaves the verdicts that there are.
    """
    attempts: dict[str, list[_Attempt]] = {}
    sessions: list[Session] = []
    open_ones = list(scenarios)
    for _ in range(ATTEMPTS):
        try:
            session = play(open_ones)
        except (LostError, OSError):
            if not attempts:
                raise
            break
        session = _unless_replaced(sessions[0] if sessions else session, session)
        sessions.append(session)
        _judge(session, open_ones, expectation, attempts)
        decided = {
            name
            for name, each in attempts.items()
            if is_decided([attempt.result for attempt in each], confirm=confirm)
        }
        open_ones = [_again(each, attempts) for each in open_ones if each.name not in decided]
        if session.changed or (not open_ones and decided == attempts.keys()):
            break
    return _outcome(scenarios, sessions, attempts, expectation, confirm=confirm)


def judged(
    sessions: Sequence[Session], scenarios: Sequence[Scenario], expectation: Expectation, *, confirm: bool
) -> SessionResult:
    """What settle() made of these sessions, in the order in which they were played."""
    attempts: dict[str, list[_Attempt]] = {}
    for session in sessions:
        _judge(session, scenarios, expectation, attempts)
    return _outcome(scenarios, sessions, attempts, expectation, confirm=confirm)


def _unless_replaced(first: Session, session: Session) -> Session:
    """The session; with nothing that counts where one of KVM's modules is not the one it was at first."""
    ids, others = (host_state.build_ids(each.probe.host) for each in (first, session))
    replaced = [f"{name}.ko" for name in ids if others.get(name, ids[name]) != ids[name]]
    if not replaced:
        return session
    changed = f"{' and '.join(replaced)} was replaced by another while it was played on"
    return replace(session, traces={}, changed=changed)


def _again(scenario: Scenario, attempts: Mapping[str, Sequence[_Attempt]]) -> Scenario:
    """The scenario as it is played again: alone, unless it failed and is to be confirmed."""
    last = attempts[scenario.name][-1].result if scenario.name in attempts else None
    failed = last is not None and last.verdict is Verdict.FAIL
    return replace(scenario, alone=scenario.alone or not failed)


def _judge(
    session: Session,
    scenarios: Sequence[Scenario],
    expectation: Expectation,
    attempts: dict[str, list[_Attempt]],
) -> None:
    """Judge a session, and put its verdicts after those of the earlier sessions."""
    here = kvm.seen(session.probe, expectation)
    for result in _judged(scenarios, session, here, attempts.keys() & PROBES.keys()):
        attempts.setdefault(result.scenario, []).append(_Attempt(result, session, here))


def _judged(
    scenarios: Sequence[Scenario], session: Session, here: Kvm, diverged: Collection[str]
) -> list[Result]:
    """The verdicts of a session: those of the probe's scripts that diverge or did before, and of these."""
    if session.changed:
        return [Result(each.name, Verdict.INCONCLUSIVE, each.contract, session.changed) for each in scenarios]
    probe = {each.scenario: each for each in judge_probe(here)}
    probe |= {name: Result(name, Verdict.PASS, "") for name in diverged if name not in probe}
    played = [each for each in scenarios if each.name in session.traces]
    return [*probe.values(), *(judge_scenario(each, session.traces[each.name], here) for each in played)]


def _outcome(
    scenarios: Sequence[Scenario],
    played_in: Sequence[Session],
    attempts: Mapping[str, Sequence[_Attempt]],
    expectation: Expectation,
    *,
    confirm: bool,
) -> SessionResult:
    """What the attempts come to, the probe's scripts before the scenarios."""
    chosen: dict[str, _Attempt] = {}
    unconfirmed: set[str] = set()
    order = [
        *(name for name in PROBES if name in attempts),
        *(each.name for each in scenarios if each.name in attempts),
    ]
    for name in order:
        place, result = decide([each.result for each in attempts[name]], confirm=confirm)
        if attempts[name][place].result.verdict is Verdict.FAIL:
            unconfirmed.add(name)
        chosen[name] = replace(attempts[name][place], result=result)
    results = tuple(each.result for each in chosen.values())
    sessions = {name: each.session for name, each in chosen.items() if name in each.session.traces}
    every = [each.session for several in attempts.values() for each in several]
    notes = dict.fromkeys(note for each in every for note in each.notes)
    doubted = {
        name
        for name, each in chosen.items()
        if each.result.is_doubted or (name in unconfirmed and each.result.verdict is not Verdict.FAIL)
    }
    played = [(chosen[name].kvm, each.traces[name]) for name, each in sessions.items() if name not in doubted]
    identity = identify(played, expectation, doubted & PROBES.keys())
    kept = tuple(each for each in played_in if not each.changed)
    host = next((each.probe.host for each in played_in if each.probe.host), {})
    return SessionResult(results, sessions, identity, tuple(notes), kept, host)
