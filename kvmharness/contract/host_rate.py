# SPDX-License-Identifier: GPL-2.0-or-later
"""The rate of the host's TSC as the brackets of a trace measure it, and what a guest's TSC counts
meanwhile."""

from dataclasses import dataclass

from kvmharness.model.arithmetic import tolerated
from kvmharness.trace import Event, Trace

# A kernel that corrects the rate of its TSC after the boot does so by less than this (the sanity check of
# tsc_refine_calibration_work), in 10**-9.
CORRECTED_PPB = 10_000_000

# So many of the first steps are compared with so many of the last.
_STEPS = 8

# AMD's ratio has 32 bits after the point. KVM's multipliers have 32 bits in all, and the first is set.
_BITS_OF_A_RATE = 31


def measured_khz(trace: Trace) -> tuple[float, float]:
    """The rate in kHz, at the least and at the most, by the host's raw clock.

    The clock of a bracket is read between its readings of the TSC. So the cycles from after one bracket to
    before another are at most those of the time between, and those from before to after at least.
    """
    low, high = 0.0, float("inf")
    brackets = [event.bracket for event in trace.events]
    for first in brackets[:_STEPS]:
        for last in brackets[-_STEPS:]:
            longest = last.ns_after - first.ns_before
            shortest = last.ns_before - first.ns_after
            if shortest > 0:
                low = max(low, (last.tsc_before - first.tsc_after) * 1e6 / shortest)
                high = min(high, (last.tsc_after - first.tsc_before) * 1e6 / longest)
    return low, high


def kvm_khz(trace: Trace) -> int:
    """The rate that KVM takes the host's TSC for: that of the first vCPU at its creation. 0: not known."""
    created = (event.value("khz") for event in trace.events if event.operation.creates_vcpu)
    return next(filter(None, created), 0)


def off_ppb(trace: Trace) -> int:
    """How far the rate that KVM counts by may be from the host's raw clock's, in 10**-9.

    KVM counts by the rate that it created the first vCPU with, or, where the kernel has corrected that since,
    by the new one. The raw clock goes by the new one.
    """
    khz = kvm_khz(trace)
    low, high = measured_khz(trace)
    if not khz or low <= 0 or high == float("inf"):
        return CORRECTED_PPB
    off = max(abs(khz / low - 1), abs(khz / high - 1))
    return min(CORRECTED_PPB, int(off * 1e9) + 1)


@dataclass(frozen=True, slots=True)
class Passed:
    """What passed between two steps, at the least and at the most: ns, and cycles of the host's TSC.

    `host_khz` is the rate that KVM takes that TSC for; 0: not known.
    """

    ns: tuple[int, int]
    cycles: tuple[int, int]
    host_khz: int

    @classmethod
    def between(cls, since: Event, first: Event, last: Event, host_khz: int) -> "Passed":
        """From `first` to `last`, or at the most from `since`."""
        begin, end = first.bracket, last.bracket
        return cls(
            (end.ns_before - begin.ns_after, end.ns_after - since.bracket.ns_before),
            (end.tsc_before - begin.tsc_after, end.tsc_after - since.bracket.tsc_before),
            host_khz,
        )

    def due(self, khz: int) -> tuple[int, int]:
        """The least and the most cycles that a TSC of `khz` kHz counts.

        It is the host's TSC times a ratio, or KVM moves it to where the time should have brought it. The two
        are the same where KVM knows the host's rate. Within kvm.tsc_tolerance_ppm the ratio is 1.
        """
        found = [tuple(ns * khz // 1_000_000 for ns in self.ns)]
        if self.host_khz:
            found.append(tuple(cycles * khz // self.host_khz for cycles in self.cycles))
            if tolerated(khz, self.host_khz):
                found.append(self.cycles)
        least, most = min(each[0] for each in found), max(each[1] for each in found)
        return least - _rounded(least), most + _rounded(most)


def _rounded(cycles: int) -> int:
    """By how much so many cycles may be off: by the last bit of a rate, and by one at each end."""
    return 2 + (abs(cycles) >> _BITS_OF_A_RATE)
