# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on how an operation ends and what it returns, independent of time."""

from dataclasses import dataclass

from kvmharness.contract.finding import Finding, Status, read_nothing
from kvmharness.script import TSC_STABLE
from kvmharness.trace import Event, Trace


@dataclass(frozen=True, slots=True)
class ClockClaim:
    """The KVM_GET_CLOCK labelled `seen` reports a stable clock, or one that is not, as `stable` says."""

    text: str
    seen: str
    stable: bool


@dataclass(frozen=True, slots=True)
class EndClaim:
    """The step labelled `seen` ends with one of these errors; "" is success."""

    text: str
    seen: str
    errors: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True)
class SameClaim:
    """The first value of the step labelled `seen` equals that of the step labelled `expected`."""

    text: str
    seen: str
    expected: str


@dataclass(frozen=True, slots=True)
class ReadsClaim:
    """The guest of the step labelled `seen` reads something before it exits."""

    text: str
    seen: str


def check_reads(claim: ReadsClaim, trace: Trace) -> Finding:
    """Check that the guest read something."""
    for number, event in enumerate(trace.events, 1):
        if event.operation.label == claim.seen and not event.error:
            if event.values:
                return Finding(claim, Status.KEPT)
            status = Status.UNDECIDED if event.timed_out else Status.BROKEN
            return Finding(claim, status, f"the guest of {read_nothing(event)}", number)
    return Finding(claim, Status.UNDECIDED, f"step {claim.seen!r} was not reached, or failed")


def check_end(claim: EndClaim, trace: Trace) -> Finding:
    """Check how the step ended."""
    for number, event in enumerate(trace.events, 1):
        if event.operation.label == claim.seen:
            if event.error in claim.errors:
                return Finding(claim, Status.KEPT)
            ended = f"failed with {event.error}" if event.error else "succeeded"
            return Finding(claim, Status.BROKEN, f"step {claim.seen!r} {ended}", number)
    return Finding(claim, Status.UNDECIDED, f"step {claim.seen!r} was not reached")


def check_clock(claim: ClockClaim, trace: Trace) -> Finding:
    """Check what KVM_GET_CLOCK reported."""
    for number, event in enumerate(trace.events, 1):
        # A file may hold anything: the label may belong to another operation, with other values.
        flags = event.value("clock_flags")
        if event.operation.label == claim.seen and flags is not None and not event.error:
            if bool(flags & TSC_STABLE) is claim.stable:
                return Finding(claim, Status.KEPT)
            said = f"step {claim.seen!r}: KVM_GET_CLOCK returned flags {flags:#x}, "
            said += "without KVM_CLOCK_TSC_STABLE" if claim.stable else "with KVM_CLOCK_TSC_STABLE"
            return Finding(claim, Status.BROKEN, said, number)
    return Finding(claim, Status.UNDECIDED, f"step {claim.seen!r} was not reached, or failed")


def check_same(claim: SameClaim, trace: Trace) -> Finding:
    """Check that the two values are equal."""
    steps: dict[str, tuple[int, Event]] = {
        event.operation.label: (number, event) for number, event in enumerate(trace.events, 1)
    }
    for label in (claim.seen, claim.expected):
        if label not in steps:
            return Finding(claim, Status.UNDECIDED, f"step {label!r} was not reached")
    number, seen = steps[claim.seen]
    expected = steps[claim.expected][1]
    if seen.error or not seen.values:
        return Finding(
            claim, Status.UNDECIDED, f"step {claim.seen!r} read nothing {seen.error}".rstrip(), number
        )
    # A step that failed still has the value that it should have written.
    if not expected.values:
        return Finding(
            claim, Status.UNDECIDED, f"step {claim.expected!r} read nothing {expected.error}".rstrip()
        )
    if seen.values[0] == expected.values[0]:
        return Finding(claim, Status.KEPT)
    said = f"step {claim.seen!r} returned {seen.values[0]}, step {claim.expected!r} {expected.values[0]}"
    return Finding(claim, Status.BROKEN, said, number)
