# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on a Hyper-V's reference time: it is the kvmclock in units of 100 ns, whichever way it is read.

All of this is arithmetic on what was read. A guest reads its TSC before and after the counter, and so does a
KVM_GET_MSRS of TSC, HV_TIME_REF_COUNT and TSC; no clock of ours comes into it.
"""

from dataclasses import dataclass

from kvmharness.contract.clock import page_time
from kvmharness.contract.finding import Claim, Finding
from kvmharness.contract.line import counted, in_words, is_stable, slack
from kvmharness.model.interval import signed
from kvmharness.trace import Event, Trace

UNIT_NS = 100

# The page's offset is made of two numbers that are rounded down to a unit, and a time by the page is rounded
# down once more: it may be a unit ahead of the clock, and two behind it (compute_tsc_page_parameters). The
# counter is such a time, or the clock rounded down.
AHEAD_NS, BEHIND_NS = UNIT_NS, 2 * UNIT_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceClaim(Claim):
    """The reference time that the steps labelled `seen` report is that of the page read at the step
    `expected`, at one TSC; and they report one.

    A step reads the TSC page, by its guest or from outside, or HV_TIME_REF_COUNT between two readings of TSC.
    The page `expected` is a kvmclock page, or a TSC page itself. With `by_page` the TSC page has to be in
    use, and its scale to be that of `expected` to the bit.
    """

    seen: tuple[str, ...]
    expected: str
    by_page: bool = True

    def check(self, trace: Trace) -> Finding:
        """Check each of the steps."""
        steps, events = trace.numbers, trace.labelled
        origin = events.get(self.expected)
        if origin is not None and origin.value("version") == 0:
            said = f"step {self.expected!r} read no page: KVM never wrote it"
            return self.broken(said, steps[self.expected])
        if origin is None or not _is_function(origin):
            return self.undecided(f"step {self.expected!r} read no page of a masterclock")
        for label in self.seen:
            if label not in steps:
                return self.undecided(f"step {label!r} was not reached")
            number, event = steps[label], events[label]
            if event.error or not event.values:
                return self.undecided(f"step {label!r} read no reference time")
            wrong = self._counter(event, origin) or self._page(trace.events[:number], origin)
            if wrong:
                said, gap = wrong
                return self.broken(f"step {label!r} {said}", number, in_words(gap) if gap else "")
        return self.kept()

    def _counter(self, event: Event, origin: Event) -> tuple[str, int] | None:
        """What is wrong with the counter, and by how many ns it is off; None if it is right."""
        found = counter(event)
        if found is None:
            return None
        before, count, after = found
        off = slack(_counted(origin, before, event))
        low = count * UNIT_NS - _time(origin, after) - AHEAD_NS - off
        high = count * UNIT_NS - _time(origin, before) + BEHIND_NS + off
        gap = low if low > 0 else min(high, 0)
        return (f"read a counter {_apart(gap)} step {self.expected!r}", abs(gap)) if gap else None

    def _page(self, events: tuple[Event, ...], origin: Event) -> tuple[str, int] | None:
        """What is wrong with the page, and by how many ns its time is off; None if it is right."""
        event = events[-1]
        sequence, scale = event.value("hv_sequence"), event.value("hv_scale")
        if sequence is None or scale is None:
            return None
        if not sequence:
            return ("read sequence 0: the guest is not to go by the page", 0) if self.by_page else None
        tsc = next((each.guest_tsc for each in reversed(events) if each.guest_tsc is not None), None)
        if tsc is None:
            return None
        time = reference_time(scale, event.value("hv_offset") or 0, tsc)
        gap = signed(time * UNIT_NS - _time(origin, tsc))
        off = slack(_counted(origin, tsc, event))
        if gap > AHEAD_NS + off or gap < -BEHIND_NS - off:
            return f"read a page whose time is {_apart(gap)} step {self.expected!r} at one TSC", abs(gap)
        due = _scale_of(origin)
        if self.by_page and scale != due:
            return f"read a page of scale {scale}, that of step {self.expected!r} is {due}", 0
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewedClaim(Claim):
    """The TSC page that the step labelled `seen` reads is another than at the step `expected`, and has
    another sequence; or, with `renewed` False, it is the same to the bit.

    A guest that copies the page notices by the sequence alone that it was written meanwhile.
    """

    seen: str
    expected: str
    renewed: bool = True

    def check(self, trace: Trace) -> Finding:
        """Compare the two pages."""
        steps, events = trace.numbers, trace.labelled
        pages = []
        for label in (self.expected, self.seen):
            page = tsc_page(events[label]) if label in events else None
            if page is None:
                return self.undecided(f"step {label!r} read no TSC page")
            pages.append(page)
        before, after = pages
        if not self.renewed:
            if before == after:
                return self.kept()
            return self.broken(
                f"step {self.seen!r} read a TSC page other than step {self.expected!r}", steps[self.seen]
            )
        if before[1:] == after[1:]:
            return self.broken(
                f"step {self.seen!r} read the TSC page of step {self.expected!r}", steps[self.seen]
            )
        if before[0] == after[0]:
            return self.broken(
                f"step {self.seen!r} read a new TSC page under the sequence of the old one, {after[0]}",
                steps[self.seen],
            )
        return self.kept()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyPageClaim(Claim):
    """The TSC page that the step labelled `seen` reads is empty: KVM has not written it."""

    seen: str

    def check(self, trace: Trace) -> Finding:
        """Check that it is all zero."""
        for number, event in enumerate(trace.events, 1):
            page = tsc_page(event)
            if event.operation.label == self.seen and page is not None:
                return (
                    self.broken(f"step {self.seen!r} read a page that was written", number)
                    if any(page)
                    else self.kept()
                )
        return self.undecided(f"step {self.seen!r} read no TSC page")


def reference_time(scale: int, offset: int, tsc: int) -> int:
    """The reference time for a TSC by a TSC page, in units of 100 ns (TLFS, "Reference TSC Page")."""
    return ((tsc * scale >> 64) + offset) % 2**64


def _is_function(page: Event) -> bool:
    """Whether a step read a page by which each TSC has its time."""
    return is_stable(page) or bool(page.value("hv_sequence"))


def _time(page: Event, tsc: int) -> int:
    """The time in ns for a TSC by a kvmclock page or a TSC page."""
    scale = page.value("hv_scale")
    if scale is None:
        return page_time(page.values, tsc)
    return reference_time(scale, page.value("hv_offset") or 0, tsc) * UNIT_NS


def _counted(page: Event, tsc: int, event: Event) -> int:
    """For how many ns a page's time is counted in cycles until a TSC; a TSC page does not say since when."""
    if page.value("hv_scale") is None:
        return counted(page, tsc, event)
    return event.bracket.ns_after - page.bracket.ns_before


def _scale_of(page: Event) -> int:
    """The scale of the TSC page that goes with a kvmclock page, or its own."""
    own = page.value("hv_scale")
    return scale_of(page.value("multiplier") or 0, page.value("shift") or 0) if own is None else own


def scale_of(multiplier: int, shift: int) -> int:
    """The scale of the TSC page that goes with a kvmclock page: compute_tsc_page_parameters()."""
    places = 32 + (shift - 256 if shift >= 128 else shift)
    return (multiplier << places if places >= 0 else multiplier >> -places) // UNIT_NS


def tsc_page(event: Event) -> tuple[int, int, int] | None:
    """Sequence, scale and offset of the page that a step read; None if it read none."""
    sequence, scale, offset = (event.value(name) for name in ("hv_sequence", "hv_scale", "hv_offset"))
    if event.error or sequence is None or scale is None or offset is None:
        return None
    return sequence, scale, offset


def counter(event: Event) -> tuple[int, int, int] | None:
    """A guest's TSC, the counter and the TSC again, as a step read them; None if it did not."""
    count = event.value("reference")
    if count is not None:
        before, after = event.value("tsc_before"), event.value("tsc_after")
        return None if before is None or after is None else (before, count, after)
    names = event.operation.value_names
    for place in range(len(names) - 2):
        if names[place : place + 3] == ("TSC", "HV_TIME_REF_COUNT", "TSC") and len(event.values) > place + 2:
            return event.values[place], event.values[place + 1], event.values[place + 2]
    return None


def _apart(gap: int) -> str:
    return f"{in_words(abs(gap))} {'ahead of' if gap > 0 else 'behind'}"
