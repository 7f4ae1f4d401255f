# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operations on steal time lead to (see `operations`)."""

from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.model import runstate, steal
from kvmharness.model.interval import Interval
from kvmharness.model.outcome import REFUSED, Action, Answer, Flag, Outcome, Within
from kvmharness.model.pages import EVER_NS
from kvmharness.model.quantity import Quantity
from kvmharness.model.rules import Rules
from kvmharness.model.state import World
from kvmharness.model.vcpu_operations import samples

_KVM_VCPU_PREEMPTED = 1


def read_steal_time(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_RUN of a guest that reads its steal time.

    `written` is the run_delay of the thread before and after, of a guest that came so far.
    """
    number, outcomes = action.operation.vcpu, []
    if not PROGRAMS[world.vcpus[number].guest].reads_steal_time:
        return [Outcome(world, (), REFUSED)]
    rules.load_vcpu(world, number, action.moment)
    if not action.written:
        outcomes.append(Outcome(world.fork()))
    waited = _since(world, action)
    for each in rules.enter_guest(world, number, action.moment):
        tsc = samples(rules, each, each.vcpus[number], action)[:1]
        page = _page(each, number, action) if action.written else ()
        outcomes.append(Outcome(each, (*page, *waited, *tsc) if action.written else ()))
        rules.leave_guest(each, number, certain=bool(action.written))
    return outcomes


def wait_for_cpu(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """Another thread competes for the CPU; `written` is the playing thread's run_delay before and after."""
    waited = _since(world, action)
    world.run_delay = action.written[-1] if action.written else world.run_delay
    return [Outcome(world, waited)]


def _since(world: World, action: Action) -> tuple[Answer, ...]:
    """A thread's run_delay before and after a step: it never shrinks. The world takes note of the first."""
    if not action.written:
        return ()
    before, _ = action.written
    answers = Within(Interval(world.run_delay, EVER_NS)), Within(Interval(before, EVER_NS))
    runstate.waited(world, before)
    return answers


def _page(world: World, number: int, action: Action) -> tuple[Answer, ...]:
    """Time, version, flags, whether the vCPU was preempted, padding."""
    page = steal.note(world, number, action.written[1])
    if not world.pages_known:
        return (None,) * 5
    # A guest that reads it runs: what an earlier exit left there was taken away, if the page is on.
    preempted = Quantity(0) if page.on else Flag(~_KVM_VCPU_PREEMPTED, 0)
    if not page.is_whole:
        return (None, None, Quantity(0), preempted, Quantity(0))
    stands = page.is_read and not page.on
    version = steal.StealVersion(number, stands, page.version)
    return (steal.Stolen(number, page.most, page.least), version, Quantity(0), preempted, Quantity(0))
