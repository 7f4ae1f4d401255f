# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge: whether a trace is possible on a kernel with a given policy.

The trace is replayed through the rules. Where a bracket straddles a decision both worlds go on; every
observation throws out those that it contradicts. When none is left, the kernel does not have the
policy, and the step at which the last one went says where that shows.
"""

from dataclasses import dataclass
from enum import Enum

from kvmharness.model import line, sentence
from kvmharness.model.debugfs import shows
from kvmharness.model.host_clocks import HostClocks
from kvmharness.model.interval import Interval, TooWideError
from kvmharness.model.masterclock import ClockBehindError
from kvmharness.model.mismatch import Mismatch
from kvmharness.model.operations import perform
from kvmharness.model.outcome import Action, Outcome
from kvmharness.model.policy import Policy
from kvmharness.model.rates import UnknownRateError
from kvmharness.model.rules import Rules
from kvmharness.model.state import DoubtError, Host, Moment, World, distinct
from kvmharness.model.written_rule import rules_of
from kvmharness.trace import Bracket, Event, Trace

# How many worlds beside the first may be followed through a trace, as a sum over its steps; one with many
# vCPUs counts for more. Beyond that lies a trace whose brackets leave everything open, and which reads
# nothing: on real kernels the catalogue needs 255 at the most. A file of such traces has to be judged under
# all policies in seconds.
_MORE_WORLDS = 1_000
_MORE_WORLDS_PER_STEP = 0.2
_VCPUS_IN_A_WORLD = 8

# The guest whose instruction a CPU may refuse, and a KVM may not know.
_MAY_BE_REFUSED = "rdtscp-16"

UNKNOWN_HOST = Host()


class Possibility(Enum):
    """Whether a kernel with a policy can have left a trace."""

    POSSIBLE = "possible"
    IMPOSSIBLE = "impossible"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a trace says of a policy.

    `step` (from 1) is where it shows. `mismatch` is set for IMPOSSIBLE: what was observed there, and what
    the policy allows. `doubt` is set for UNDECIDED: why nothing can be told, in words.
    """

    policy: Policy
    possibility: Possibility
    step: int = 0
    doubt: str = ""
    mismatch: Mismatch | None = None


def judge(trace: Trace, policy: Policy, host: Host = UNKNOWN_HOST) -> Judgement:
    """Whether a kernel with `policy` on `host` can have left `trace`."""
    replay = Replay(rules_of(policy, host), trace.created)
    for step, event in enumerate(trace.events, 1):
        try:
            check(event, trace)
            failed = replay.play(step, event)
        except DoubtError as doubt:
            return Judgement(policy, Possibility.UNDECIDED, step, str(doubt))
        if not replay.worlds and replay.lost:
            return Judgement(policy, Possibility.UNDECIDED, *replay.lost)
        if not replay.worlds:
            mismatch = sentence.mismatch(failed, event)
            return Judgement(policy, Possibility.IMPOSSIBLE, step, mismatch=mismatch)
    if replay.is_vague:
        return Judgement(policy, Possibility.UNDECIDED, len(trace.events), _DOUBTS[UnknownRateError])
    return Judgement(policy, Possibility.POSSIBLE)


_DOUBTS = {
    UnknownRateError: "the rate of the host's TSC is not known",
    TooWideError: "the brackets are too wide to tell anything",
    ClockBehindError: "KVM's own clock was behind a write; how far it then moves the TSC is not predicted",
}


class Replay:
    """A trace on its way through the rules, and the worlds that are left.

    `lost` is the step at which a world was lost of which nothing more can be told, and why that is. The
    others may still explain the trace; but while there is a lost one it is not impossible.
    """

    def __init__(self, rules: Rules, created: Bracket | None = None) -> None:
        self.worlds = [rules.new_vm(created and _moment(created))]
        self.lost: tuple[int, str] | None = None
        self._rules = rules
        self._clocks = HostClocks(rules.host)
        self._previous: Bracket | None = None
        self._followed = 0.0

    def play(self, step: int, event: Event) -> list[Outcome]:
        """Take a step; the outcomes that what was seen rules out. DoubtError where nothing can be told."""
        self._clocks.check(event, self.worlds[0].host_khz)
        self._previous = event.bracket
        if not event.operation.creates_vcpu:
            for vcpu in event.operation.vcpu_numbers:
                if vcpu not in self.worlds[0].vcpus:
                    raise DoubtError(f"vCPU {vcpu} was never created")
        if event.exits and self._is_dead(event):
            self.worlds, self.lost = [], None
            return []
        rules, action = self._rules, action_of(event)
        moment, seen = action.moment, event.debugfs
        survivors: list[World] = []
        failed: list[Outcome] = []
        for world in self.worlds:
            world.begin(step)
            try:
                for outcome in perform(rules, world, action):
                    if _agrees(outcome, event, moment) and (
                        not seen or shows(rules, outcome.world, event, moment)
                    ):
                        survivors.append(outcome.world)
                    else:
                        failed.append(outcome)
            except tuple(_DOUBTS) as doubt:
                self.lost = self.lost or (step, _DOUBTS[type(doubt)])
            if len(survivors) > 1 or self._followed > _MORE_WORLDS:
                self._check_open(step, len(survivors))
        self.worlds = distinct(survivors)
        if len(self.worlds) > 1:
            self._followed += self._weight(len(self.worlds))
        return failed

    def _is_dead(self, event: Event) -> bool:
        """Whether a guest ended as none of ours does, under whichever policy: KVM could not run it."""
        return any(
            each.is_death and not self._may_be_refused(vcpu)
            for vcpu, each in zip(event.operation.vcpu_numbers, event.exits, strict=False)
        )

    def _may_be_refused(self, vcpu: int) -> bool:
        """Whether a guest may have ended at an instruction that this KVM does not offer."""
        refused = self.worlds[0].vcpus[vcpu].guest == _MAY_BE_REFUSED
        return refused and not self._rules.host.has_rdtscp

    @property
    def is_vague(self) -> bool:
        """Whether none of the worlds that are left could have been told from another."""
        if self._previous is None:
            return False
        now = Interval(self._previous.tsc_before, self._previous.tsc_after)
        return all(self._rules.is_vague(world, now) for world in self.worlds)

    def _weight(self, count: int) -> float:
        """What following so many worlds counts for."""
        if count < 2 or not self.worlds:
            return 0
        return (count - 1) * (1 + len(self.worlds[0].vcpus) / _VCPUS_IN_A_WORLD)

    def _check_open(self, step: int, count: int) -> None:
        """DoubtError where so many worlds are too many to follow, already within a step."""
        if self._followed + self._weight(count) > _MORE_WORLDS + _MORE_WORLDS_PER_STEP * step:
            raise DoubtError(f"too much stays open: {count} ways it may have gone")


def check(event: Event, trace: Trace) -> None:
    """DoubtError where nothing can be said of what follows a step of a trace."""
    if event.error and event.error in trace.excuses:
        doubt = f"it failed with {event.error}, which says nothing about the rule"
    else:
        # No rule answers with an errno of which KVM alone is to blame: that is impossible, and no doubt.
        blamed = event.error and trace.is_undisturbed
        doubt = event.operation.doubt(event.values, "" if blamed else event.error)
    if doubt:
        raise DoubtError(doubt)


def action_of(event: Event) -> Action:
    """An event as the rules see it."""
    moment = _moment(event.bracket)
    operation, values = event.operation, event.values
    written, samples = operation.written(values, event.error), len(operation.samples(values))
    return Action(operation, moment, written, samples, bool(event.error))


def _moment(bracket: Bracket) -> Moment:
    """When something happened that a bracket holds."""
    tsc_before, ns_before, ns_after, tsc_after = bracket
    return Moment(Interval(tsc_before, tsc_after), Interval(ns_before, ns_after))


def _agrees(outcome: Outcome, event: Event, moment: Moment) -> bool:
    """Whether a step went as predicted; if so the world takes note of what was read."""
    if not sentence.ends_so(outcome, event):
        return False
    world, answers, _, _, on_line = outcome
    for answer, value in zip(answers, event.values, strict=False):
        if answer is not None and not answer.agrees(world, value, moment):
            return False
    return on_line is None or line.is_on(world, on_line, event.values, moment)
