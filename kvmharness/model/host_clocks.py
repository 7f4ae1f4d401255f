# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's TSC and raw clock as the brackets of a trace read them: whether they went on together.

KVM's time goes on while a host sleeps (offs_boot), CLOCK_MONOTONIC_RAW does not, and a TSC may or may not.
Of what was played meanwhile nothing can be told.
"""

from kvmharness.model.state import DoubtError, Host
from kvmharness.trace import Bracket, Event, Trace

# How far the clocks may run in one trace: about ten hours of ns, two days of cycles at 1 GHz.
_MAX_NS = 2**45
_MAX_CYCLES = 2**48

# How far off the rate may be at which the TSC counts by that clock, in millionths. Where the clock runs on
# the TSC: its multiplier has 24 bits or more (clocks_calc_mult_shift). Otherwise, and before the kernel has
# corrected the rate, it may be as much as that is corrected by (the sanity check of
# tsc_refine_calibration_work).
_RAW_PPM = 1
_UNKNOWN_PPM = 10_000

# The ACPI timer, the slowest clocksource beside a TSC, counts at 3.58 MHz.
_OTHER_UNIT_NS = 280


class HostClocks:
    """The brackets of a trace, one after the other, on a host of which so much is known."""

    def __init__(self, host: Host) -> None:
        self._off_ppm = _RAW_PPM if host.khz_exact and host.tsc_clocksource else _UNKNOWN_PPM
        self._unit_ns = 1
        self._first: Bracket | None = None
        # Two, as a step's own bracket does not tell how long the player was held up within it. Across a step
        # it shows.
        self._last: Bracket | None = None
        self._last_but_one: Bracket | None = None

    def check(self, event: Event, khz: int | None) -> None:
        """DoubtError if nothing can be said of this step by its bracket; the TSC counts at `khz` kHz."""
        bracket = event.bracket
        if event.operation.host_clock_on_tsc is False:
            # The clock has another rate for a while, and counts by another unit.
            self._off_ppm, self._unit_ns = _UNKNOWN_PPM, _OTHER_UNIT_NS
        first = self._first = self._first or bracket
        before, earlier = self._last, self._last_but_one
        if before and (bracket.ns_before < before.ns_after or bracket.tsc_before < before.tsc_after):
            raise DoubtError("the host's clocks ran backwards before this step")
        if khz and not (
            (before is None or _agree(before, bracket, khz, self._off_ppm, self._unit_ns))
            and (earlier is None or _agree(earlier, bracket, khz, self._off_ppm, self._unit_ns))
        ):
            raise DoubtError("the host's two clocks disagree before this step: was it suspended?")
        if bracket.ns_after - first.ns_before > _MAX_NS or bracket.tsc_after - first.tsc_before > _MAX_CYCLES:
            raise DoubtError("the trace takes too long for a judgement")
        self._last, self._last_but_one = bracket, before


def clocks_disagree(trace: Trace, host: Host) -> str:
    """Why nothing can be said of a trace, whatever the rules, or ""."""
    clocks = HostClocks(host)
    try:
        for event in trace.events:
            clocks.check(event, host.khz)
    except DoubtError as doubt:
        return str(doubt)
    return ""


def clocks_apart(one: Trace, other: Trace, khz: int | None) -> str:
    """Why two traces cannot be of one machine, on which they were played without a pause, or ""."""
    if not khz or not one.events or not other.events:
        return ""
    first, second = one.events[0].bracket, other.events[0].bracket
    passed = (second.ns_before - first.ns_before) * khz // 1_000_000
    counted = second.tsc_before - first.tsc_before
    # As in _agree(). Another machine's clocks are off by its uptime, so a rate known to 1 % will do.
    slack = first.width + second.width + abs(counted) * _UNKNOWN_PPM // 1_000_000 + khz // 1_000_000 + 1
    return "" if abs(passed - counted) <= slack else f"its clocks do not go on from those of {one.scenario}"


def _agree(earlier: Bracket, later: Bracket, khz: int, off_ppm: int, unit_ns: int) -> bool:
    """Whether as much time passed between two brackets by the one clock, in units of so many ns, as by the
    other.

    The clock was read within the readings of the TSC, however long the player was held up between them.
    """
    began, _, ended_ns, ended = earlier
    begins, begins_ns, _, ends = later
    passed = (begins_ns - ended_ns) * khz // 1_000_000
    least, most = begins - ended, ends - began
    of_a_unit = khz * unit_ns // 1_000_000 + 1  # each reading of the clock is rounded down to one
    off = abs(passed) * off_ppm // 1_000_000 + of_a_unit
    return least - off <= passed <= most + off
