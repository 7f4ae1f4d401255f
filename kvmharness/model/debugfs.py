# SPDX-License-Identifier: GPL-2.0-or-later
"""What debugfs showed of the vCPUs after a step, compared with what the rules say."""

from kvmharness.model.interval import Interval
from kvmharness.model.quantity import bounds, narrow
from kvmharness.model.rules import Rules
from kvmharness.model.state import Moment, World
from kvmharness.trace import Event


def shows(rules: Rules, world: World, event: Event, moment: Moment) -> bool:
    """Whether the vCPUs of a world have the offsets and ratios that were seen; it takes note of these.

    On a host with an unstable TSC an offset is that of the last load, and a thread that was preempted loads
    its vCPU when it comes back. There it is asked of writes alone, and only where all CPUs have one TSC.
    """
    if not event.debugfs:
        return True
    if not rules.host.stable:
        return not rules.host.one_tsc or _was_written(rules, world, event, moment)
    return all(
        number not in world.vcpus
        or world.vcpus[number].l2_offset is not None
        or (_has_offset(world, number, shown.offset) and _has_ratio(world, number, shown.ratio))
        for number, shown in zip(event.operation.vcpu_numbers, event.debugfs, strict=False)
    )


def _was_written(rules: Rules, world: World, event: Event, moment: Moment) -> bool:
    """Whether a write of a TSC left an offset that it can have left, by itself or by a load after it."""
    operation, values = event.operation, event.values
    wrote = operation.guest_tsc(values) is not None or operation.tsc_offset(values) is not None
    if not wrote or event.exits or event.error or operation.only_reads_tsc(values, event.error):
        return True
    if operation.creates_vcpu:
        return True
    for number, shown in zip(operation.vcpu_numbers, event.debugfs, strict=False):
        vcpu = world.vcpus[number]
        written = bounds(vcpu.l1_tsc_offset, world.unknowns)
        seen = Interval(shown.offset, shown.offset)
        possible = (written, rules.offset_of_load(world, vcpu, moment))
        if not any(each is None or each.intersection(seen) for each in possible):
            return False
    # The next load computes an offset anew: what this one is says nothing of that.
    return True


def _has_offset(world: World, number: int, seen: int) -> bool:
    return narrow(world.vcpus[number].l1_tsc_offset, Interval(seen, seen), world.unknowns)


def _has_ratio(world: World, number: int, seen: int | None) -> bool:
    """Of a vCPU at the host's rate the ratio says nothing: 1, as each kind of hardware writes it."""
    vcpu = world.vcpus[number]
    if seen is None or not vcpu.ratio or not vcpu.follows:
        return True
    if abs(seen - vcpu.ratio) > vcpu.ratio_slack:
        return False
    vcpu.ratio, vcpu.ratio_slack = seen, 0
    return True
