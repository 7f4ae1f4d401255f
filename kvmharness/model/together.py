# SPDX-License-Identifier: GPL-2.0-or-later
"""What it leads to that several vCPUs run at once (see `operations`)."""

from kvmharness.model.interval import Interval
from kvmharness.model.outcome import REFUSED, Answer, Deed, Guess, Outcome, Within
from kvmharness.model.quantity import bounds
from kvmharness.model.rules import Rules
from kvmharness.model.state import HOME, DoubtError, World, distinct

# Two vCPUs leave some four ways open; with more of them, each may have run or have come too late.
_MOST_WORLDS = 64

_NONE = Within(Interval(0, 0))


def run_together(rules: Rules, world: World, deed: Deed) -> list[Outcome]:
    """KVM_RUN of several vCPUs, each on another CPU, in whatever order.

    `written` is four values for each, as the step reads them.
    """
    numbers, values = deed.operation.vcpus, deed.written
    if not values:
        return [Outcome(world, (), REFUSED)]
    thread, home = world.cpu, values[0]
    for vcpu in world.vcpus.values():
        vcpu.cpu = home if vcpu.cpu == HOME else vcpu.cpu
    worlds = [world]
    for place, number in enumerate(numbers):
        entered = []
        for each in worlds:
            each.cpu = values[4 * place]
            rules.load_vcpu(each, number, deed.moment)
            if not values[4 * place + 1]:
                entered.append(each.fork())  # it may have come too late to run at all
            entered += rules.enter_guest(each, number, deed.moment)
        worlds = distinct(entered)
        if len(worlds) > _MOST_WORLDS:
            raise DoubtError(f"{len(numbers)} vCPUs at once leave too many ways open that it may have gone")
    for each in worlds:
        each.cpu = home if thread == HOME else thread
        for number in numbers:
            # One that was running already is sent out of the guest, and has its page written; or is not.
            rules.look_again(each, number, deed.moment)
    return [Outcome(each, _answers(rules, each, numbers)) for each in worlds]


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
