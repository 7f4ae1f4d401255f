# SPDX-License-Identifier: GPL-2.0-or-later
"""Runstates: what a Xen's vCPU has done with its time.

As in `rules`, each rule is named for the kernel function it stands for (arch/x86/kvm/xen.c). At each entry
to the guest after a load KVM adds the time since the last one to that of the state in which the vCPU was.
Of a running vCPU's it takes off what its thread waited for a CPU meanwhile, for which the vCPU was runnable.
A vCPU goes on running while its thread is not in KVM_RUN. But one whose thread is preempted while it has the
vCPU loaded is runnable from then on until it is next entered, which shows in the thread's run_delay.
"""

from typing import NamedTuple

from kvmharness.model import line
from kvmharness.model.interval import Interval, signed
from kvmharness.model.masterclock import Masterclock
from kvmharness.model.pages import Runstate, RunstatePage, sum_of
from kvmharness.model.quantity import bounds
from kvmharness.model.state import ZERO, Moment, Vcpu, World

RUNNING, RUNNABLE, BLOCKED, OFFLINE = range(4)
STATE, ENTERED, TIMES = 0, 1, 2  # the places of what is read of it

# More than any thread has waited, in ns; and an interval of which nothing is known any more.
EVER_NS, _VAGUE_NS = 2**56, 2**61

_UNKNOWN_TIMES: tuple[Interval | None, ...] = (None,) * 4


class RunstateValue(NamedTuple):
    """Predicts a value of vCPU `vcpu`'s runstate, as KVM keeps it: that of ReadXenRunstate at `place`.

    The four times add up to when the state was entered.
    """

    vcpu: int
    place: int

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether it is that; the world takes note of it."""
        seen, vcpu = Interval(value, value), world.vcpus[self.vcpu]
        if not all(each.intersection(seen) for each in self._allowed(world)):
            return False
        kept = vcpu.runstate.kept
        if self.place == STATE:
            kept = kept._replace(state=value)
        elif self.place == ENTERED:
            kept = kept._replace(entered=seen)
        else:
            kept = _with_time(kept, self.place - TIMES, seen)
        vcpu.runstate = vcpu.runstate._replace(kept=kept)
        return True

    def bounds(self, world: World, moment: Moment) -> Interval | None:
        """What is known of it, and of those that were read before."""
        allowed = self._allowed(world)
        both = allowed[0].intersection(allowed[-1]) if allowed else None
        return both or (allowed[0] if allowed else None)

    def _allowed(self, world: World) -> list[Interval]:
        """Where it lies by itself, and of a time where it lies by the others."""
        kept = world.vcpus[self.vcpu].runstate.kept
        if self.place == STATE:
            return [Interval(0, OFFLINE) if kept.state is None else Interval(kept.state, kept.state)]
        if self.place == ENTERED:
            return [kept.entered] if kept.entered else []
        own = self.place - TIMES
        left = kept.entered
        for each in (*kept.times[:own], *kept.times[own + 1 :]):
            left = _less(left, each)
        return [each for each in (left, kept.times[own]) if each]


def clock_now(rules: Masterclock, world: World, moment: Moment) -> Interval | None:
    """The VM's clock within a moment, in ns: get_kvmclock_ns(); None if it is not known."""
    if rules.has_line(world) and world.clock_khz:
        drawn = bounds(world.line, world.unknowns)
        low, high = (line.ns_at(tsc, world.clock_khz) for tsc in moment.tsc)
        return drawn and Interval(drawn.low + low - line.ROUNDED_NS, drawn.high + high)
    offset, drift = bounds(world.kvmclock_offset, world.unknowns), rules.drift(world, moment)
    return offset and Interval(moment.ns.low + offset.low - drift, moment.ns.high + offset.high + drift)


def enter_guest(rules: Masterclock, world: World, number: int, moment: Moment) -> None:
    """kvm_xen_runstate_set_running(), which record_steal_time() calls for a Xen's vCPU."""
    if world.xen and rules.policy.honours_writes:
        update(
            rules,
            world,
            world.vcpus[number],
            RUNNING,
            clock_now(rules, world, moment),
            steal=noted_now(world),
        )


def update(
    rules: Masterclock, world: World, vcpu: Vcpu, state: int, now: Interval | None, *, steal: Interval
) -> None:
    """kvm_xen_update_runstate(), by the playing thread with a run_delay of `steal`, at a VM's clock of `now`.

    Some kernels change the state alone while that is earlier than it was the last time, and take no more for
    waited than has passed (36a85200643e, 7.3).
    """
    found, keeps = vcpu.runstate, rules.host.keeps_runstate
    was = _state_before(found.kept)
    passed = _less(now, found.kept.entered)
    stands = _stands(keeps, passed)
    if found.kept.entered == ZERO and stands is None:
        stands = False  # no clock is less than 0 by itself
    if stands:
        found = settled(found)
        found = found._replace(kept=found.kept._replace(state=state), steal=steal, since=steal)
    elif was is None or stands is None:
        now = now if stands is False else None
        kept = Runstate(state=state, entered=now, times=_UNKNOWN_TIMES)
        found = found._replace(kept=kept, steal=steal, since=steal, least=None)
    else:
        found = found._replace(kept=_with_time(found.kept, was, _plus(found.kept.times[was], passed)))
        if was != RUNNING:
            found = found._replace(since=steal)
        elif not found.steal:
            found = _without_steal(found, steal)
        elif keeps is not False:
            shortest = passed.low if passed else 0
            found = found._replace(least=shortest if found.least is None else min(found.least, shortest))
        found = found._replace(steal=steal)
        found = settled(found) if state != RUNNING else found
        found = found._replace(kept=found.kept._replace(state=state, entered=now))
    vcpu.runstate = found._replace(page=None if found.on else found.page)


def _stands(keeps: bool | None, passed: Interval | None) -> bool | None:
    """Whether a runstate's times stand still; None if it is not known."""
    if keeps is False or (passed and signed(passed.low) >= 0):
        return False
    return True if keeps and passed and signed(passed.high) < 0 else None


def record_of_another(vcpu: Vcpu) -> None:
    """Take back what is known of a runstate that another thread updated than the playing one."""
    found = vcpu.runstate
    unknown = Runstate(state=None, entered=None, times=_UNKNOWN_TIMES)
    vcpu.runstate = found._replace(kept=unknown, steal=None, since=None, least=None)


def waited(world: World, run_delay: int) -> None:
    """Take note of what the playing thread has waited by now.

    If that is more than was known, it may have been preempted with any of the vCPUs loaded.
    """
    is_more, world.run_delay = run_delay > world.run_delay, run_delay
    for vcpu in world.vcpus.values() if world.xen else ():
        found = vcpu.runstate
        steal, since = (
            each and Interval(min(each.low, run_delay), min(each.high, run_delay))
            for each in (found.steal, found.since)
        )
        kept = found.kept
        if is_more:
            kept = Runstate(state=None, entered=None, times=_UNKNOWN_TIMES)
        vcpu.runstate = found._replace(steal=steal, since=since, kept=kept)


def noted_now(world: World) -> Interval:
    """What KVM notes as the playing thread's run_delay: what it is at the least is known."""
    return Interval(world.run_delay, max(EVER_NS, world.run_delay))


def settled(found: RunstatePage) -> RunstatePage:
    """With what the thread has waited added to the times."""
    if not found.steal or not found.since:
        return _without_steal(found, found.steal)
    grown = Interval(max(0, found.steal.low - found.since.high), found.steal.high - found.since.low)
    if found.least is not None and grown.high > found.least:
        return _without_steal(found, found.steal)
    running, runnable, *others = found.kept.times
    times = (_less(running, grown), _plus(runnable, grown), *others)
    return found._replace(kept=found.kept._replace(times=times), since=found.steal, least=None)


def _without_steal(found: RunstatePage, steal: Interval | None) -> RunstatePage:
    """Where it is not known what the thread waited: how long the vCPU was running and runnable is not."""
    times = (None, None, *found.kept.times[BLOCKED:])
    return found._replace(kept=found.kept._replace(times=times), steal=steal, since=steal, least=None)


def _state_before(kept: Runstate) -> int | None:
    """The state that a vCPU was in, as it counts: one that never entered any was offline."""
    if kept.entered == ZERO:
        return OFFLINE
    may_be_first = kept.entered is None or kept.entered.intersection(ZERO) is not None
    return None if may_be_first else kept.state


def _with_time(kept: Runstate, place: int, time: Interval | None) -> Runstate:
    return kept._replace(times=(*kept.times[:place], time, *kept.times[place + 1 :]))


def _plus(one: Interval | None, other: Interval | None) -> Interval | None:
    """The sum; None where that is not known, or next to nothing."""
    known = one is not None and other is not None and one.width + other.width < _VAGUE_NS
    return sum_of(one, other) if known and one and other else None


def _less(one: Interval | None, other: Interval | None) -> Interval | None:
    """The difference, likewise."""
    return _plus(one, other and Interval(-other.high, -other.low))
