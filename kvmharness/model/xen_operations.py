# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operations on the time of a Xen's VM lead to (see `operations`).

KVM writes Xen's two pages of a vCPU together with its kvmclock page, and of the same numbers.
"""

from kvmharness.model import real_time
from kvmharness.model.clock_operations import page_reading
from kvmharness.model.interval import Interval
from kvmharness.model.outcome import UNKNOWN, Action, Outcome, Within, XenVersion
from kvmharness.model.pages import XenClock
from kvmharness.model.quantity import Quantity
from kvmharness.model.rules import Rules
from kvmharness.model.runstate import clock_now
from kvmharness.model.state import World


def set_xen(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_XEN_HVM_CONFIG, and kvm_xen_shared_info_init(), which may ask all vCPUs to look at the masterclock.

    It does so up to 7.2, and no longer on 7.3.
    """
    outcomes = without_xen(world)
    if world.has_xen is False:
        return outcomes
    world.has_xen = True
    times = world.xen.times + 1 if world.xen else 1
    world.xen = XenClock(times, _wall_clock(rules, world, action))
    return [*map(Outcome, _renewed(world)), *outcomes]


def _renewed(world: World) -> list[World]:
    """The world in which all vCPUs are asked to look at the masterclock, and the one in which none is, as far
    as that is not known."""
    worlds = [world]
    if world.xen_renews is None and not all(each.request for each in world.vcpus.values()):
        unasked = world.fork()
        world.xen_renews, unasked.xen_renews = True, False
        worlds.append(unasked)
    if world.xen_renews is not False:
        for vcpu in world.vcpus.values():
            vcpu.request = True
    return worlds


def set_xen_time(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """kvm_xen_vcpu_set_attr(), which asks for the vCPU's time to be written."""
    number = action.operation.vcpu
    rules.load_vcpu(world, number, action.moment)
    outcomes = without_xen(world)
    if world.has_xen is False:
        return outcomes
    world.has_xen, vcpu = True, world.vcpus[number]
    vcpu.xen_time = vcpu.clock_request = True
    return [Outcome(world), *outcomes]


def read_xen_time(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """What lies in a vCPU's time info."""
    number = action.operation.vcpu
    vcpu = world.vcpus[number]
    if not rules.policy.honours_writes:
        return [Outcome(world, (None,) * 6)]
    version = vcpu.xen_page and XenVersion(number, vcpu.xen_page.version)
    drawn = vcpu.xen_raw, vcpu.xen_line, vcpu.xen_origin, vcpu.xen_offset, vcpu.xen_ratio
    return [page_reading(world, vcpu, vcpu.xen_page, version, drawn)]


def read_xen_vcpu_info(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """What lies in a vCPU's vcpu_info: the same."""
    return read_xen_time(rules, world, action)


def read_xen_wall_clock(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """What lies in the page that is shared with the guest."""
    if not rules.policy.honours_writes or not world.pages_known:
        return [Outcome(world, (None, None))]
    if world.xen is None:
        return [Outcome(world, (Quantity(0), Quantity(0)))]
    known = Within(world.xen.ns) if world.xen.ns else None
    return [Outcome(world, (Quantity(2 * world.xen.times), known))]


def without_xen(world: World) -> list[Outcome]:
    """What a kernel answers whose VMs cannot be a Xen's, if this one may be such."""
    if world.has_xen is True:
        return []
    absent = world.fork()
    absent.has_xen = False
    return [Outcome(absent, errors=UNKNOWN)]


def _wall_clock(rules: Rules, world: World, action: Action) -> Interval | None:
    """kvm_get_wall_clock_epoch(): the real time less the VM's clock, which kernels may read in turn."""
    now, clock = real_time.now(rules, world, action.moment), clock_now(rules, world, action.moment)
    if action.realtime is not None:
        now = Interval(action.realtime, action.realtime)
    return now and clock and Interval(now.low - clock.high, now.high - clock.low)
