# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference time of a Hyper-V: the VM's clock in units of 100 ns, by an MSR and by the TSC page.

As in `rules`, each rule is named for the kernel function it stands for (arch/x86/kvm/hyperv.c). The page is
the kvmclock page of the vCPU that writes it, in other units: it lies on the same line.
"""

from typing import NamedTuple

from kvmharness.guests.layout import TSC_PAGE
from kvmharness.model import arithmetic, line
from kvmharness.model.interval import Interval
from kvmharness.model.line import OnLine
from kvmharness.model.pages import Page
from kvmharness.model.quantity import Quantity, bounds, narrow
from kvmharness.model.rates import Rates
from kvmharness.model.state import ZERO, Moment, Vcpu, World

# hv_tsc_page_status; None where it is not known.
UNSET, GUEST_CHANGED, HOST_CHANGED, SET, BROKEN = "unset", "guest-changed", "host-changed", "set", "broken"
_PENDING = (GUEST_CHANGED, HOST_CHANGED)

ENABLE = 1  # HV_X64_MSR_TSC_REFERENCE_ENABLE
UNIT_NS = 100

# A clock is rounded down to the unit. Where it is computed by the page, so are the two times and the offset
# that it is made of (compute_tsc_page_parameters).
CLOCK_WITHIN = Interval(0, UNIT_NS + line.ROUNDED_NS)
PAGE_WITHIN = Interval(-UNIT_NS, 2 * UNIT_NS + line.ROUNDED_NS)


class Counted(NamedTuple):
    """Predicts a reference time that is read within the moment, of a clock that is on a line."""

    on_line: OnLine

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether it can be that; the world takes note of the line."""
        return line.is_on(world, self.on_line, (value,), moment)

    def bounds(self, world: World, moment: Moment) -> Interval | None:
        """From the time at the moment's beginning to that at its end."""
        at_zero, found = bounds(self.on_line.line, world.unknowns), self.on_line
        if at_zero is None or found.within is None:
            return None
        low, high = (end + line.ns_at(tsc, found.khz) for end, tsc in zip(at_zero, moment.tsc, strict=True))
        return Interval((low - found.within.high) // UNIT_NS, (high - found.within.low) // UNIT_NS + 1)


class CountedByHost(NamedTuple):
    """Predicts a reference time that is read within the moment, of the host's raw clock plus this offset,
    give or take `drift` (ns)."""

    offset: Quantity
    drift: int

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether it can be that; the world takes note of the offset."""
        low, high = moment.ns.low - self.drift, moment.ns.high + self.drift
        clock = value * UNIT_NS
        return narrow(self.offset, Interval(clock - high, clock + UNIT_NS - 1 - low), world.unknowns)

    def bounds(self, world: World, moment: Moment) -> Interval | None:
        """From the time at the moment's beginning to that at its end."""
        offset = bounds(self.offset, world.unknowns)
        if offset is None:
            return None
        low, high = moment.ns.low - self.drift + offset.low, moment.ns.high + self.drift + offset.high
        return Interval(low // UNIT_NS, high // UNIT_NS)


class ReferenceTime(Rates):
    """The reference time of a kernel's VMs."""

    def write_hyperv_msr(self, world: World, vcpu: Vcpu, name: str, value: int, *, guest: bool) -> None:
        """kvm_hv_set_msr_pw(), of the MSRs that the reference time rests on."""
        if name == "HV_REFERENCE_TSC":
            self._write_reference_tsc(world, vcpu, value, guest=guest)
        elif name == "HV_TSC_EMULATION_CONTROL":
            world.hv_tsc_emulation_control = bool(value)

    def _write_reference_tsc(self, world: World, vcpu: Vcpu, value: int, *, guest: bool) -> None:
        """Of HV_X64_MSR_REFERENCE_TSC, which asks for the masterclock to be looked at again."""
        world.hv_tsc_page = value
        vcpu.request = True if value & ENABLE else vcpu.request
        if not self.host.keeps_tsc_page:
            world.hv_tsc_page_status = None
            self._may_be_set_up(world)
            return
        if not value & ENABLE:
            world.hv_tsc_page_status = UNSET
            return
        world.hv_tsc_page_status = GUEST_CHANGED if guest else HOST_CHANGED
        if value - ENABLE != TSC_PAGE:
            # It may be where a vCPU's kvmclock page is, or where there is no memory.
            world.pages_known, world.hv_tsc_page_status, world.ref_sequence = False, None, None

    def request_tsc_page_update(self, world: World, *, certain: bool) -> None:
        """kvm_hv_request_tsc_page_update(), which comes with each look at the masterclock."""
        if world.hv_tsc_page_status == SET and not world.hv_tsc_emulation_control:
            world.hv_tsc_page_status = HOST_CHANGED if certain else None

    def wants_tsc_page(self, world: World) -> bool:
        """Whether the page may be written by the next vCPU whose clock is updated."""
        return world.hv_tsc_page_status is None or world.hv_tsc_page_status in _PENDING

    def setup_tsc_page(self, world: World, vcpu: Vcpu, page: Page, *, certain: bool) -> None:
        """kvm_hv_setup_tsc_page(), with what the vCPU's kvmclock page is or would be."""
        # Whether the page is called stable is known only with whether the host's own clock runs on the TSC.
        stable = world.is_stable(page)
        kept = world.hv_tsc_page_status == HOST_CHANGED and world.hv_tsc_emulation_control
        if kept and world.ref_sequence is not None and certain:
            if world.ref_sequence.low > 0:
                world.hv_tsc_page_status = SET  # with what is in the page already: tsc_page_update_unsafe()
                return
            kept = False
        if kept or not certain or stable is None or world.hv_tsc_page_status is None:
            self._may_be_set_up(world)
            return
        if not stable or not self._has_scale(page.khz):
            world.hv_tsc_page_status, world.ref_sequence = BROKEN, ZERO
            return
        world.hv_tsc_page_status = SET
        if world.ref_sequence is not None:
            world.ref_sequence = Interval(world.ref_sequence.low + 1, world.ref_sequence.high + 1)
        world.ref_khz = page.khz if world.clock_khz and not vcpu.ratio_slack and vcpu.ratio != 0 else 0
        world.ref_tsc = page.tsc
        world.ref_line, world.ref_origin, world.ref_offset = (
            world.line,
            world.kvmclock_offset,
            vcpu.l1_tsc_offset,
        )
        world.ref_ratio, world.ref_raw = vcpu.ratio, world.line_raw if self.has_line(world) else None

    def has_line(self, world: World) -> bool:
        """Whether the VM's clock is on a line, and how steep that is."""
        on_tsc = world.masterclock is True and world.master is not None
        return on_tsc and world.clock_khz is not None and world.line_raw is not None

    def _may_be_set_up(self, world: World) -> None:
        world.hv_tsc_page_status, world.ref_raw, world.ref_sequence, world.ref_khz = None, None, None, 0

    @staticmethod
    def _has_scale(khz: int) -> bool:
        """Whether the scale of a page fits 64 bits: not that of a TSC of 10 MHz and less."""
        if not khz:
            return True
        multiplier, shift = arithmetic.get_time_scale(arithmetic.NS_PER_SECOND, khz * 1000)
        return multiplier < UNIT_NS << 32 - shift

    def reference_time(self, world: World, moment: Moment, drift: int) -> Counted | CountedByHost | None:
        """get_time_ref_counter(): by the page as KVM last wrote it, or else by the VM's clock."""
        status = world.hv_tsc_page_status
        first = next(iter(world.vcpus.values()))
        if not self.policy.honours_writes or status is None or world.tsc_clocksource is None:
            return None
        if status != SET:
            if not self.has_line(world):
                return None if world.use_master_clock else CountedByHost(world.kvmclock_offset, drift)
            assert world.clock_khz and world.line_raw  # noqa: PT018
            drawn = world.line, world.clock_khz, world.kvmclock_offset, world.line_raw
            return Counted(OnLine(*drawn, clock=0, unit=UNIT_NS, within=CLOCK_WITHIN))
        same = (first.l1_tsc_offset, first.ratio) == (world.ref_offset, world.ref_ratio)
        if not same or world.ref_raw is None or not world.clock_khz or first.ratio or not world.ref_khz:
            return None
        # A page is wrong once its TSC wraps around.
        now = lap(self.l1_tsc(world, first, moment.tsc))
        if world.ref_tsc is None or now is None or now != lap(world.ref_tsc):
            return None
        page = world.ref_line, world.clock_khz, world.ref_origin, world.ref_raw
        return Counted(OnLine(*page, clock=0, unit=UNIT_NS, within=PAGE_WITHIN))


def lap(tsc: Interval) -> int | None:
    """How often a TSC has wrapped around; None where it may just then."""
    first, last = (end // arithmetic.WORD for end in tsc)
    return first if first == last else None


def scale(khz: int) -> int:
    """tsc_scale of a page for a TSC of `khz` kHz: compute_tsc_page_parameters()."""
    multiplier, shift = arithmetic.get_time_scale(arithmetic.NS_PER_SECOND, khz * 1000)
    return (multiplier << 32 + shift) // UNIT_NS
