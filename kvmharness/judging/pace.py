# SPDX-License-Identifier: GPL-2.0-or-later
"""How a vCPU's TSC goes on from what was last written to it, if it has another rate than the host's."""

from dataclasses import dataclass

from kvmharness.model.interval import Interval
from kvmharness.trace import Event

ITS_OWN, THE_HOSTS = "goes on from what was written, at its own rate", "goes on at the host's rate"
# A kernel that has not corrected its TSC's rate yet takes it for up to a hundredth more or less
# (tsc_refine_calibration_work()), and so does what is reckoned with it.
OFF = 50


@dataclass(frozen=True, slots=True)
class Written:
    """A value that the host wrote to a vCPU's TSC, or to a clock, or read there, and the step."""

    value: int
    event: Event

    def goes_on(self, event: Event, khz: int) -> dict[str, Interval]:
        """By how many cycles a guest's reading would have to be moved to be on each way from here.

        `khz` is the vCPU's rate. A way holds where its interval has a 0.
        """
        read = event.guest_tsc
        assert read is not None
        wrote, later = self.event.bracket, event.bracket
        ns = Interval(later.ns_before - wrote.ns_after, later.ns_after - wrote.ns_before)
        host = Interval(later.tsc_before - wrote.tsc_after, later.tsc_after - wrote.tsc_before)
        own = Interval(ns.low * khz // 1_000_000, -(-ns.high * khz // 1_000_000))
        ways = {ITS_OWN: own, THE_HOSTS: host}
        return {name: _moved(self.value + way.low - read, way) for name, way in ways.items()}

    def passed(self, clock: int, event: Event) -> Interval:
        """By how many ns a clock that reads `clock` would have to be moved to have gone on from here."""
        wrote, later = self.event.bracket, event.bracket
        ns = Interval(later.ns_before - wrote.ns_after, later.ns_after - wrote.ns_before)
        return _moved(self.value + ns.low - clock, ns)


def _moved(lowest: int, way: Interval) -> Interval:
    slack = max(way.high, 0) // OFF
    return Interval(lowest - slack, lowest + way.width + slack)
