# SPDX-License-Identifier: GPL-2.0-or-later
"""A campaign on one kernel: batches of scripts are played and judged; what is wrong is played again and made
small.

Knows neither a lab nor a device: how scripts are played is given to it.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from kvmharness.contract import Status
from kvmharness.explore.draft import Ground, paced
from kvmharness.explore.findings import Effort, Finding, shared_by, state_before
from kvmharness.explore.generator import Generator
from kvmharness.explore.minimize import minimize
from kvmharness.explore.oracles import Asked, Oracles, Symptom, complaint, difference
from kvmharness.judging import kvm
from kvmharness.judging.capabilities import findings, host_facts
from kvmharness.judging.probe import Probe
from kvmharness.judging.session import Session
from kvmharness.judging.verdict import Expectation
from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.scenarios import Scenario
from kvmharness.script import Script
from kvmharness.trace import Event, Trace

_LOG = logging.getLogger(__name__)

Play = Callable[[Sequence[Scenario]], Session]

# Of so many kinds of findings each is made small; a kernel with more is broken as a whole.
MOST_FINDINGS = 20
_MOST_ROUNDS = 40
# Rounds for breaks that are known: the first of each kind is worth a small example, no more.
_KNOWN_ROUNDS = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """How a campaign goes. In `real_time` no two runs are the same: what is wrong has to come twice of three
    times. `names` are the kernels' that are held against each other. The rest is as a Ground has it."""

    expectation: Expectation
    seed: int = 0
    real_time: bool = False
    most_wait_ns: int = 100 * 10**9
    cpus: int = 1
    least_khz: int = 0
    guided: bool = True
    shrinks: bool = True
    names: tuple[str, str] = ("", "")


@dataclass(slots=True)
class Tally:
    """What was done so far; `playing_s` is how long machines took for it, `doubtful` counts scripts of which
    the model can tell nothing, `once` those whose symptom did not come again, `operations` steps by name."""

    scripts: int = 0
    steps: int = 0
    playing_s: float = 0.0
    doubtful: int = 0
    once: int = 0
    known: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)


class Campaign:
    """Explores one kernel. `play` plays scenarios on it, `against` on the other, if there is one; `crashed`
    says how a scenario that left no trace ended."""

    def __init__(
        self,
        play: Play,
        settings: Settings,
        *,
        against: Play | None = None,
        crashed: Callable[[Scenario], str] = lambda scenario: "",
        kept: Sequence[Script] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = Tally()
        self.findings: list[Finding] = []
        self.known_breaks: list[Finding] = []
        self._play, self._against, self._crashed = play, against, crashed
        self._settings, self._clock = settings, clock
        self._shrinks = settings.shrinks
        self._seen: set[tuple[object, ...]] = set()
        self._examples: dict[tuple[object, ...], tuple[Scenario, Symptom]] = {}
        self._number = 0
        probe = self._timed(play, []).probe
        seen = kvm.seen(probe, settings.expectation)
        self.host, policy = seen.host, seen.policy
        self._oracles = Oracles(policy, self.host)
        self._probed = _played(probe)
        ground = Ground(policy or POLICIES[EXPECTED], self.host, most_wait_ns=settings.most_wait_ns)
        ground = replace(
            paced(ground, probe.traces[0].events),
            cpus=settings.cpus,
            least_khz=settings.least_khz,
            may_leave_tsc=findings(probe)["clocksource"].status is Status.KEPT,
        )
        self.generator = Generator(ground, settings.seed, kept, guided=settings.guided)
        for trace in probe.traces:
            self._keep_new(self._oracles.ask(trace).symptoms, trace)

    # Batches

    def scenarios(self, count: int) -> list[Scenario]:
        """The next scripts to play."""
        made = [self.generator.make().script for _ in range(count)]
        self._number += count
        first = self._number - count
        return [_scenario(f"script-{first + number}", each) for number, each in enumerate(made)]

    def play(self, scenarios: Sequence[Scenario]) -> tuple[Session, Session | None]:
        """Play a batch, on the other kernel as well if there is one."""
        session = self._timed(self._play, scenarios)
        return session, self._timed(self._against, scenarios) if self._against else None

    def judge(self, scenarios: Sequence[Scenario], session: Session, other: Session | None) -> None:
        """Judge a batch, and look into what is wrong with it."""
        for scenario in scenarios:
            self.tally.scripts += 1
            trace = session.traces.get(scenario.name)
            self.tally.steps += len(trace.events) if trace else 0
            self.tally.operations.update(each.operation.name for each in (trace.events if trace else ()))
            symptoms, doubtful = self._ask(scenario, session, other)
            self.tally.doubtful += doubtful and not symptoms
            self.tally.known.update({each.what for each in symptoms if each.predicted})
            for symptom in (each for each in symptoms if each.predicted and each.key not in self._seen):
                shortest = self._examples.setdefault(symptom.key, (scenario, symptom))
                if symptom.step < shortest[1].step:
                    self._examples[symptom.key] = scenario, symptom
            new = [each for each in symptoms if not each.predicted and each.key not in self._seen]
            if new:
                self._look_into(scenario, new)

    def finish(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Make small what shows the breaks that are known, an example for each.

        Once `is_over` says that time is up, what is left is kept as it was found.
        """
        shrinks = self._shrinks
        for number, (scenario, symptom) in enumerate(self._examples.values(), 1):
            self._shrinks = shrinks and not is_over()
            _LOG.info("known break %d of %d is made small", number, len(self._examples))
            self._look_into(scenario, [symptom])
        self._shrinks = shrinks
        self._examples.clear()

    def _ask(self, scenario: Scenario, session: Session, other: Session | None) -> Asked:
        trace = session.traces.get(scenario.name)
        if trace is None:
            words = self._crashed(scenario)
            return Asked([complaint(words)] if words else [])
        self._see(session)
        found = [complaint(note) for note in session.notes if f"during {scenario.name}:" in f"{note}:"]
        if other is None or scenario.name not in other.traces:
            symptoms, doubtful = self._oracles.ask(trace)
            return Asked([*found, *symptoms], doubtful)
        theirs = other.traces[scenario.name]
        hosts = self.host, host_facts(other.probe)
        return Asked([*found, *difference(trace, theirs, hosts, self._settings.names)])

    def _see(self, session: Session) -> None:
        """Judge by the machine of this session: one that was booted again may have another tsc_khz."""
        probed = _played(session.probe)
        if probed != self._probed:
            seen = kvm.seen(session.probe, self._settings.expectation)
            self.host, self._probed = seen.host, probed
            self._oracles = Oracles(seen.policy, seen.host)

    def _symptoms(self, scenario: Scenario, session: Session, other: Session | None) -> list[Symptom]:
        return self._ask(scenario, session, other).symptoms

    # What is wrong

    def _look_into(self, scenario: Scenario, symptoms: Sequence[Symptom]) -> None:
        """Those that come again are findings, made small."""
        again = self._again([scenario.script])
        for symptom in symptoms:
            if symptom.key in self._seen or len(self.findings) >= MOST_FINDINGS:
                continue
            if symptom.key not in again[0]:
                self.tally.once += 1
                _LOG.debug("it did not come again: %s", "; ".join(symptom.lines))
                continue
            self._seen.add(symptom.key)
            if not symptom.predicted:
                _LOG.info("a finding: %s", "; ".join(symptom.lines))
            found_s = self.tally.playing_s
            small, tried = self._small(scenario.script, symptom)
            effort = Effort(found_s, len(scenario.script), tried, self.tally.playing_s - found_s)
            self._keep(symptom, small, effort)

    def _small(self, script: Script, symptom: Symptom) -> tuple[Script, int]:
        start = script[: symptom.step] if symptom.step else script
        if not self._shrinks:
            return start, 0

        def holds(scripts: Sequence[Script]) -> list[bool]:
            return [symptom.key in keys for keys in self._again(scripts)]

        if not holds([start])[0]:
            start = script
        rounds = _KNOWN_ROUNDS if symptom.predicted else _MOST_ROUNDS
        small = minimize(start, holds, rounds)
        return small.script, small.tried

    def _again(self, scripts: Sequence[Script]) -> list[set[tuple[object, ...]]]:
        """The keys of what is wrong with each script when it is played again, most of the time if no two runs
        are the same."""
        times = 3 if self._settings.real_time else 1
        scenarios = [_scenario(f"again-{number}", each) for number, each in enumerate(scripts)]
        counted = [Counter[tuple[object, ...]]() for _ in scripts]
        for _ in range(times):
            session, other = self.play(scenarios)
            for counts, scenario in zip(counted, scenarios, strict=True):
                counts.update({each.key for each in self._symptoms(scenario, session, other)})
        return [{key for key, count in counts.items() if 2 * count > times} for counts in counted]

    def _keep_new(self, symptoms: Sequence[Symptom], trace: Trace) -> None:
        """Keep what is wrong already with the probe, which is small enough."""
        for symptom in symptoms:
            if symptom.key not in self._seen:
                self._seen.add(symptom.key)
                script = trace.script[: symptom.step]
                self._keep(symptom, script, Effort(self.tally.playing_s, len(trace.script)))

    def _keep(self, symptom: Symptom, script: Script, effort: Effort) -> None:
        scenario = _scenario("small", script)
        session, other = self.play([scenario])
        trace = session.traces.get("small")
        same = [each for each in self._symptoms(scenario, session, other) if each.key == symptom.key]
        symptom = same[0] if same else symptom
        policy = self._oracles.policy or POLICIES[EXPECTED]
        finding = Finding(
            *(symptom, script, trace or Trace("small", "", ())),
            shared_by=shared_by(trace, self._settings.expectation.policies.values(), self.host)
            if trace
            else (),
            state=state_before(trace, symptom.step, policy, self.host) if trace else (),
            effort=effort,
        )
        into = self.known_breaks if symptom.predicted else self.findings
        if not any(each.name == finding.name for each in into):
            into.append(finding)

    def _timed(self, play: Play, scenarios: Sequence[Scenario]) -> Session:
        begin = self._clock()
        try:
            return play(scenarios)
        finally:
            self.tally.playing_s += self._clock() - begin


def _played(probe: Probe) -> list[tuple[Event, ...]]:
    """What a probe's scripts came to, without what names the session."""
    return [each.events for each in probe.traces]


def _scenario(name: str, script: Script) -> Scenario:
    # Others would see the host's clock leave the TSC, too.
    alone = any(each.host_clock_on_tsc is not None for each in script)
    return Scenario(name=name, contract="", script=script, claims=(), alone=alone)
