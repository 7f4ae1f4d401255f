# SPDX-License-Identifier: GPL-2.0-or-later
"""A clock as a function of a vCPU's TSC, which userspace gives KVM (KVM_SET_CLOCK_GUEST)."""

from typing import NamedTuple

from kvmharness.model.arithmetic import NS_PER_SECOND, WORD
from kvmharness.model.interval import signed

# Beyond these KVM refuses a shift.
_MOST_SHIFT = 32


class TimeFunction(NamedTuple):
    """The clock is `ns` at a TSC of `tsc`, and goes on by `multiplier` (a fraction of 2**32) and `shift`.

    `shift` is a signed byte, as 0 to 255.
    """

    tsc: int
    ns: int
    multiplier: int
    shift: int

    @property
    def is_valid(self) -> bool:
        """Whether it is a function at all."""
        return self.multiplier > 0 and abs(self._shift) <= _MOST_SHIFT

    @property
    def hz(self) -> int:
        """The rate of the TSC that it is of; KVM's own computation may be off by 2 Hz."""
        shift = self._shift
        above, below = (32 - shift, 0) if shift < 0 else (32, shift)
        return (NS_PER_SECOND << above) // (self.multiplier << below)

    def time_at(self, tsc: int) -> int | None:
        """The clock in ns at a TSC; None before `tsc`, where __pvclock_read_cycles() computes nonsense."""
        cycles, shift = signed(tsc - self.tsc), self._shift
        if cycles < 0:
            return None
        # pvclock_scale_delta() drops what it shifts out of 64 bits.
        cycles = (cycles << shift) % WORD if shift >= 0 else cycles >> -shift
        return self.ns + (cycles * self.multiplier >> 32)

    @property
    def _shift(self) -> int:
        return self.shift - 256 if self.shift >= 128 else self.shift
