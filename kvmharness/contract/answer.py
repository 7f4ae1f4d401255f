# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on how an operation ends and what it returns, independent of time."""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding, read_nothing
from kvmharness.script import TSC_STABLE, Operation
from kvmharness.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockClaim(Claim):
    """The KVM_GET_CLOCK labelled `seen` reports a stable clock, or one that is not, as `stable` says."""

    seen: str
    stable: bool

    def check(self, trace: Trace) -> Finding:
        """Check what KVM_GET_CLOCK reported."""
        for number, event in enumerate(trace.events, 1):
            # A file may hold anything: the label may belong to another operation, with other values.
            flags = event.value("clock_flags")
            if event.operation.label == self.seen and flags is not None and not event.error:
                if bool(flags & TSC_STABLE) is self.stable:
                    return self.kept()
                said = f"step {self.seen!r}: KVM_GET_CLOCK returned flags {flags:#x}, "
                said += "without KVM_CLOCK_TSC_STABLE" if self.stable else "with KVM_CLOCK_TSC_STABLE"
                return self.broken(said, number)
        return self.undecided(f"step {self.seen!r} was not reached, or failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndClaim(Claim):
    """The step labelled `seen` ends with one of these errors; "" is success."""

    seen: str
    errors: tuple[str, ...] = ("",)

    def check(self, trace: Trace) -> Finding:
        """Check how the step ended."""
        for number, event in enumerate(trace.events, 1):
            if event.operation.label == self.seen:
                if event.error in self.errors:
                    return self.kept()
                if event.error in trace.excuses:
                    said = f"step {self.seen!r} failed with {event.error}, which says nothing about KVM"
                    return self.undecided(said, number)
                ended = f"failed with {event.error}" if event.error else "succeeded"
                return self.broken(f"step {self.seen!r} {ended}", number)
        return self.undecided(f"step {self.seen!r} was not reached")


@dataclass(frozen=True, slots=True, kw_only=True)
class SameClaim(Claim):
    """What the step labelled `seen` read first equals the value of that name of the step labelled `expected`.

    Where that has none of the name, as a guest's write of an MSR, its first value counts.
    """

    seen: str
    expected: str

    def check(self, trace: Trace) -> Finding:
        """Check that the two values are equal."""
        events = trace.labelled
        for label in (self.seen, self.expected):
            if label not in events:
                return self.undecided(f"step {label!r} was not reached")
        number, seen, expected = trace.numbers[self.seen], events[self.seen], events[self.expected]
        if seen.error or not seen.values:
            return self.undecided(f"step {self.seen!r} read nothing {seen.error}".rstrip(), number)
        # A step that failed still has the value that it should have written.
        place = same_place(seen.operation, expected.operation)
        if len(expected.values) <= place:
            return self.undecided(f"step {self.expected!r} read nothing {expected.error}".rstrip())
        value = expected.values[place]
        if seen.values[0] == value:
            return self.kept()
        said = f"step {self.seen!r} returned {seen.values[0]}, step {self.expected!r} {value}"
        return self.broken(said, number)


def same_place(seen: Operation, expected: Operation) -> int:
    """Which of the values of `expected` is called as the first one of `seen`; the first if none is."""
    names = expected.value_names
    return next((names.index(name) for name in seen.value_names[:1] if name in names), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadsClaim(Claim):
    """The guest of the step labelled `seen` reads something before it exits."""

    seen: str

    def check(self, trace: Trace) -> Finding:
        """Check that the guest read something."""
        for number, event in enumerate(trace.events, 1):
            if event.operation.label == self.seen and not event.error:
                if event.values:
                    return self.kept()
                found = self.undecided if event.timed_out else self.broken
                return found(f"the guest of {read_nothing(event)}", number)
        return self.undecided(f"step {self.seen!r} was not reached, or failed")
