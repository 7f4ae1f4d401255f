# SPDX-License-Identifier: GPL-2.0-or-later
"""How a vCPU's TSC goes on from what was last written to it, if it has another rate than the host's."""

from dataclasses import dataclass

from kvmharness.model.interval import Interval
from kvmharness.trace import Event

ITS_OWN, THE_HOSTS = "goes on from what was written, at its own rate", "goes on at the host's rate"
# The kernel and its vDSO round the raw clock in different places; the VM's clock is rounded once more.
_ROUNDED_NS = 10


@dataclass(frozen=True, slots=True)
class Written:
    """A value that the host wrote to a vCPU's TSC, or to a clock, or read there, and the step.

    `off_ppb` is how far the rate that KVM counts by may be from the host's raw clock's, in 10**-9.
    """

    value: int
    event: Event
    off_ppb: int

    def goes_on(self, event: Event, khz: int) -> dict[str, Interval]:
        """By how many cycles a guest's reading would have to be moved to be on each way from here.

        `khz` is the vCPU's rate. A way holds where its interval has a 0.
        """
        read = event.guest_tsc
        assert read is not None
        ns, wrote, later = self._ns(event), self.event.bracket, event.bracket
        host = Interval(later.tsc_before - wrote.tsc_after, later.tsc_after - wrote.tsc_before)
        own = Interval(ns.low * khz // 1_000_000, -(-ns.high * khz // 1_000_000))
        ways = {ITS_OWN: own, THE_HOSTS: host}
        return {name: self._within(self.value + way.low - read, way, 2) for name, way in ways.items()}

    def gone_on(self, event: Event) -> Interval:
        """What a clock reads at a step (ns), gone on from here."""
        ns = self._ns(event)
        return self._within(self.value + ns.low, ns, _ROUNDED_NS)

    def _ns(self, event: Event) -> Interval:
        """How many ns passed from here to a step."""
        wrote, later = self.event.bracket, event.bracket
        return Interval(later.ns_before - wrote.ns_after, later.ns_after - wrote.ns_before)

    def _within(self, lowest: int, way: Interval, rounded: int) -> Interval:
        slack = max(way.high, 0) * self.off_ppb // 10**9 + rounded
        return Interval(lowest - slack, lowest + way.width + slack)
