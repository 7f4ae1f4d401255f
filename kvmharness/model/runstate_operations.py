# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operations on the runstates of a Xen's vCPUs lead to (see `operations`)."""

from kvmharness.model import runstate
from kvmharness.model.arithmetic import WORD
from kvmharness.model.interval import Interval
from kvmharness.model.outcome import REFUSED, Action, Answer, Outcome, Within
from kvmharness.model.pages import EVER_NS, Runstate
from kvmharness.model.rules import Rules
from kvmharness.model.runstate import RunstateValue
from kvmharness.model.state import World
from kvmharness.model.xen_operations import without_xen

_READ = 6  # values of a runstate
# What a kernel answers that does not count run_delay, by which it has no steal time either.
_NOT_COUNTED = frozenset({"EOPNOTSUPP"})


def set_xen_runstate(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """kvm_xen_vcpu_set_attr() of the page, which is written then."""
    outcomes = _without_runstate(rules, world, action)
    if world.has_xen is not False:
        vcpu = world.vcpus[action.operation.vcpu]
        vcpu.runstate = vcpu.runstate._replace(on=True, page=None)
        outcomes.insert(0, Outcome(world))
    return outcomes


def enter_xen_runstate(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """kvm_xen_vcpu_set_attr() of a state that is entered now.

    `written` is the playing thread's run_delay before and after.
    """
    outcomes = _without_runstate(rules, world, action)
    if world.has_xen is False or not action.written:
        return outcomes
    before, after = action.written
    answers = Within(Interval(world.run_delay, EVER_NS)), Within(Interval(before, EVER_NS))
    now = runstate.clock_now(rules, world, action.moment) if rules.policy.honours_writes else None
    runstate.waited(world, before)
    vcpu, noted = world.vcpus[action.operation.vcpu], Interval(before, max(before, after))
    runstate.update(rules, world, vcpu, action.operation.state, now, steal=noted)
    runstate.waited(world, after)
    return [Outcome(world, answers), *outcomes]


def set_xen_runstate_times(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """kvm_xen_vcpu_set_attr() of times, which the VM's clock has to have reached, all together."""
    nothing: tuple[Answer, ...] = (None,) * len(action.written)
    outcomes = _without_runstate(rules, world, action)
    if world.has_xen is False or not action.written:
        return outcomes
    now = runstate.clock_now(rules, world, action.moment) if rules.policy.honours_writes else None
    entered = sum(action.written) % WORD
    least = now and now.low % WORD
    if now is None or least is None or least < entered:
        outcomes.append(Outcome(world.fork(), nothing, REFUSED))
    if now is None or least is None or least + now.width >= entered:
        vcpu = world.vcpus[action.operation.vcpu]
        times = tuple(Interval(each, each) for each in action.written)
        kept = Runstate(action.operation.state, Interval(entered, entered), times)
        was, steal = runstate.settled(vcpu.runstate), runstate.noted_now(world)
        vcpu.runstate = was._replace(kept=kept, page=was.page or was.kept, steal=steal, since=steal)
        outcomes.insert(0, Outcome(world, nothing))
    return outcomes


def read_xen_runstate(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """What lies in the page; `written` is the playing thread's run_delay."""
    number = action.operation.vcpu
    after: tuple[Answer, ...] = ()
    if action.written:
        after = (Within(Interval(world.run_delay, EVER_NS)),)
        runstate.waited(world, action.written[0])
    vcpu = world.vcpus[number]
    if not rules.policy.honours_writes or not world.pages_known:
        return [Outcome(world, ((None,) * _READ + after))]
    vcpu.runstate = runstate.settled(vcpu.runstate)
    page = vcpu.runstate.page
    if page is None:
        return [Outcome(world, (*(RunstateValue(number, place) for place in range(_READ)), *after))]
    state = None if page.state is None else Interval(page.state, page.state)
    answers = tuple(each and Within(each) for each in (state, page.entered, *page.times))
    return [Outcome(world, (*answers, *after))]


def _without_runstate(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """What a kernel answers that has no runstates, if this one may be such."""
    rules.load_vcpu(world, action.operation.vcpu, action.moment)
    refused = without_xen(world)
    if world.has_xen is not False and world.has_steal_time is not True:
        absent = world.fork()
        absent.has_steal_time = False
        refused.append(Outcome(absent, errors=_NOT_COUNTED))
    world.has_xen = world.has_xen is not False
    return refused
