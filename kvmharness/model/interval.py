# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals of 64-bit cycle counts.

A clock the kernel read inside a bracket is known to lie between its ends, and so is all that was
computed from it. TSCs and offsets wrap around at 2**64, so an interval is a place on a circle; two
intervals are compared by the shorter way round.
"""

from dataclasses import dataclass

_CIRCLE = 2**64


def signed(value: int) -> int:
    """A 64-bit value as two's complement: -2**63 up to 2**63 - 1."""
    return (value + _CIRCLE // 2) % _CIRCLE - _CIRCLE // 2


class TooWideError(ValueError):
    """An interval would hold half of the circle or more, so that it says nothing."""


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, ends included, in cycles. Ends that lie a multiple of 2**64 away are the same."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.high - self.low < _CIRCLE // 2:
            raise TooWideError(f"from {self.low} to {self.high} is not an interval")

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
        moved = other.near(self)
        low, high = max(self.low, moved.low), min(self.high, moved.high)
        return Interval(low, high) if low <= high else None

    def gap(self, other: "Interval") -> int:
        """How far `other` lies beyond this interval, in cycles: negative below, 0 where they touch."""
        moved = other.near(self)
        if moved.low > self.high:
            return moved.low - self.high
        return min(moved.high - self.low, 0)
