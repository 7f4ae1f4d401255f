# SPDX-License-Identifier: GPL-2.0-or-later
"""Steal time: how long the thread that runs a vCPU had to wait for a CPU.

As in `rules`, each rule is named for the kernel function it stands for (arch/x86/kvm/x86.c). KVM adds to the
page what the run_delay of the thread has grown by since it last did. It begins with 0 as the page does, so
that the page holds what the run_delay was then: of whichever thread ran the vCPU last.
"""

from typing import NamedTuple

from kvmharness.guests.layout import steal_time_address
from kvmharness.model import runstate
from kvmharness.model.interval import Interval
from kvmharness.model.pages import EVER_NS, StealPage
from kvmharness.model.state import Moment, World

STEAL_TIME = "STEAL_TIME"
ENABLED = 1  # KVM_MSR_ENABLED
RESERVED = 0x3E  # KVM_STEAL_RESERVED_MASK


class Stolen(NamedTuple):
    """Predicts the time in vCPU `vcpu`'s page, as far as that is known; a player that is made up says the
    least."""

    vcpu: int
    most: int
    least: int

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether it is that; the world takes note of it."""
        vcpu = world.vcpus[self.vcpu]
        vcpu.steal = vcpu.steal._replace(least=value, most=value)
        return self.least <= value <= self.most

    def bounds(self, world: World, moment: Moment) -> Interval:
        """From the least to the most."""
        return Interval(self.least, self.most)


class StealVersion(NamedTuple):
    """Predicts the version of vCPU `vcpu`'s page: even, and this or higher; exactly this if it `stands`."""

    vcpu: int
    stands: bool
    least: int

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether it is that; the world takes note of it."""
        vcpu = world.vcpus[self.vcpu]
        vcpu.steal = vcpu.steal._replace(version=value, is_read=True)
        return value == self.least or (value % 2 == 0 and value > self.least and not self.stands)

    def bounds(self, world: World, moment: Moment) -> Interval | None:
        """None where there is no highest."""
        return Interval(self.least, self.least) if self.stands else None


def write(world: World, number: int, value: int) -> bool:
    """kvm_set_msr_common(), of MSR_KVM_STEAL_TIME: whether it is accepted."""
    if value & RESERVED:
        return False
    vcpu, own = world.vcpus[number], steal_time_address(number)
    on = bool(value & ENABLED) and (value - ENABLED == own or None)
    # Any other place may be another vCPU's page.
    world.pages_known = world.pages_known and on is not None
    vcpu.steal = vcpu.steal._replace(on=on, msr=value)
    return True


def record(world: World, number: int) -> None:
    """record_steal_time(), at an entry to the guest after a load, by the playing thread."""
    vcpu = world.vcpus[number]
    page = vcpu.steal
    if world.xen:
        return  # which gets a runstate instead (kvm_xen_msr_enabled())
    if page.on is None:
        vcpu.steal = page._replace(is_whole=False)
    elif page.on:
        least = world.run_delay if page.is_whole else 0
        # A thread that is preempted loads its vCPU again, and each time the page is written again.
        vcpu.steal = page._replace(least=least, most=EVER_NS, version=page.version + 2, is_read=False)


def record_of_write(world: World, number: int, *, certain: bool) -> None:
    """record_steal_time(), at the next entry of a guest that has just written the MSR; `certain` if it came
    to that."""
    vcpu = world.vcpus[number]
    if certain:
        record(world, number)
    elif vcpu.steal.on:
        vcpu.steal = vcpu.steal._replace(is_whole=False)


def record_of_another(world: World, number: int) -> None:
    """Take back how long the thread had waited that recorded it: it was another than the playing one."""
    vcpu = world.vcpus[number]
    if vcpu.steal.on:
        vcpu.steal = vcpu.steal._replace(least=0)


def note(world: World, number: int, after: int) -> StealPage:
    """Take note of the playing thread's run_delay after it has run a vCPU: what the page then is."""
    runstate.waited(world, after)
    vcpu = world.vcpus[number]
    page = vcpu.steal
    if page.on and page.is_whole:
        vcpu.steal = page._replace(most=min(page.most, after))
    return vcpu.steal
