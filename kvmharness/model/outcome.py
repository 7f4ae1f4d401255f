# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operation leads to: a world, and what it predicts of each value that the step reads."""

from typing import Any, NamedTuple

from kvmharness.model.interval import Interval
from kvmharness.model.line import OnLine
from kvmharness.model.quantity import Quantity, bounds, narrow
from kvmharness.model.reference_time import Counted, CountedByHost
from kvmharness.model.runstate import RunstateValue
from kvmharness.model.state import Moment, World
from kvmharness.model.steal import StealVersion, Stolen

OK = frozenset({""})
# How a kernel answers an ioctl or attribute it does not know; before 5.16 a vCPU's attribute: EINVAL.
UNKNOWN = frozenset({"ENXIO", "ENOTTY", "EINVAL"})
REFUSED = frozenset({"EINVAL"})


class Tsc(NamedTuple):
    """Predicts a TSC that is read within the moment: the host's, scaled, plus this offset."""

    offset: Quantity
    ratio: int | None

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether the TSC can be that; the world takes note of the offset."""
        low, high = self._hosts(world, moment)
        return narrow(self.offset, Interval(value - high, value - low), world.unknowns)

    def bounds(self, world: World, moment: Moment) -> Interval | None:
        """From the TSC at the moment's beginning to that at its end."""
        offset, (low, high) = bounds(self.offset, world.unknowns), self._hosts(world, moment)
        return offset and Interval(low + offset.low, high + offset.high)

    def _hosts(self, world: World, moment: Moment) -> tuple[int, int]:
        if self.ratio is None:
            return moment.tsc
        low, high = moment.tsc
        bits = world.fraction_bits or 0
        return low * self.ratio >> bits, high * self.ratio >> bits


class Within(NamedTuple):
    """Predicts a value in this interval, modulo 2**64; `exact` is which, if the host is as it says."""

    interval: Interval
    exact: int | None = None

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether it is in there."""
        return self.interval.intersection(Interval(value, value)) is not None

    def bounds(self, world: World, moment: Moment) -> Interval:
        """The interval."""
        return self.interval


class Flag(NamedTuple):
    """Predicts of the bits of `mask` that they are as in `bits`; a player that is made up says `bits`.

    Of those of `together` that all of them are set, or none.
    """

    mask: int
    bits: int
    together: int = 0

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether these bits are so."""
        return (value ^ self.bits) & self.mask == 0 and value & self.together in (0, self.together)

    def bounds(self, world: World, moment: Moment) -> None:
        """None: bits are no number."""


class Clock(NamedTuple):
    """Predicts a clock that is read within the moment: the host's raw one plus this offset, give or take
    `drift` (ns)."""

    offset: Quantity
    drift: int

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether the clock can be that; the world takes note of the offset."""
        low, high = moment.ns.low - self.drift, moment.ns.high + self.drift
        return narrow(self.offset, Interval(value - high, value - low), world.unknowns)

    def bounds(self, world: World, moment: Moment) -> Interval | None:
        """From the clock at the moment's beginning to that at its end."""
        offset = bounds(self.offset, world.unknowns)
        low, high = moment.ns.low - self.drift, moment.ns.high + self.drift
        return offset and Interval(low + offset.low, high + offset.high)


class Version(NamedTuple):
    """Predicts the version of vCPU `vcpu`'s kvmclock page: even, and this or higher."""

    vcpu: int
    least: int

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether it is that; the world takes note of it."""
        vcpu = world.vcpus[self.vcpu]
        vcpu.page = vcpu.page and vcpu.page._replace(version=value)
        return value % 2 == 0 and value >= self.least

    def bounds(self, world: World, moment: Moment) -> None:
        """None: there is no highest."""


class XenVersion(NamedTuple):
    """Predicts the version of the time that a Xen tells vCPU `vcpu`: even, and this or higher."""

    vcpu: int
    least: int

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """Whether it is that; the world takes note of it."""
        vcpu = world.vcpus[self.vcpu]
        vcpu.xen_page = vcpu.xen_page and vcpu.xen_page._replace(version=value)
        return value % 2 == 0 and value >= self.least

    def bounds(self, world: World, moment: Moment) -> None:
        """None: there is no highest."""


class Guess(NamedTuple):
    """Predicts nothing; a player that is made up says `value`."""

    value: int

    def agrees(self, world: World, value: int, moment: Moment) -> bool:
        """It always is."""
        return True

    def bounds(self, world: World, moment: Moment) -> None:
        """None."""


# One value of a step. A Quantity predicts it to the cycle, None says nothing about it.
Answer = (
    Quantity
    | Tsc
    | Within
    | Flag
    | Clock
    | Version
    | XenVersion
    | Guess
    | RunstateValue
    | Counted
    | CountedByHost
    | Stolen
    | StealVersion
    | None
)


class Outcome(NamedTuple):
    """A world after an operation, the answers it predicts value by value, and what errno ("" for none).

    No `errors` at all stand for any error. `elsewhere` is what another machine or kernel does: the judge has
    to allow for it, a simulated one does not do it. Of some values it is predicted that together they are
    `on_line`.
    """

    world: World
    answers: tuple[Answer, ...] = ()
    errors: frozenset[str] = OK
    elsewhere: bool = False
    on_line: OnLine | None = None


class Action(NamedTuple):
    """An operation as it is carried out.

    `written` is the values it writes (cycles, kHz or ns); of a thread's move the CPUs before and after.
    `samples` is how many TSCs the guest reads, `refused` whether the operation is known to have failed,
    `realtime` the host's CLOCK_REALTIME (ns) where it is known.
    """

    operation: Any
    moment: Moment
    written: tuple[int, ...] = ()
    samples: int = 1
    refused: bool = False
    realtime: int | None = None
