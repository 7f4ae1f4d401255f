# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on the VM's clock: what its kvmclock pages say, and that its time goes on.

The VM's time is compared with the host's raw clock, on which it runs: a time of t, read or set while that
went from b to a, means that the two are between t - a and t - b apart. Between two looks at that clock KVM
counts cycles, at a rate that it knows to 1 % at the worst.
"""

from dataclasses import dataclass

from kvmharness.contract.finding import Finding, Status
from kvmharness.contract.rate import TOLERANCE_PPM
from kvmharness.model.interval import Interval, signed
from kvmharness.script import (
    PVCLOCK_GUEST_STOPPED,
    PVCLOCK_TSC_STABLE_BIT,
)
from kvmharness.trace import Bracket, Event, Trace


@dataclass(frozen=True, slots=True)
class PageClaim:
    """What the kvmclock page that the step labelled `seen` reads is to say. None: either will do.

    It is to be there: to have a version, and an even one. `stable` is PVCLOCK_TSC_STABLE_BIT, `stopped`
    PVCLOCK_GUEST_STOPPED.
    """

    text: str
    seen: str
    stable: bool | None = None
    stopped: bool | None = None


@dataclass(frozen=True, slots=True)
class TimeClaim:
    """The VM's time, as the steps labelled `seen` tell it, is that of the one labelled `expected`, gone on.

    A step that reads a kvmclock page tells what the guest makes of the TSC that it read last.
    """

    text: str
    seen: tuple[str, ...]
    expected: str


@dataclass(frozen=True, slots=True)
class RealtimeClaim:
    """Between two KVM_GET_CLOCK the VM's time went on as the host's real time did.

    `before`, `by` and `after` are the labels of the first of them, of the KVM_SET_CLOCK between, and of the
    second.
    """

    text: str
    before: str
    by: str
    after: str


@dataclass(frozen=True, slots=True)
class HostTimeClaim:
    """The KVM_GET_CLOCK labelled `seen` tells the host's real time and TSC as well."""

    text: str
    seen: str


def check_page(claim: PageClaim, trace: Trace) -> Finding:
    """Whether the page says that."""
    for number, event in enumerate(trace.events, 1):
        version, flags = event.value("version"), event.value("flags")
        if event.operation.label == claim.seen and version is not None and flags is not None:
            said = ""
            if version == 0 or version % 2:
                said = f"version {version}: it is not there" if not version else f"version {version} is odd"
            for wanted, bit, name in (
                (claim.stable, PVCLOCK_TSC_STABLE_BIT, "PVCLOCK_TSC_STABLE_BIT"),
                (claim.stopped, PVCLOCK_GUEST_STOPPED, "PVCLOCK_GUEST_STOPPED"),
            ):
                if wanted is not None and bool(flags & bit) is not wanted:
                    said = said or f"flags {flags:#x}, {'without' if wanted else 'with'} {name}"
            if said:
                return Finding(claim, Status.BROKEN, f"{claim.seen} read {said}", number)
            return Finding(claim, Status.KEPT)
    return Finding(claim, Status.UNDECIDED, f"step {claim.seen!r} was not reached")


def check_time(claim: TimeClaim, trace: Trace) -> Finding:
    """Whether the times agree."""
    steps = {event.operation.label: number for number, event in enumerate(trace.events, 1)}
    apart = {}
    for label in (claim.expected, *claim.seen):
        found = _apart(trace, steps[label]) if label in steps else None
        if found is None:
            return Finding(claim, Status.UNDECIDED, f"step {label!r} told no time")
        apart[label] = found
    for label in claim.seen:
        gap = apart[claim.expected].gap(apart[label])
        if gap:
            late = f"{abs(gap) / 1e6:.3f} ms {'ahead of' if gap > 0 else 'behind'} {claim.expected}"
            return Finding(claim, Status.BROKEN, f"{label} told a time {late}", steps[label])
    return Finding(claim, Status.KEPT)


def check_realtime(claim: RealtimeClaim, trace: Trace) -> Finding:
    """Whether the VM's time went on with the host's, save for how long the KVM_SET_CLOCK took."""
    events = {event.operation.label: event for event in trace.events}
    steps = {event.operation.label: number for number, event in enumerate(trace.events, 1)}
    before, by, after = (events.get(label) for label in (claim.before, claim.by, claim.after))
    if not (before and by and after) or by.error:
        return Finding(claim, Status.UNDECIDED, "a step was not reached, or failed")
    clock, realtime = (_passed(before, after, name) for name in ("clock", "realtime"))
    if clock is None or realtime is None:
        return Finding(claim, Status.UNDECIDED, "KVM_GET_CLOCK told no real time")
    passed = after.bracket.ns_after - before.bracket.ns_before
    slack = passed * TOLERANCE_PPM // 1_000_000 + by.bracket.ns_after - by.bracket.ns_before
    if abs(clock - realtime) <= slack:
        return Finding(claim, Status.KEPT)
    said = f"the VM's time went on by {clock / 1e6:.3f} ms, the host's by {realtime / 1e6:.3f} ms"
    return Finding(claim, Status.BROKEN, said, steps[claim.after])


def _passed(before: Event, after: Event, name: str) -> int | None:
    """How much a value grew from one step to the other; None where one of them has none of that name."""
    first, last = before.value(name), after.value(name)
    return None if first is None or last is None else signed(last - first)


def check_host_time(claim: HostTimeClaim, trace: Trace) -> Finding:
    """Whether it did."""
    for number, event in enumerate(trace.events, 1):
        flags = event.value("clock_flags")
        if event.operation.label == claim.seen and flags is not None and not event.error:
            if event.value("host_tsc") is not None:
                return Finding(claim, Status.KEPT)
            return Finding(claim, Status.BROKEN, f"{claim.seen}: flags {flags:#x}", number)
    return Finding(claim, Status.UNDECIDED, f"step {claim.seen!r} was not reached, or failed")


def _apart(trace: Trace, number: int) -> Interval | None:
    """How far, in ns, the VM's time is from the host's raw clock at step `number` (from 1), if that tells."""
    event = trace.events[number - 1]
    told: tuple[int, Bracket] | None = None
    clock = event.value("clock")
    if clock is not None and not event.error:
        told = clock, event.bracket
    elif event.value("version") is not None:
        told = _guest_time(event, trace.events[: number - 1])
    if told is None:
        return None
    time, bracket = told
    slack = (bracket.ns_after - trace.events[0].bracket.ns_before) * TOLERANCE_PPM // 1_000_000
    return Interval(time - bracket.ns_after - slack, time - bracket.ns_before + slack)


def _guest_time(page: Event, earlier: tuple[Event, ...]) -> tuple[int, Bracket] | None:
    """The time (ns) that the guest makes of the TSC that it read last, and when it did."""
    for event in reversed(earlier):
        if event.operation.enters_guest and event.operation.vcpu_numbers == page.operation.vcpu_numbers:
            tsc = event.guest_tsc
            if event.error or tsc is None or not page.value("version"):
                return None
            return page_time(page.values, tsc), event.bracket
    return None


def page_time(page: tuple[int, ...], tsc: int) -> int:
    """The time in ns that a kvmclock page makes of a TSC: __pvclock_read_cycles() (asm/pvclock.h).

    A page may have been written once more behind the guest's reading of its TSC, which then is less. A guest
    notices that by the version, and reads again; here the time is reckoned backwards.
    """
    _, tsc_timestamp, system_time, multiplier, shift, _ = page
    delta = signed(tsc - tsc_timestamp)
    delta = delta << shift if shift < 128 else delta >> 256 - shift
    return (system_time + (delta * multiplier >> 32)) % 2**64
