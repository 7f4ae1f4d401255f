# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on TSC offsets: of vCPUs that count at the host's rate (no TSC scaling).

A guest's TSC is the host's TSC plus an offset. Every step that writes or reads a TSC says something
about that offset: a TSC of v, written or read while the host's TSC went from b to a, means an offset
between v - a and v - b. The offset attribute gives it exactly, and so does debugfs after a reading. A claim
names the steps whose offsets must agree (`seen` with `expected`), and the step that would explain a broken
claim (`instead`). A claim is
    kept       if the offsets seen agree with those expected, and not with that of `instead`
    broken     if the offsets seen do not agree with those expected
    undecided  if the brackets are too wide to distinguish the two, or a step failed
"""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding, read_nothing
from kvmharness.contract.promptly import TOGETHER_NS, Promptly, held_up
from kvmharness.model.arithmetic import duration
from kvmharness.model.interval import Interval, signed
from kvmharness.trace import Event, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetClaim(Claim):
    """One thing userspace is entitled to.

    `text` says it in words. `seen` and `expected` are labels of steps whose offsets must agree; of
    several in `expected`, those that did not fail are combined. `instead` is the label of the step whose
    offset the vCPU would have if the claim were broken ("" if there is none), and `otherwise` says in words
    what KVM did in that case. `together` names two steps that must follow each other within `within_ns` ns;
    if they do not, the claim is undecided.
    """

    seen: tuple[str, ...]
    expected: tuple[str, ...]
    instead: str = ""
    otherwise: str = ""
    together: tuple[str, ...] = ()
    within_ns: int = TOGETHER_NS

    def check(self, trace: Trace) -> Finding:
        """Check that the offsets agree."""
        steps, events = trace.numbers, trace.labelled
        expected = self._unmet_condition(events) or self._expected(events)
        if isinstance(expected, str):
            return self.undecided(expected)
        instead = implied_offset(events[self.instead]) if self.instead else None
        readings = {
            label: offsets
            for label in self.seen
            if label in events and (offsets := read_offsets(events[label]))
        }
        for label, offsets in readings.items():
            for seen in offsets:
                if seen.intersection(expected) is None:
                    gap = expected.gap(seen)
                    reason = _broken(trace, events[label], seen, gap)
                    if instead is not None and self.otherwise and seen.intersection(instead) is not None:
                        reason += f": {self.otherwise}"
                    return self.broken(reason, steps[label], duration(abs(gap), _created_khz(trace)))
        for label, offsets in readings.items():
            if instead is not None and offsets[-1].intersection(instead) is not None:
                width = events[label].bracket.width
                reason = (
                    f"the brackets are too wide: the offset of step {label!r} is known only to {width} cycles"
                )
                return self.undecided(reason, steps[label])
        unread = self._unread(events, set(readings))
        return self.undecided(unread) if unread else self.kept()

    def _unread(self, events: dict[str, Event], read: set[str]) -> str:
        """Why readings are missing, or "".

        A kernel may lack the offset attribute. But a guest must run, and one step must read something.
        """
        errors = set()
        for label in self.seen:
            if label not in events:
                return f"step {label!r} was not reached"
            if events[label].operation.by_guest and label not in read:
                return f"the guest of {read_nothing(events[label])}"
            errors.add(events[label].error)
        why = "/".join(sorted(errors - {""}))
        return "" if read else f"none of the steps {', '.join(self.seen)} read anything {why}".rstrip()

    def _unmet_condition(self, events: dict[str, Event]) -> str:
        """Why the claim does not apply, or ""."""
        if self.instead and self.instead not in events:
            return f"step {self.instead!r} was not reached"
        if self.instead and events[self.instead].error:
            return f"step {self.instead!r} failed with {events[self.instead].error}"
        if self.together:
            first, last = self.together
            return held_up(Promptly(first, last, self.within_ns), events)
        return ""

    def _expected(self, events: dict[str, Event]) -> Interval | str:
        """The offset that the claim expects, or why it is not known."""
        expected: Interval | None = None
        errors = []
        for label in self.expected:
            if label not in events:
                return f"step {label!r} was not reached"
            offsets = read_offsets(events[label])
            if not offsets:
                error = events[label].error
                errors.append(f"step {label!r} failed with {error}" if error else read_nothing(events[label]))
            for offset in offsets:
                both = offset if expected is None else expected.intersection(offset)
                if both is None:
                    return f"the steps {' and '.join(self.expected)} disagree with each other"
                expected = both
        return "; ".join(errors) if expected is None else expected


def implied_offset(event: Event) -> Interval | None:
    """The TSC offset that a step's values and bracket imply, in cycles; None if they imply none."""
    offset, tsc = event.operation.tsc_offset(event.values), event.guest_tsc
    if offset is not None:
        return Interval(signed(offset), signed(offset))
    if tsc is not None:
        return Interval(tsc - event.bracket.tsc_after, tsc - event.bracket.tsc_before)
    return None


def shown_offset(event: Event) -> Interval | None:
    """The offset that debugfs showed after a step that reads a TSC; needs no offset attribute."""
    if not event.debugfs or not event.operation.only_reads_tsc(event.values, event.error):
        return None
    offset = signed(event.debugfs[0].offset)
    return Interval(offset, offset)


def read_offsets(event: Event) -> list[Interval]:
    """The offsets that a step read, and that debugfs showed after it; the most exact one is last."""
    found = (None if event.error else implied_offset(event), shown_offset(event))
    return [each for each in found if each]


def _broken(trace: Trace, event: Event, seen: Interval, gap: int) -> str:
    """What a step read, and how far that is from what was required (`gap`, cycles, negative if too low)."""
    label, tsc = event.operation.label, event.guest_tsc
    khz = _created_khz(trace)
    cycles = f"{abs(gap)} cycle{'s' if abs(gap) != 1 else ''}"
    distance = f"{cycles} ({duration(abs(gap), khz)}) {'higher' if gap > 0 else 'lower'} than required"
    if seen == shown_offset(event) != implied_offset(event):
        return f"after step {label!r} debugfs showed offset {seen.low}, {distance}"
    if tsc is None:
        return f"step {label!r} read offset {seen.low}, {distance}"
    return f"step {label!r} read TSC {tsc} ({duration(tsc, khz)}), {distance}"


def _created_khz(trace: Trace) -> int:
    """The kHz with which the first vCPU was created; 0 where none was."""
    created = (each for each in trace.events if each.operation.creates_vcpu)
    return next((each.values[0] for each in created if each.values), 0)
