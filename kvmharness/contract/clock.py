# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on the VM's clock: what its kvmclock pages say, and that its time continues.

The VM's time is compared with the host's raw clock, on which it runs. A time of t, read or set while the raw
clock went from b to a, means that the two are between t - a and t - b apart. Between two readings of the raw
clock KVM counts cycles, at a rate that may be off the raw clock's (host_rate).
"""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding
from kvmharness.contract.host_rate import off_ppb
from kvmharness.model.interval import Interval, signed
from kvmharness.script import (
    PVCLOCK_GUEST_STOPPED,
    PVCLOCK_TSC_STABLE_BIT,
)
from kvmharness.trace import Bracket, Event, Trace

# The most by which NTP has the host's real time go faster or slower than its raw clock (MAXFREQ of
# linux/timex.h), in 10**-9.
SLEWED_PPB = 500_000
# The kernel rounds clocks down to a ns, and a guest that computes the time from its page does so once more.
_ROUNDED_NS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PageClaim(Claim):
    """The kvmclock page that the step labelled `seen` reads has these flags.

    `stable` is PVCLOCK_TSC_STABLE_BIT, `stopped` PVCLOCK_GUEST_STOPPED; None allows either. The page must
    have been written: its version is even and not 0.
    """

    seen: str
    stable: bool | None = None
    stopped: bool | None = None

    def check(self, trace: Trace) -> Finding:
        """Check what the page says."""
        for number, event in enumerate(trace.events, 1):
            version, flags = event.value("version"), event.value("flags")
            if event.operation.label == self.seen and version is not None and flags is not None:
                said = ""
                if version == 0 or version % 2:
                    said = (
                        "version 0: KVM never wrote the page"
                        if not version
                        else f"version {version}, which is odd"
                    )
                for wanted, bit, name in (
                    (self.stable, PVCLOCK_TSC_STABLE_BIT, "PVCLOCK_TSC_STABLE_BIT"),
                    (self.stopped, PVCLOCK_GUEST_STOPPED, "PVCLOCK_GUEST_STOPPED"),
                ):
                    if wanted is not None and bool(flags & bit) is not wanted:
                        said = said or f"flags {flags:#x}, {'without' if wanted else 'with'} {name}"
                if said:
                    return self.broken(f"step {self.seen!r} read {said}", number)
                return self.kept()
        return self.undecided(f"step {self.seen!r} was not reached")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeClaim(Claim):
    """The VM's time continues from the step labelled `expected` to the steps labelled `seen`.

    For a step that reads a kvmclock page, the time is what the guest computes from it and its last TSC.
    """

    seen: tuple[str, ...]
    expected: str

    def check(self, trace: Trace) -> Finding:
        """Check that the times agree."""
        steps = trace.numbers
        apart = {}
        for label in (self.expected, *self.seen):
            found = _apart(trace, steps[label]) if label in steps else None
            if found is None:
                return self.undecided(f"step {label!r} reported no time")
            apart[label] = found
        for label in self.seen:
            gap = apart[self.expected].gap(apart[label])
            if gap:
                late = f"{abs(gap) / 1e6:.3f} ms {'ahead of' if gap > 0 else 'behind'} step {self.expected!r}"
                return self.broken(f"step {label!r} reported a time {late}", steps[label])
        return self.kept()


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeClaim(Claim):
    """Between two KVM_GET_CLOCK the VM's time advanced as much as the host's real time.

    `before` and `after` are the labels of the two, `by` is that of the KVM_SET_CLOCK between them.
    """

    before: str
    by: str
    after: str

    def check(self, trace: Trace) -> Finding:
        """Check that the VM's time advanced with the host's, save for the duration of the KVM_SET_CLOCK."""
        steps, events = trace.numbers, trace.labelled
        before, by, after = (events.get(label) for label in (self.before, self.by, self.after))
        if not (before and by and after) or by.error:
            return self.undecided("a step was not reached, or failed")
        clock, realtime = (_passed(before, after, name) for name in ("clock", "realtime"))
        if clock is None or realtime is None:
            return self.undecided("KVM_GET_CLOCK reported no real time")
        passed = after.bracket.ns_after - before.bracket.ns_before
        slack = passed * (off_ppb(trace) + SLEWED_PPB) // 10**9 + by.bracket.ns_after - by.bracket.ns_before
        if abs(clock - realtime) <= slack:
            return self.kept()
        said = f"the VM's time advanced by {clock / 1e6:.3f} ms, the host's by {realtime / 1e6:.3f} ms"
        return self.broken(said, steps[self.after])


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTimeClaim(Claim):
    """The KVM_GET_CLOCK labelled `seen` also reports the host's real time and TSC."""

    seen: str

    def check(self, trace: Trace) -> Finding:
        """Check that the host's time was reported."""
        for number, event in enumerate(trace.events, 1):
            flags = event.value("clock_flags")
            if event.operation.label == self.seen and flags is not None and not event.error:
                if event.value("host_tsc") is not None:
                    return self.kept()
                return self.broken(f"step {self.seen!r}: KVM_GET_CLOCK returned flags {flags:#x}", number)
        return self.undecided(f"step {self.seen!r} was not reached, or failed")


def _passed(before: Event, after: Event, name: str) -> int | None:
    """How much a value grew from one step to the other; None if one of them has no value of that name."""
    first, last = before.value(name), after.value(name)
    return None if first is None or last is None else signed(last - first)


def _apart(trace: Trace, number: int) -> Interval | None:
    """How far, in ns, the VM's time is from the host's raw clock at step `number` (from 1), if known."""
    event = trace.events[number - 1]
    known: tuple[int, Bracket] | None = None
    clock = event.value("clock")
    if clock is not None and not event.error:
        known = clock, event.bracket
    elif event.value("version") is not None:
        known = _guest_time(event, trace.events[: number - 1])
    if known is None:
        return None
    time, bracket = known
    # A trace whose clock goes back is nobody's, which others say.
    since = max(bracket.ns_after - trace.events[0].bracket.ns_before, 0)
    slack = since * off_ppb(trace) // 10**9 + _ROUNDED_NS
    return Interval(time - bracket.ns_after - slack, time - bracket.ns_before + slack)


def _guest_time(page: Event, earlier: tuple[Event, ...]) -> tuple[int, Bracket] | None:
    """The time (ns) that the guest computes from the TSC it read last, and the bracket of that reading."""
    for event in reversed(earlier):
        if event.operation.enters_guest and event.operation.vcpu_numbers == page.operation.vcpu_numbers:
            tsc = event.guest_tsc
            if event.error or tsc is None or not page.value("version"):
                return None
            return page_time(page.values, tsc), event.bracket
    return None


def page_time(page: tuple[int, ...], tsc: int) -> int:
    """The time in ns for a TSC by a kvmclock page: __pvclock_read_cycles() (asm/pvclock.h).

    KVM may have written the page again after the guest read its TSC, which then is the smaller one. A guest
    notices this by the version and reads again; here the time is computed backwards.
    """
    _, tsc_timestamp, system_time, multiplier, shift, _ = page
    delta = signed(tsc - tsc_timestamp)
    delta = delta << shift if shift < 128 else delta >> 256 - shift
    return (system_time + (delta * multiplier >> 32)) % 2**64


def page_khz(multiplier: int, shift: int) -> float:
    """The rate in kHz that a kvmclock page takes its TSC for: the inverse of page_time(); 0 if it takes none.

    A `shift` of 128 and more is a negative one of 8 bits.
    """
    scaled = multiplier * 2.0 ** (shift if shift < 128 else shift - 256)
    return 1e6 * 2**32 / scaled if scaled else 0.0
