# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim on the wall clock that a Xen shares: it is the real time at which the VM's clock was 0."""

from dataclasses import dataclass

from kvmharness.contract.clock import SLEWED_PPB
from kvmharness.contract.finding import Claim, Finding
from kvmharness.contract.host_rate import off_ppb
from kvmharness.contract.line import in_words
from kvmharness.model.interval import signed
from kvmharness.trace import Trace

# Real time and clock are each rounded down to a ns.
_ROUNDED_NS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WallClockClaim(Claim):
    """The wall clock read at the step `seen` is the real time less the VM's clock, as the KVM_GET_CLOCK
    labelled `expected` reports both.

    KVM wrote it at the step `by`, where it may have read the two one after the other.
    """

    seen: str
    by: str
    expected: str

    def check(self, trace: Trace) -> Finding:
        """Check version and time."""
        steps, events = trace.numbers, trace.labelled
        seen, by, expected = (events.get(label) for label in (self.seen, self.by, self.expected))
        if not (seen and by and expected) or by.error:
            return self.undecided("a step was not reached, or failed")
        version, wall = seen.value("wall_version"), seen.value("wall_clock")
        clock, realtime = expected.value("clock"), expected.value("realtime")
        if version is None or wall is None or clock is None or realtime is None:
            return self.undecided("KVM_GET_CLOCK reported no real time")
        if version == 0 or version % 2:
            said = (
                "version 0: KVM never wrote the wall clock"
                if not version
                else f"version {version}, which is odd"
            )
            return self.broken(f"step {self.seen!r} read {said}", steps[self.seen])
        between = abs(expected.bracket.ns_after - by.bracket.ns_before)
        slack = _ROUNDED_NS + by.bracket.ns_after - by.bracket.ns_before
        slack += between * (off_ppb(trace) + SLEWED_PPB) // 10**9
        gap = signed(wall - (realtime - clock))
        if abs(gap) <= slack:
            return self.kept()
        said = (
            f"step {self.seen!r} read a wall clock {in_words(abs(gap))} {'ahead of' if gap > 0 else 'behind'}"
        )
        said += f" real time and clock of step {self.expected!r}"
        return self.broken(said, steps[self.seen], in_words(abs(gap)))
