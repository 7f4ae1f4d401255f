# SPDX-License-Identifier: GPL-2.0-or-later
"""Each vCPU's TSC offset: the one that was written, the one it had, another vCPU's, or that of a creation."""

from collections.abc import Iterator

from kvmharness.contract.offset import implied_offset, read_offsets
from kvmharness.judging.relations.adjust import Adjusts
from kvmharness.judging.relations.rates import Rates
from kvmharness.judging.relations.relation import HONOURS, KEEPS, Relation, beside
from kvmharness.model.interval import Interval, signed
from kvmharness.trace import Bracket, Event


class Offsets:
    """Offsets where TSCs are stable: each vCPU's as it was known last (`known`).

    One that has another rate than the host is left out: its TSC implies no offset, and where KVM catches
    up in software the offset depends on when it did.
    """

    def __init__(self, rates: Rates, adjusts: Adjusts, created: Bracket | None) -> None:
        self.known: dict[int, Interval] = {}
        self._rates, self._adjusts = rates, adjusts
        self._vm = created and _zero_within(created)  # the offset of a TSC that was 0 at the VM's creation
        self._born: dict[int, Interval] = {}  # of one that was 0 at its vCPU's, as long as nobody wrote it
        self._before: dict[int, Interval] = {}  # what each was before it was last written
        self._unseen: dict[int, int] = {}  # how many writes ago that was
        self._written: dict[int, Interval] = {}  # what the last write asked for

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """Each vCPU's offset, where it is known at all."""
        operation = event.operation
        writes = operation.sets_tsc and not event.error
        for place, number in enumerate(operation.vcpu_numbers):
            had = self.known.get(number) or _had_before(event)
            if operation.creates_vcpu and not event.error:
                self._born[number] = _zero_within(event.bracket)
            asked = self._asked(event, number, had) if writes else None
            if writes:
                self._take_write(number, asked)
            seen = self._seen(event, place, number)
            if seen is not None and number in self._born:
                yield "creation", self._since(number, seen, self._born.pop(number))
            if seen is not None and number not in self._rates.other:
                # Without debugfs only a later reading shows a write, and of several the last.
                unseen = self._unseen.get(number, 0)
                yield f"written {unseen}", self._related(number, seen, self._before.get(number), writes=True)
                if not writes and number in self.known:
                    yield "offset", self._related(number, seen, self.known[number], writes=False)
            if seen is not None:
                self.known[number] = seen
            elif writes:
                self.known.pop(number, None)
            self._adjusts.follow(event, number, had, seen or asked)

    def _take_write(self, number: int, asked: Interval | None) -> None:
        self._born.pop(number, None)
        self._written.pop(number, None)
        self._unseen[number] = 1 if number in self.known else self._unseen.get(number, 0) + 1
        if number in self.known:
            self._before[number] = self.known[number]
        if asked:
            self._written[number] = asked

    def _asked(self, event: Event, number: int, had: Interval | None) -> Interval | None:
        """The offset that a write asked for; what was read meanwhile is none of it."""
        if event.operation.guest_writes == "TSC_ADJUST":
            return self._adjusts.moved_to(event, number, had)
        return implied_offset(event)

    def _seen(self, event: Event, place: int, number: int) -> Interval | None:
        """The offset that a vCPU has after a step: what debugfs shows, else what a TSC implies."""
        if len(event.debugfs) > place:
            return Interval(*[signed(event.debugfs[place].offset)] * 2)
        if number in self._rates.other or event.operation.sets_tsc:
            return None
        readings = read_offsets(event)
        return readings[-1] if readings else None

    def _since(self, number: int, seen: Interval, born: Interval) -> Relation:
        """From when on a vCPU counts whose TSC nobody wrote, with the offset that was first seen of it."""
        known = {"counts from its creation": born, "counts from the VM's creation": self._vm}
        known |= {_shared_with(other): each for other, each in self.known.items()}
        names = {name for name, each in known.items() if each and each.intersection(seen)}
        return Relation(f"vCPU {number}", frozenset(names or {"counts from no creation"}))

    def _related(self, number: int, seen: Interval, had: Interval | None, *, writes: bool) -> Relation:
        known = {KEEPS: had, HONOURS: self._written.get(number)}
        known |= {_shared_with(other): each for other, each in self.known.items() if other != number}
        khz = self._rates.created.get(number, 0)
        return beside(f"vCPU {number}", known, seen, khz=khz, writes=writes)


class UnstableOffsets:
    """What a write leaves where a TSC is unstable by name alone, as debugfs shows it.

    A load that came just after it computes the offset again, within the same bracket.
    """

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._left: dict[int, tuple[int, int]] = {}  # what a write left, and when (TSC)

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """The offset that the host's write of one vCPU's TSC leaves."""
        operation, asked = event.operation, implied_offset(event)
        of_host = operation.sets_tsc and not (operation.by_guest or operation.creates_vcpu or event.error)
        if not of_host or len(operation.vcpu_numbers) != 1 or not event.debugfs or asked is None:
            return
        (number,), shown = operation.vcpu_numbers, signed(event.debugfs[0].offset)
        before, after = event.bracket.tsc_before, event.bracket.tsc_after
        width = after - before
        known = {HONOURS: Interval(asked.low - width, asked.high + width)}
        for other, (offset, since) in self._left.items():
            if other != number:
                # The time since then was added, by the kernel's own clock.
                slack = width + (after - since) * self._rates.off_ppb // 10**9 + 2
                known[_shared_with(other)] = Interval(offset - slack, offset + slack)
        khz = self._rates.created.get(number, 0)
        yield "written", beside(f"vCPU {number}", known, Interval(shown, shown), khz=khz, writes=True)
        self._left[number] = (shown, before)


def _shared_with(other: int) -> str:
    return f"has the offset of vCPU {other}"


def _zero_within(bracket: Bracket) -> Interval:
    """The offset of a TSC that was 0 at some moment of a bracket."""
    return Interval(-bracket.tsc_after, -bracket.tsc_before)


def _had_before(event: Event) -> Interval | None:
    """The offset that a vCPU had just before its guest wrote an MSR, as that read it; None if it did not."""
    before = event.value("tsc_before")
    if before is None:
        return None
    return Interval(before - event.bracket.tsc_after, before - event.bracket.tsc_before)
