# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on steal time: it grows by what the thread that runs the vCPU has to wait for a CPU.

The thread's run_delay is read just before and just after each KVM_RUN, and KVM notes it in between. So how
much the guest's steal time grows from one reading to another is known to what the thread waited during the
two.
"""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding, read_nothing
from kvmharness.contract.line import in_words
from kvmharness.model.interval import signed
from kvmharness.trace import Event, Trace

_PAGE = ("steal", "steal_version", "steal_flags", "steal_padding")


@dataclass(frozen=True, slots=True, kw_only=True)
class StealClaim(Claim):
    """The steal time that the guest reads at the steps labelled `seen` has grown since the step `expected` by
    what the playing thread's run_delay has, and each time the page is whole.

    `by` are the steps between them at which the thread had to wait: where it did not, nothing is said.
    """

    seen: tuple[str, ...]
    expected: str
    by: tuple[str, ...] = ()

    def check(self, trace: Trace) -> Finding:
        """Check each of the steps."""
        steps, events = trace.numbers, trace.labelled
        for label in (self.expected, *self.by, *self.seen):
            if label not in steps:
                return self.undecided(f"step {label!r} was not reached")
            event = events[label]
            if not event.values or event.error:
                return self.undecided(read_nothing(event), steps[label])
            wrong = "" if label in self.by else _flaw(event)
            if wrong:
                return self.broken(f"step {label!r} read {wrong}", steps[label])
        for label in self.by:
            first, last = _waited(events[label])
            if first == last:
                return self.undecided(f"step {label!r}: nothing competed for the CPU", steps[label])
        origin = events[self.expected]
        for label in self.seen:
            grown, least, most = _growth(origin, events[label])
            if not least <= grown <= most:
                said = f"from step {self.expected!r} to step {label!r} the steal time grew by {grown} ns, "
                said += f"while the thread waited {least} to {most} ns for a CPU"
                off = least - grown if grown < least else grown - most
                return self.broken(said, steps[label], in_words(off))
        return self.kept()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoStealClaim(Claim):
    """The page that the guest reads at the steps labelled `seen` was not written since the step `expected`;
    with "" for that, never."""

    seen: tuple[str, ...]
    expected: str = ""

    def check(self, trace: Trace) -> Finding:
        """Check each of the steps."""
        steps, events = trace.numbers, trace.labelled
        was = [0] * len(_PAGE)
        for label in filter(None, (self.expected, *self.seen)):
            if label not in steps:
                return self.undecided(f"step {label!r} was not reached")
            event = events[label]
            if not event.values or event.error:
                return self.undecided(read_nothing(event), steps[label])
            page = [event.value(name) or 0 for name in _PAGE]
            if label == self.expected:
                was = page
            elif page != was:
                said = f"step {label!r} read a page of version {page[1]}, {page[0]} ns"
                return self.broken(said, steps[label])
        return self.kept()


def _flaw(event: Event) -> str:
    """What is wrong with a page as a guest read it; "" if nothing is."""
    version = event.value("steal_version") or 0
    if not version:
        return "version 0: KVM never wrote the page"
    if version % 2:
        return f"version {version}, which is odd"
    if event.value("preempted"):
        return "that its vCPU is preempted, while it runs"
    for name in ("steal_flags", "steal_padding"):
        if event.value(name):
            return f"{name.removeprefix('steal_')} {event.value(name):#x}, where there is nothing"
    return ""


def _waited(event: Event) -> tuple[int, int]:
    return event.value("run_delay_before") or 0, event.value("run_delay_after") or 0


def _growth(first: Event, last: Event) -> tuple[int, int, int]:
    """How many ns the steal time grew, and how many the run_delay did at the least and at the most."""
    grown = signed((last.value("steal") or 0) - (first.value("steal") or 0))
    (first_before, first_after), (last_before, last_after) = _waited(first), _waited(last)
    return grown, last_before - first_after, last_after - first_before
