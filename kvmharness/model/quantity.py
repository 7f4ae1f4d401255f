# SPDX-License-Identifier: GPL-2.0-or-later
"""Quantities: an exact number of cycles plus unknowns.

What the kernel read of its clock is not known to the cycle, but that two vCPUs share one offset is.
So an offset is kept as a sum of unknowns, each with the interval it lies in; when one vCPU's offset
is read, the unknown is pinned, and with it every quantity that rests on it.
"""

from typing import NamedTuple, Protocol

from kvmharness.model.interval import Interval, signed

# The interval of each unknown, by its number; None where it may be anything.
Unknowns = dict[int, Interval | None]

_HALF = 2**63
_CIRCLE = 2**64


class Knows(Protocol):
    """A world: what is known of each unknown."""

    unknowns: Unknowns


class Quantity(NamedTuple):
    """`constant` plus each unknown as often as `terms` says: ((number of the unknown, how often), ...)."""

    constant: int
    terms: tuple[tuple[int, int], ...] = ()

    def plus(self, other: "Quantity", times: int = 1) -> "Quantity":
        """This and `other` so many times; unknowns that cancel are gone."""
        count = dict(self.terms)
        for unknown, often in other.terms:
            count[unknown] = count.get(unknown, 0) + often * times
        terms = tuple(sorted((unknown, often) for unknown, often in count.items() if often))
        return Quantity(self.constant + other.constant * times, terms)

    def agrees(self, world: Knows, value: int, moment: object) -> bool:
        """Whether a value that was read can be this; the world takes note of it."""
        return narrow(self, Interval(value, value), world.unknowns)

    def bounds(self, world: Knows, moment: object) -> Interval | None:
        """Where a value that is this has to be; None if it may be anything."""
        return bounds(self, world.unknowns)


def bounds(quantity: Quantity, unknowns: Unknowns) -> Interval | None:
    """Where a quantity lies; None if it may be anything."""
    low = high = quantity.constant
    for unknown, often in quantity.terms:
        interval = unknowns[unknown]
        if interval is None:
            return None
        ends = (interval.low, interval.high) if often > 0 else (interval.high, interval.low)
        low += often * ends[0]
        high += often * ends[1]
    return Interval(low, high)


def known_part(quantity: Quantity, unknowns: Unknowns) -> Quantity:
    """The same quantity, with the unknowns that are known to the cycle in its constant."""
    constant, left = quantity.constant, []
    for unknown, often in quantity.terms:
        interval = unknowns[unknown]
        if interval is not None and interval.low == interval.high:
            constant += often * interval.low
        else:
            left.append((unknown, often))
    return Quantity(constant, tuple(left)) if len(left) < len(quantity.terms) else quantity


def narrow(quantity: Quantity, seen: Interval, unknowns: Unknowns) -> bool:
    """Take note that a quantity, modulo 2**64, was seen to lie in `seen`; False if it cannot.

    Each of its unknowns is narrowed by what is left of `seen` without the others.
    """
    constant, terms = quantity
    low, high = seen
    if not terms:
        beyond = signed(low - constant)
        return beyond <= 0 <= beyond + high - low
    if len(terms) == 1 and abs(terms[0][1]) == 1:
        unknown, sign = terms[0]
        if sign > 0:
            seen = Interval(low - constant, high - constant)
        else:
            seen = Interval(constant - high, constant - low)
        return _narrow_unknown(unknown, seen, unknowns)
    now = bounds(quantity, unknowns)
    if now is None:
        return True
    common = _common(now, seen)
    if common is None:
        return False
    low, high = now
    for unknown, often in terms:
        if abs(often) == 1:
            # What this one may be: all that is left of `common` once the others are taken away.
            before = _share(unknown, often, unknowns)
            left = Interval(common.low - (high - before.high), common.high - (low - before.low))
            if not _narrow_unknown(unknown, left if often > 0 else Interval(-left.high, -left.low), unknowns):
                return False
            after = _share(unknown, often, unknowns)
            low, high = low - before.low + after.low, high - before.high + after.high
    return True


def _share(unknown: int, often: int, unknowns: Unknowns) -> Interval:
    """What an unknown that is there once, or taken away once, adds to a quantity."""
    known = unknowns[unknown]
    assert known is not None  # else nothing would be known of the quantity
    return known if often > 0 else Interval(-known.high, -known.low)


def _narrow_unknown(unknown: int, seen: Interval, unknowns: Unknowns) -> bool:
    known = unknowns[unknown]
    both = seen if known is None else _common(known, seen)
    if both is None:
        return False
    unknowns[unknown] = both
    return True


def _common(known: Interval, seen: Interval) -> Interval | None:
    """What both hold; `known` where they are so wide that they may meet on both sides."""
    known_low, known_high = known
    low, high = seen
    width = high - low
    if known_high - known_low + width >= _HALF:
        return known
    # As signed() has it: the judge comes here more often than anywhere else.
    low = known_low + (low - known_low + _HALF) % _CIRCLE - _HALF
    high = low + width
    if low <= known_low and known_high <= high:
        return known
    low, high = max(low, known_low), min(high, known_high)
    return Interval(low, high) if low <= high else None
