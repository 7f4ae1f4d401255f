# SPDX-License-Identifier: GPL-2.0-or-later
"""What debugfs showed of the vCPUs after a step, compared with what the rules say."""

from kvmharness.model.interval import Interval
from kvmharness.model.quantity import narrow
from kvmharness.model.rules import Rules
from kvmharness.model.state import World
from kvmharness.trace import Event


def shows(rules: Rules, world: World, event: Event) -> bool:
    """Whether the vCPUs of a world have the offsets and ratios that were seen; it takes note of these.

    On a host with an unstable TSC an offset is that of the last load, and a thread that was preempted loads
    its vCPU when it comes back: there nothing is asked of it.
    """
    if not event.debugfs or not rules.host.stable:
        return True
    return all(
        number not in world.vcpus
        or (_has_offset(world, number, shown.offset) and _has_ratio(world, number, shown.ratio))
        for number, shown in zip(event.operation.vcpu_numbers, event.debugfs, strict=False)
    )


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
