# SPDX-License-Identifier: GPL-2.0-or-later
"""What it leads to that several vCPUs run, or are written, at once (see `operations`)."""

from itertools import permutations

from kvmharness.model import runstate, steal
from kvmharness.model.interval import Interval
from kvmharness.model.outcome import REFUSED, Action, Answer, Guess, Outcome, Within
from kvmharness.model.quantity import bounds
from kvmharness.model.rules import Rules
from kvmharness.model.state import HOME, DoubtError, World, distinct

# Two vCPUs leave some four ways open; with more of them, each may have run or have come too late.
_MOST_WORLDS = 64

_NONE = Within(Interval(0, 0))


def run_together(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_RUN of several vCPUs, each on another CPU, in whatever order.

    `written` is four values for each, as the step reads them.
    """
    numbers, values = action.operation.vcpus, action.written
    if not values:
        return [Outcome(world, (), REFUSED)]
    home = _home(world, values[0])
    worlds = [world]
    for place, number in enumerate(numbers):
        entered = []
        for each in worlds:
            each.cpu = values[4 * place]
            rules.load_vcpu(each, number, action.moment)
            if not values[4 * place + 1]:
                entered.append(each.fork())  # it may have come too late to run at all
            for after in rules.enter_guest(each, number, action.moment):
                steal.record_of_another(after, number)
                runstate.record_of_another(after.vcpus[number])
                entered.append(after)
        worlds = distinct(entered)
        if len(worlds) > _MOST_WORLDS:
            raise DoubtError(f"{len(numbers)} vCPUs at once leave too many ways open that it may have gone")
    for each in worlds:
        each.cpu = home
        for number in numbers:
            # One that was running already is sent out of the guest, and has its page written; or is not.
            rules.look_again(each, number, action.moment)
    return [Outcome(each, _answers(rules, each, numbers)) for each in worlds]


def write_together(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_SET_MSRS of MSR_IA32_TSC of several vCPUs, which KVM does one after the other, in whatever order.

    kvm_synchronize_tsc() takes the VM's tsc_write_lock. `written` is two values for each, as the step reads
    them.
    """
    numbers, values = action.operation.vcpus, action.written
    home = _home(world, values[0])
    found: list[World] = []
    for order in permutations(range(len(numbers))):
        worlds = [world.fork()]
        for place in order:
            written = []
            for each in worlds:
                each.cpu = values[2 * place]
                rules.load_vcpu(each, numbers[place], action.moment)
                value = Interval(values[2 * place + 1], values[2 * place + 1])
                written += rules.synchronize_tsc(each, numbers[place], value, action.moment, user=True)
            worlds = written
        found = distinct([*found, *worlds])
        if len(found) > _MOST_WORLDS:
            raise DoubtError(f"{len(numbers)} vCPUs at once leave too many ways open that it may have gone")
    for each in found:
        each.cpu = home
        for number in numbers if each.xen else ():
            # Another thread may have been preempted with it loaded, which this one's run_delay does not show.
            runstate.record_of_another(each.vcpus[number])
    return [Outcome(each, (None,) * len(values)) for each in found]


def set_clock_during_run(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_SET_CLOCK while a vCPU is in its guest, which it leaves for a new page; or before it enters that.

    `written` is the playing thread's CPU, the guest's and the clock.
    """
    if not action.written:
        return [Outcome(world, (), REFUSED)]
    number, moment = action.operation.vcpu, action.moment
    here, other, clock = action.written
    home = _home(world, here)
    found = []
    for runs_first in (True, False):
        begun = world.fork()
        if not runs_first:
            rules.set_clock(begun, clock, None, None, moment)
        begun.cpu = other
        rules.load_vcpu(begun, number, moment)
        for each in rules.enter_guest(begun, number, moment):
            if runs_first:
                rules.set_clock(each, clock, None, None, moment)
                # Its time may be up before it comes to enter its guest again.
                found += [each.fork(), *rules.process_requests(each, number, moment)]
            else:
                found.append(each)
    for each in found:
        each.cpu = home
        runstate.record_of_another(each.vcpus[number])
    return [Outcome(each, (None, None, None)) for each in distinct(found)]


def _home(world: World, first: int) -> int:
    """Where the playing thread is: till its first move on the CPU that the script began on."""
    for vcpu in world.vcpus.values():
        vcpu.cpu = first if vcpu.cpu == HOME else vcpu.cpu
    return first if world.cpu == HOME else world.cpu


def _answers(rules: Rules, world: World, numbers: tuple[int, ...]) -> tuple[Answer, ...]:
    """No warps among vCPUs that have one offset and one rate, on a host whose TSCs are synchronized."""
    vcpus = [world.vcpus[number] for number in numbers]
    synchronized = (
        rules.host.stable
        and rules.policy.honours_writes
        and not any(vcpu.tsc_catchup for vcpu in vcpus)
        and len({(vcpu.l1_tsc_offset, vcpu.ratio) for vcpu in vcpus}) == 1
    )
    if synchronized:
        return (None, None, _NONE, _NONE) * len(numbers)
    offsets = [bounds(vcpu.l1_tsc_offset, world.unknowns) for vcpu in vcpus]
    known = [each for each in offsets if each]
    answers: list[Answer] = []
    for offset in offsets:
        behind = max((-other.gap(offset) for other in known), default=0) if offset else 0
        answers += [None, None, Guess(int(behind > 0)), Guess(max(0, behind))]
    return tuple(answers)
