# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on how an operation ends and what it answers, whatever the time."""

from dataclasses import dataclass

from kvmharness.contract.finding import Finding, Status
from kvmharness.script import TSC_STABLE
from kvmharness.trace import Event, Trace


@dataclass(frozen=True, slots=True)
class ClockClaim:
    """What KVM_GET_CLOCK is to say: whether the clock of the step labelled `seen` is stable."""

    text: str
    seen: str
    stable: bool


@dataclass(frozen=True, slots=True)
class EndClaim:
    """How the step labelled `seen` is to end: with one of these errors, "" for success."""

    text: str
    seen: str
    errors: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True)
class SameClaim:
    """The first value of the step labelled `seen` is to be that of the one labelled `expected`."""

    text: str
    seen: str
    expected: str


@dataclass(frozen=True, slots=True)
class ReadsClaim:
    """The guest of the step labelled `seen` reads something before it exits."""

    text: str
    seen: str


def check_reads(claim: ReadsClaim, trace: Trace) -> Finding:
    """Whether it did."""
    for number, event in enumerate(trace.events, 1):
        if event.operation.label == claim.seen and not event.error:
            if event.values:
                return Finding(claim, Status.KEPT)
            return Finding(claim, Status.BROKEN, f"the guest of step {claim.seen!r} read nothing", number)
    return Finding(claim, Status.UNDECIDED, f"step {claim.seen!r} was not reached, or failed")


def check_end(claim: EndClaim, trace: Trace) -> Finding:
    """Whether the step ended so."""
    for number, event in enumerate(trace.events, 1):
        if event.operation.label == claim.seen:
            if event.error in claim.errors:
                return Finding(claim, Status.KEPT)
            ended = f"failed with {event.error}" if event.error else "succeeded"
            return Finding(claim, Status.BROKEN, f"{claim.seen} {ended}", number)
    return Finding(claim, Status.UNDECIDED, f"step {claim.seen!r} was not reached")


def check_clock(claim: ClockClaim, trace: Trace) -> Finding:
    """Whether the clock was called that."""
    for number, event in enumerate(trace.events, 1):
        # A file may say anything: the label may be another operation's, with other values.
        flags = event.value("clock_flags")
        if event.operation.label == claim.seen and flags is not None and not event.error:
            if bool(flags & TSC_STABLE) is claim.stable:
                return Finding(claim, Status.KEPT)
            said = f"{claim.seen}: KVM_GET_CLOCK answered flags {flags:#x}, "
            said += "without KVM_CLOCK_TSC_STABLE" if claim.stable else "with KVM_CLOCK_TSC_STABLE"
            return Finding(claim, Status.BROKEN, said, number)
    return Finding(claim, Status.UNDECIDED, f"step {claim.seen!r} was not reached, or failed")


def check_same(claim: SameClaim, trace: Trace) -> Finding:
    """Whether the two are equal."""
    steps: dict[str, tuple[int, Event]] = {
        event.operation.label: (number, event) for number, event in enumerate(trace.events, 1)
    }
    for label in (claim.seen, claim.expected):
        if label not in steps:
            return Finding(claim, Status.UNDECIDED, f"step {label!r} was not reached")
    number, seen = steps[claim.seen]
    expected = steps[claim.expected][1]
    if seen.error or not seen.values:
        return Finding(claim, Status.UNDECIDED, f"{claim.seen} read nothing {seen.error}".rstrip(), number)
    # What was to be written is known of a step that failed, too.
    if not expected.values:
        return Finding(claim, Status.UNDECIDED, f"{claim.expected} read nothing {expected.error}".rstrip())
    if seen.values[0] == expected.values[0]:
        return Finding(claim, Status.KEPT)
    said = f"{claim.seen} answered {seen.values[0]}, not the {expected.values[0]} of {claim.expected}"
    return Finding(claim, Status.BROKEN, said, number)
