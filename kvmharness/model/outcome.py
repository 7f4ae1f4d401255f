# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operation leads to: a world, and what it predicts of each value that the step reads."""

from typing import Any, NamedTuple

from kvmharness.model.interval import Interval
from kvmharness.model.line import OnLine
from kvmharness.model.quantity import Quantity
from kvmharness.model.state import Moment, World

OK = frozenset({""})
# How a kernel answers an ioctl or attribute it does not know; before 5.16 a vCPU's attribute: EINVAL.
UNKNOWN = frozenset({"ENXIO", "ENOTTY", "EINVAL"})
REFUSED = frozenset({"EINVAL"})


class Tsc(NamedTuple):
    """Predicts a TSC that is read within the moment: the host's, scaled, plus this offset."""

    offset: Quantity
    ratio: int | None


class Within(NamedTuple):
    """Predicts a value in this interval, modulo 2**64; `exact` is which, if the host is as it says."""

    interval: Interval
    exact: int | None = None


class Flag(NamedTuple):
    """Predicts of the bits of `mask` that they are `bits`."""

    mask: int
    bits: int


class Clock(NamedTuple):
    """Predicts a clock that is read within the moment: the host's raw one plus this offset, give or take
    `drift` (ns)."""

    offset: Quantity
    drift: int


class Version(NamedTuple):
    """Predicts the version of vCPU `vcpu`'s kvmclock page: even, and this or higher."""

    vcpu: int
    least: int


class Guess(NamedTuple):
    """Predicts nothing; a player that is made up says `value`."""

    value: int


# One value of a step. A Quantity predicts it to the cycle, None says nothing about it.
Answer = Quantity | Tsc | Within | Flag | Clock | Version | Guess | None


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
