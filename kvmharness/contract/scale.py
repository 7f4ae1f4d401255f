# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim that a vCPU's TSC is the host's by its scaling ratio, plus its offset.

This is what KVM_VCPU_TSC_SCALE promises: no rate in kHz comes into it, and no tolerance but the bracket.
"""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding, read_nothing
from kvmharness.model.interval import Interval
from kvmharness.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleClaim(Claim):
    """The TSC that the steps labelled `seen` read is the host's, by the ratio of the step `ratio`, plus the
    offset of the step `offset`."""

    seen: tuple[str, ...]
    ratio: str
    offset: str

    def check(self, trace: Trace) -> Finding:
        """Check that each TSC lies where both make it lie."""
        steps = trace.numbers
        for label in (self.ratio, self.offset, *self.seen):
            if label not in steps:
                return self.undecided(f"step {label!r} was not reached")
        events = trace.labelled
        reported, offset = events[self.ratio], events[self.offset].value("offset")
        ratio, bits = reported.value("ratio"), reported.value("fraction_bits")
        for label, value in ((self.ratio, ratio), (self.offset, offset)):
            if value is None or events[label].error:
                return self.undecided(read_nothing(events[label]))
        assert ratio is not None
        assert bits is not None
        assert offset is not None
        if not ratio or bits >= 64:
            return self.broken(
                f"step {self.ratio!r} reports a ratio of {ratio} / 2**{bits}", steps[self.ratio]
            )
        for label in self.seen:
            event, tsc = events[label], events[label].guest_tsc
            if tsc is None or event.error:
                return self.undecided(read_nothing(event), steps[label])
            ends = (event.bracket.tsc_before, event.bracket.tsc_after)
            low, high = ((each * ratio >> bits) + offset for each in ends)
            if gap := Interval(low, high).gap(Interval(tsc, tsc)):
                side = "ahead of" if gap > 0 else "behind"
                said = f"step {label!r} reads a TSC {abs(gap)} cycles {side} what the ratio of step "
                said += f"{self.ratio!r} and the offset of step {self.offset!r} make of the host's"
                return self.broken(said, steps[label], f"{abs(gap)} cycles")
        return self.kept()
