# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on TSC offsets: of vCPUs that count at the host's rate (no TSC scaling).

A guest's TSC is the host's TSC plus an offset. Every step that writes or reads a TSC says something
about that offset: a TSC of v, written or read while the host's TSC went from b to a, means an offset
between v - a and v - b; the offset attribute says it exactly, and so does what debugfs showed behind a
reading. A claim names the steps whose offset must agree (`seen` with `expected`), and the step that would
explain it if the claim were broken (`instead`). So a claim is
    kept       if what was seen agrees with what was expected, and not with what would be instead
    broken     if it does not agree with what was expected
    undecided  if the brackets are too wide to tell the two apart, or a step failed
"""

from dataclasses import dataclass

from kvmharness.contract.finding import Finding, Status
from kvmharness.contract.promptly import TOGETHER_NS, Promptly, held_up
from kvmharness.model.arithmetic import duration
from kvmharness.model.interval import Interval, signed
from kvmharness.trace import Event, Trace


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing userspace is entitled to.

    `text` says it in words. `seen` and `expected` are labels of steps whose offsets must agree; of
    several in `expected`, those that did not fail are taken together. `instead` is the label of the
    step whose offset the vCPU would have if the claim were broken ("" if there is none), and
    `otherwise` says in words what KVM did in that case. `together` names two steps that have to
    follow each other within `within_ns` ns, or nothing is claimed.
    """

    text: str
    seen: tuple[str, ...]
    expected: tuple[str, ...]
    instead: str = ""
    otherwise: str = ""
    together: tuple[str, ...] = ()
    within_ns: int = TOGETHER_NS


def implied_offset(event: Event) -> Interval | None:
    """The TSC offset that a step's values and bracket imply, in cycles; None if they imply none."""
    offset, tsc = event.operation.tsc_offset(event.values), event.guest_tsc
    if offset is not None:
        return Interval(signed(offset), signed(offset))
    if tsc is not None:
        return Interval(tsc - event.bracket.tsc_after, tsc - event.bracket.tsc_before)
    return None


def shown_offset(event: Event) -> Interval | None:
    """The offset that the kernel showed behind a step that reads a TSC, also where it has no attribute."""
    if not event.windows or not event.operation.only_reads_tsc(event.values, event.error):
        return None
    offset = signed(event.windows[0].offset)
    return Interval(offset, offset)


def read_offsets(event: Event) -> list[Interval]:
    """The offsets that a step read, or that were read behind it; the one known best comes last."""
    found = (None if event.error else implied_offset(event), shown_offset(event))
    return [each for each in found if each]


def check(claim: Claim, trace: Trace) -> Finding:
    """Whether the offsets agree."""
    steps = {event.operation.label: number for number, event in enumerate(trace.events, 1)}
    events = {event.operation.label: event for event in trace.events}
    expected = _unmet_condition(claim, events) or _expected(claim, events)
    if isinstance(expected, str):
        return Finding(claim, Status.UNDECIDED, expected)
    instead = implied_offset(events[claim.instead]) if claim.instead else None
    readings = {
        label: offsets for label in claim.seen if label in events and (offsets := read_offsets(events[label]))
    }
    for label, offsets in readings.items():
        for seen in offsets:
            if seen.intersection(expected) is None:
                reason = _broken(trace, events[label], seen, expected.gap(seen))
                if instead is not None and claim.otherwise and seen.intersection(instead) is not None:
                    reason += f": {claim.otherwise}"
                return Finding(claim, Status.BROKEN, reason, steps[label])
    for label, offsets in readings.items():
        if instead is not None and offsets[-1].intersection(instead) is not None:
            width = events[label].bracket.width
            reason = f"the brackets are too wide to tell: {label} is known to {width} cycles only"
            return Finding(claim, Status.UNDECIDED, reason, steps[label])
    unread = _unread(claim, events, set(readings))
    return Finding(claim, Status.UNDECIDED, unread) if unread else Finding(claim, Status.KEPT)


def _unread(claim: Claim, events: dict[str, Event], read: set[str]) -> str:
    """What is missing among the readings, or "".

    A kernel may lack the offset attribute, but a guest has to run, and something has to be read.
    """
    errors = set()
    for label in claim.seen:
        if label not in events:
            return f"step {label!r} was not reached"
        if events[label].operation.by_guest and label not in read:
            return f"the guest of step {label!r} read nothing {events[label].error}".rstrip()
        errors.add(events[label].error)
    why = "/".join(sorted(errors - {""}))
    return "" if read else f"none of {', '.join(claim.seen)} read anything {why}".rstrip()


def _unmet_condition(claim: Claim, events: dict[str, Event]) -> str:
    """Why nothing can be claimed here, or ""."""
    if claim.instead and claim.instead not in events:
        return f"step {claim.instead!r} was not reached"
    if claim.instead and events[claim.instead].error:
        return f"{claim.instead} failed with {events[claim.instead].error}"
    if claim.together:
        first, last = claim.together
        return held_up(Promptly(first, last, claim.within_ns), events)
    return ""


def _expected(claim: Claim, events: dict[str, Event]) -> Interval | str:
    """The offset the claim expects, or why it cannot be known."""
    expected: Interval | None = None
    errors = []
    for label in claim.expected:
        if label not in events:
            return f"step {label!r} was not reached"
        offsets = read_offsets(events[label])
        if not offsets:
            error = events[label].error
            errors.append(f"{label} failed with {error}" if error else f"{label} read nothing")
        for offset in offsets:
            both = offset if expected is None else expected.intersection(offset)
            if both is None:
                return f"{' and '.join(claim.expected)} disagree with each other"
            expected = both
    return "; ".join(errors) if expected is None else expected


def _broken(trace: Trace, event: Event, seen: Interval, gap: int) -> str:
    """What a step read, and how far that is from what was due (cycles, negative when behind)."""
    label, tsc = event.operation.label, event.guest_tsc
    created = (each for each in trace.events if each.operation.creates_vcpu)
    khz = next((each.values[0] for each in created if each.values), 0)
    distance = f"{abs(gap)} cycles ({duration(abs(gap), khz)}) {'ahead of' if gap > 0 else 'behind'}"
    if seen == shown_offset(event) != implied_offset(event):
        return f"behind {label} debugfs showed an offset of {seen.low}, {distance} what was due"
    if tsc is None:
        return f"{label} read an offset of {seen.low}, {distance} what was due"
    return f"{label} read a TSC of {tsc} ({duration(tsc, khz)}), {distance} what was due"
