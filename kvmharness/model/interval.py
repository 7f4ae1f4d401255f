# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals of 64-bit cycle counts.

A clock the kernel read inside a bracket is known to lie between its ends, and so is all that was
computed from it. TSCs and offsets wrap around at 2**64, so an interval is a place on a circle; two
intervals are compared by the shorter way round.
"""

from typing import NamedTuple

_CIRCLE = 2**64
_HALF = 2**63
_new = tuple.__new__


def signed(value: int) -> int:
    """A 64-bit value as two's complement: -2**63 up to 2**63 - 1."""
    return (value + _HALF) % _CIRCLE - _HALF


class TooWideError(ValueError):
    """An interval would hold half of the circle or more, so that it says nothing."""


class _Ends(NamedTuple):
    low: int
    high: int


class Interval(_Ends):
    """From `low` to `high`, ends included, in cycles. Ends that lie a multiple of 2**64 away are the same.

    TooWideError for ends that are no interval.
    """

    # A tuple, because the judge makes tens of them a step.
    __slots__ = ()

    def __new__(cls, low: int, high: int) -> "Interval":
        """Ends that lie less than half of the circle apart."""
        if not 0 <= high - low < _HALF:
            raise TooWideError(f"from {low} to {high} is not an interval")
        return _new(cls, (low, high))

    @property
    def width(self) -> int:
        """How far apart its ends are, in cycles."""
        return self.high - self.low

    def near(self, other: "Interval") -> "Interval":
        """The same interval, moved by a multiple of 2**64 to where it is closest to `other`."""
        low = other.low + signed(self.low - other.low)
        return Interval(low, low + self.width)

    def intersection(self, other: "Interval") -> "Interval | None":
        """What both hold, or None."""
        own_low, own_high = self
        other_low, other_high = other
        low = own_low + signed(other_low - own_low)
        low, high = max(own_low, low), min(own_high, low + other_high - other_low)
        return Interval(low, high) if low <= high else None

    def gap(self, other: "Interval") -> int:
        """How far `other` lies beyond this interval, in cycles: negative below, 0 where they touch."""
        moved = other.near(self)
        if moved.low > self.high:
            return moved.low - self.high
        return min(moved.high - self.low, 0)
