# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim that the TSC of a guest's own guest (L2) is L1's by a ratio, plus what L1 adds."""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding, read_nothing
from kvmharness.guests.layout import L2_FRACTION_BITS, l2_multiplier
from kvmharness.trace import Event, Trace

# Cycles lost in rounding, beside one of L1's and what the last bit of a ratio stands for: KVM multiplies the
# host's TSC and L1's offset apart from each other, by a product of two ratios.
_ROUNDED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class L2RateClaim(Claim):
    """L2, in the step labelled `seen`, counts at the rate that the step names: its TSC is L1's by that, plus
    what L1 adds. L1's TSC is that of the steps `before` and `after` it, which write or read it."""

    seen: str
    before: str
    after: str

    def check(self, trace: Trace) -> Finding:
        """Check that what L2 read lies between what the two readings of L1's TSC make it."""
        steps, events = trace.numbers, trace.labelled
        for label in (self.before, self.seen, self.after):
            if label not in steps:
                return self.undecided(f"step {label!r} was not reached")
        before, event, after = (events[label] for label in (self.before, self.seen, self.after))
        rate_ppm = event.operation.l2_rate_ppm
        if rate_ppm is None:
            return self.undecided(f"step {self.seen!r} names no rate of L2")
        if event.error or len(event.values) < 2:
            return self.undecided(read_nothing(event), steps[self.seen])
        low, high = _tsc(before), _tsc(after)
        if low is None or high is None or not low <= high < 2**62:
            return self.undecided(f"steps {self.before!r} and {self.after!r} do not say what L1's TSC was")
        offset, *read = (each or 0 for each in event.values)
        multiplier = l2_multiplier(rate_ppm)
        rounded = _ROUNDED + (multiplier + event.bracket.tsc_after >> L2_FRACTION_BITS)
        least = (low * multiplier >> L2_FRACTION_BITS) - rounded
        most = (high * multiplier >> L2_FRACTION_BITS) + rounded
        for tsc in read:
            counted = (tsc - offset - least) % 2**64
            if counted > most - least:
                gap = min(counted - (most - least), 2**64 - counted)
                times = f"{rate_ppm / 1_000_000:g}"
                said = (
                    f"step {self.seen!r} read a TSC of L2 that is {gap} cycles off {times} times L1's plus "
                )
                return self.broken(f"{said}what L1 adds", steps[self.seen], f"{gap} cycles")
        return self.kept()


def _tsc(event: Event) -> int | None:
    return None if event.error else event.guest_tsc
