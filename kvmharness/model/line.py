# SPDX-License-Identifier: GPL-2.0-or-later
"""The line: the VM's clock as a function of the host's TSC, for as long as there is a masterclock.

A masterclock is one reading of the host's TSC and raw clock (pvclock_update_vm_gtod_copy). From there KVM
counts cycles: KVM_GET_CLOCK and every kvmclock page lie on one line, whose slope is the rate that KVM takes
the TSC for (kvm_get_time_scale). A line is known by what the clock would be at a host's TSC of 0, in ns.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kvmharness.model import arithmetic
from kvmharness.model.interval import Interval
from kvmharness.model.quantity import Quantity, bounds, narrow
from kvmharness.model.state import Moment, World

# By how much a clock is rounded down (pvclock_scale_delta shifts, multiplies and shifts, of which two may
# lose), in ns.
ROUNDED_NS = 2

# The host's raw clock as the kernel and as its vDSO read it: each is rounded down to a ns, in another place.
RAW_NS = 2

# The host's raw clock multiplies by a number of 24 bits or more (clocks_calc_mult_shift, for 600 s), which is
# off by less than this many millionths.
_RAW_PPM = 1


class OnLine(NamedTuple):
    """Predicts that a clock and a TSC, both read at one step, lie on a line.

    `clock` and `tsc` are the places of the values that are on it; a `tsc` of None is the host's within the
    moment. The line is in ns at a host's TSC of 0, `khz` its slope. It is as far above the host's `raw`
    clock, in the masterclock's snapshot, as the VM's clock: kvmclock_offset, `origin`. Of a vCPU's page: its
    `offset` and `ratio`.

    A clock may be in units of `unit` ns, and lie `within` so many ns of the line. One that is computed from a
    Hyper-V TSC page, whose scale and offset are at `scale` and `clock`, is looked at where the vCPU's TSC is
    `at`.
    """

    line: Quantity
    khz: int
    origin: Quantity
    raw: Interval
    clock: int
    tsc: int | None = None
    offset: Quantity | None = None
    ratio: int | None = None
    unit: int = 1
    within: Interval | None = None
    scale: int | None = None
    at: int = 0


def ns_at(tsc: int, khz: int) -> int:
    """How many ns KVM takes `tsc` cycles for, rounded down only once."""
    multiplier, shift = arithmetic.get_time_scale(arithmetic.NS_PER_SECOND, khz * 1000)
    return tsc * multiplier << shift >> 32 if shift >= 0 else tsc * multiplier >> 32 - shift


def raw_clock(moment: Moment, khz: int, host_khz: int) -> Interval:
    """The line of the host's raw clock at a moment, in ns at a TSC of 0, if it had KVM's slope.

    That clock is read after the first and before the last reading of the TSC; in between it may go another
    way by as much as its rate is not KVM's.
    """
    width = moment.ns.width
    slack = RAW_NS + width * abs(host_khz - khz) // khz + width * _RAW_PPM // 1_000_000
    ends = moment.ns.high - ns_at(moment.tsc.high, khz), moment.ns.low - ns_at(moment.tsc.low, khz)
    return Interval(min(ends) - slack, max(ends) + slack)


def through(clock: Interval, tsc: Interval, khz: int) -> Interval:
    """Which lines (ns at a TSC of 0) go through a clock at a host's TSC, each known to an interval."""
    return Interval(clock.low - ns_at(tsc.high, khz) - 1, clock.high - ns_at(tsc.low, khz))


def is_on(world: World, found: OnLine, values: Sequence[int], moment: Moment) -> bool:
    """Whether values lie on the line; if so the world takes note of which it then is, and of the VM's
    clock."""
    seen = _seen(world, found, values, moment)
    if seen is None:
        return True
    return (
        follow_origin(world, found) and narrow(found.line, seen, world.unknowns) and note_origin(world, found)
    )


def follow_origin(world: World, found: OnLine) -> bool:
    """Have the line be one that the VM's clock allows; whether there is one."""
    origin = bounds(found.origin, world.unknowns)
    if origin is None:
        return True
    allowed = Interval(origin.low + found.raw.low, origin.high + found.raw.high)
    return narrow(found.line, allowed, world.unknowns)


def note_origin(world: World, found: OnLine) -> bool:
    """Have the VM's clock be one that the line allows; whether there is one."""
    known = bounds(found.line, world.unknowns)
    assert known is not None
    allowed = Interval(known.low - found.raw.high, known.high - found.raw.low)
    return narrow(found.origin, allowed, world.unknowns)


def off_by(world: World, found: OnLine, values: Sequence[int], moment: Moment) -> int:
    """How far (ns) values are above the line, negative below; 0 where they lie on it."""
    seen, known = _seen(world, found, values, moment), bounds(found.line, world.unknowns)
    return known.gap(seen) if seen and known else 0


def host_tsc(world: World, found: OnLine, values: Sequence[int], moment: Moment) -> Interval | None:
    """The host's TSC at which the clock was what the values say; None where that is not known."""
    if found.scale is None and (found.tsc is None or len(values) <= found.tsc):
        return moment.tsc
    tsc = found.at if found.tsc is None else values[found.tsc]
    if found.offset is None:
        return Interval(tsc, tsc)
    offset = bounds(found.offset, world.unknowns)
    return offset and _hosts(tsc, offset, found.ratio, world.fraction_bits or 0)


def _seen(world: World, found: OnLine, values: Sequence[int], moment: Moment) -> Interval | None:
    """Which lines the values may lie on; None where that is not known."""
    tsc, clock = host_tsc(world, found, values, moment), values[found.clock]
    if tsc is None:
        return None
    if found.scale is not None:
        clock = (clock + scaled(found.at, values[found.scale])) % arithmetic.WORD
    if found.within:
        clock *= found.unit
        return through(Interval(clock + found.within.low, clock + found.within.high), tsc, found.khz)
    # A page's time is that of its TSC, to the ns; a clock was rounded down since.
    rounded = ROUNDED_NS if found.offset is None else 0
    return through(Interval(clock, clock + rounded), tsc, found.khz)


def scaled(tsc: int, scale: int) -> int:
    """A TSC in units of 100 ns, by the scale of a Hyper-V TSC page: mul_u64_u64_shr()."""
    return tsc % arithmetic.WORD * scale >> 64


def _hosts(tsc: int, offset: Interval, ratio: int | None, bits: int) -> Interval:
    """The host's TSC at which a vCPU's is `tsc`."""
    low = (tsc - offset.high) % arithmetic.WORD
    high = low + offset.width
    if ratio is None:
        return Interval(low, high)
    return Interval((low << bits) // ratio, (high + 1 << bits) // ratio + 1)
