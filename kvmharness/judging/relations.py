# SPDX-License-Identifier: GPL-2.0-or-later
"""How what a step shows is related to what was seen before it in the same trace, in words.

Numbers of two kernels cannot be compared, since the two ran at different moments; these relations can.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kvmharness.contract.clock import page_khz, page_time
from kvmharness.contract.offset import implied_offset, read_offsets
from kvmharness.judging.pace import OFF, Written
from kvmharness.model.arithmetic import duration, tolerated
from kvmharness.model.interval import Interval, signed
from kvmharness.script import PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE_BIT, TSC_STABLE
from kvmharness.trace import Bracket, Event

# A page's rate is that of a scaled TSC, which KVM knows to the kHz (kvm_guest_time_update, hw_tsc_khz).
_RATE_KHZ = 1.5
_PAGE_FLAGS = {PVCLOCK_TSC_STABLE_BIT: "stable", PVCLOCK_GUEST_STOPPED: "marked as stopped"}
# Two pages of one clock differ by the rounding of each. What lies between these says nothing.
_LINE_NS, _MOVED_NS = 2, 1000


@dataclass(frozen=True, slots=True)
class Relation:
    """How one thing that a step shows, `subject`, is related to others of its trace.

    `names` are the relations that hold, in words. `gaps` say of each relation that was looked at how far it
    is from holding, in cycles (0: it holds), `widths` how far it could be without showing. Without gaps it
    is known exactly which relations hold; `otherwise` says that none does. `khz` turns cycles into a
    duration, and `writes` says whether the step writes it.
    """

    subject: str
    names: frozenset[str]
    gaps: Mapping[str, int] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    khz: int = 0
    writes: bool = False
    otherwise: str = "gets an offset that is neither what was written nor any that a vCPU had"

    def contradicts(self, other: "Relation") -> bool:
        """Whether nothing that holds here holds there, and is further from it than brackets leave open."""
        if _moved_by_itself(self, other) or _moved_by_itself(other, self):
            return True
        if self.names & other.names or not self.names | other.names:
            return False
        if not self.gaps and not other.gaps:
            return True
        return _clear(self, other) or _clear(other, self)

    def text(self, other: "Relation") -> str:
        """What it is related to, the plainest relation first, where the other trace has something else."""
        if _moved_by_itself(self, other):
            return f"{self.subject} {_KEEPS}"
        if _moved_by_itself(other, self):
            return f"{self.subject} gets another offset without a write"
        return f"{self.subject} {min(self.names, key=_plainness) if self.names else self.otherwise}"

    def distance(self, other: "Relation") -> str:
        """How far it is from what holds in the other trace, in cycles and as a duration; "" where unknown."""
        missed = next((name for name in sorted(other.names, key=_plainness) if self.gaps.get(name)), "")
        gap = abs(self.gaps.get(missed, 0))
        return f"{gap} cycles, {duration(gap, self.khz)}" if gap else ""


def _moved_by_itself(one: Relation, other: Relation) -> bool:
    """Whether an offset that nobody wrote stays to the cycle in one trace and moves in the other."""
    stays = _KEEPS in one.names and one.widths.get(_KEEPS) == 0
    return stays and not other.writes and bool(other.gaps.get(_KEEPS)) and other.widths.get(_KEEPS) == 0


def _clear(one: Relation, other: Relation) -> bool:
    """Whether `one` is clearly away from what `other` agrees with."""
    return any(abs(one.gaps.get(name, 0)) > other.widths.get(name, 0) for name in other.names)


_KEEPS, _HONOURS = "keeps the offset that it had", "honours what was written"
_PLAIN = (_HONOURS, _KEEPS)


def _plainness(name: str) -> tuple[int, str]:
    return (_PLAIN.index(name) if name in _PLAIN else len(_PLAIN)), name


_MOVED = "is by how much writes moved it and the TSC"
_GOES_ON, _AS_SET = "goes on from what it was", "goes on from what was set"
_JUMPS = "is neither what it was nor what was set, gone on"

Relations = dict[tuple[str, object], Relation]


class Reading:
    """One trace, read from its beginning: what is known of each vCPU and of the clock so far."""

    def __init__(self, stable: bool, created: Bracket | None = None, *, one_tsc: bool = False) -> None:
        self._stable, self._one_tsc = stable, one_tsc
        self._vm = created and _zero_within(created)  # the offset of a TSC that was 0 at the VM's creation
        self._born: dict[int, Interval] = {}  # of one that was 0 at its vCPU's, as long as nobody wrote it
        self._offsets: dict[int, Interval] = {}  # what each vCPU's offset was known to be last
        self._before: dict[int, Interval] = {}  # and before it was last written
        self._unseen: dict[int, int] = {}  # how many writes ago that was
        self._written: dict[int, Interval] = {}  # what the last write asked for
        self._khz_created: dict[int, int] = {}
        self._khz_set: dict[int, int] = {}
        self._khz_of_vm: int | None = None
        self._other_rate: set[int] = set()
        self._ratios: dict[int, tuple[int, int]] = {}  # with the step at which it was read
        self._step = 0
        self._left: dict[int, tuple[int, int]] = {}  # on an unstable TSC: what a write left, and when (TSC)
        self._adjusted: dict[int, int] = {}  # what was last written to each TSC_ADJUST
        self._adjust: dict[int, Interval] = {}  # what each then has, by all that moved its TSC
        self._pages: dict[int, tuple[int, ...]] = {}
        self._wrote: dict[int, Written] = {}
        self._clocks: dict[str, Written] = {}

    def relations(self, event: Event) -> Relations:
        """Take a step: each thing that it shows, and how that is related to what was seen before."""
        found: Relations = {}
        self._step += 1
        sources = [self._of_rates(event), self._of_msrs(event), self._of_clock(event), self._of_pages(event)]
        if self._stable:
            sources[:0] = [self._of_offsets(event), self._of_paces(event)]
        elif self._one_tsc:
            sources[:0] = [self._of_writes(event)]
        for source in sources:
            for aspect, relation in source:
                found[relation.subject, aspect] = relation
        return found

    def _of_offsets(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """Each vCPU's TSC offset, where it is known at all.

        One that has another rate than the host is left out: its TSC implies no offset, and where KVM catches
        up in software the offset depends on when it did.
        """
        operation = event.operation
        writes = operation.sets_tsc and not event.error
        for place, number in enumerate(operation.vcpu_numbers):
            had = self._offsets.get(number) or _had_before(event)
            if operation.creates_vcpu and not event.error:
                self._born[number] = _zero_within(event.bracket)
            asked = self._asked(event, number, had) if writes else None
            if writes:
                self._born.pop(number, None)
                self._written.pop(number, None)
                self._unseen[number] = 1 if number in self._offsets else self._unseen.get(number, 0) + 1
                if number in self._offsets:
                    self._before[number] = self._offsets[number]
            if asked:
                self._written[number] = asked
            seen = self._seen(event, place, number)
            if seen is not None and number in self._born:
                yield "creation", self._since(number, seen, self._born.pop(number))
            if seen is not None and number not in self._other_rate:
                # Without debugfs only a later reading shows a write, and of several the last.
                unseen = self._unseen.get(number, 0)
                yield f"written {unseen}", self._related(number, seen, self._before.get(number), writes=True)
                if not writes and number in self._offsets:
                    yield "offset", self._related(number, seen, self._offsets[number], writes=False)
            if seen is not None:
                self._offsets[number] = seen
            elif writes:
                self._offsets.pop(number, None)
            self._follow_adjust(event, number, had, seen or asked)

    def _of_writes(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """What a write leaves where a TSC is unstable by name alone, as debugfs shows it.

        A load that came just after it computes the offset again, within the same bracket.
        """
        operation, asked = event.operation, implied_offset(event)
        of_host = operation.sets_tsc and not (operation.by_guest or operation.creates_vcpu or event.error)
        if not of_host or len(operation.vcpu_numbers) != 1 or not event.debugfs or asked is None:
            return
        (number,), shown = operation.vcpu_numbers, signed(event.debugfs[0].offset)
        before, after = event.bracket.tsc_before, event.bracket.tsc_after
        width = after - before
        self._written[number] = Interval(asked.low - width, asked.high + width)
        offsets = dict(self._offsets)
        for other, (offset, since) in self._left.items():
            # The time since then was added, by the kernel's own clock.
            slack = width + (after - since) // OFF
            self._offsets[other] = Interval(offset - slack, offset + slack)
        yield "written", self._related(number, Interval(shown, shown), None, writes=True)
        self._offsets, self._left[number] = offsets, (shown, before)

    def _since(self, number: int, seen: Interval, born: Interval) -> Relation:
        """From when on a vCPU counts whose TSC nobody wrote, with the offset that was first seen of it."""
        known = {"counts from its creation": born, "counts from the VM's creation": self._vm}
        known |= {f"has the offset of vCPU {other}": each for other, each in self._offsets.items()}
        names = {name for name, each in known.items() if each and each.intersection(seen)}
        return Relation(f"vCPU {number}", frozenset(names or {"counts from no creation"}))

    def _asked(self, event: Event, number: int, had: Interval | None) -> Interval | None:
        """The offset that a write asked for; what was read meanwhile is none of it.

        A guest that writes its TSC_ADJUST asks for its TSC to be moved by what that grows.
        """
        if event.operation.guest_writes != "TSC_ADJUST":
            return implied_offset(event)
        adjust = self._adjust.get(number)
        if had is None or adjust is None:
            return None
        grown = event.values[0]
        return Interval(had.low + grown - adjust.high, had.high + grown - adjust.low)

    def _follow_adjust(self, event: Event, number: int, had: Interval | None, has: Interval | None) -> None:
        """What TSC_ADJUST is after a step, of a vCPU whose offset was `had` and now is `has`.

        A guest that writes its TSC adds to it by how much that moves; a host that does leaves it alone.
        """
        operation, adjust = event.operation, self._adjust.pop(number, None)
        written = event.value("TSC_ADJUST") if operation.sets_tsc and not event.error else None
        if operation.guest_writes and len(event.values) < len(operation.value_names):
            return  # it may not have come to that
        if operation.creates_vcpu:
            written = 0
        elif operation.guest_writes == "TSC_ADJUST":
            written = self._adjusted[number] = event.values[0]
        if written is not None:
            adjust = Interval(written, written)
        elif operation.guest_writes == "TSC":
            adjust = _grown(adjust, had, has) if adjust and had and has else None
        if adjust:
            self._adjust[number] = adjust

    def _seen(self, event: Event, place: int, number: int) -> Interval | None:
        """The offset that a vCPU has after a step: what debugfs shows, else what a TSC implies."""
        if len(event.debugfs) > place:
            return Interval(*[signed(event.debugfs[place].offset)] * 2)
        if number in self._other_rate or event.operation.sets_tsc:
            return None
        readings = read_offsets(event)
        return readings[-1] if readings else None

    def _related(self, number: int, seen: Interval, had: Interval | None, *, writes: bool) -> Relation:
        known = {_KEEPS: had, _HONOURS: self._written.get(number)}
        known |= {
            f"has the offset of vCPU {other}": offset
            for other, offset in self._offsets.items()
            if other != number
        }
        gaps = {name: offset.gap(seen) for name, offset in known.items() if offset}
        widths = {name: offset.width + seen.width for name, offset in known.items() if offset}
        names = frozenset(name for name, gap in gaps.items() if gap == 0)
        return Relation(f"vCPU {number}", names, gaps, widths, self._khz_created.get(number, 0), writes)

    def _of_rates(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """A vCPU's kHz and its scaling ratio."""
        operation, khz = event.operation, event.value("khz")
        number = next(iter(operation.vcpu_numbers), None)
        subject = f"the rate of vCPU {number}"
        if khz is None:
            pass
        elif number is None:
            self._khz_of_vm = self._khz_of_vm if event.error else khz
        elif operation.creates_vcpu and not event.error:
            self._khz_created[number] = khz
            first = next(iter(self._khz_created.values()))
            if khz in (0, self._khz_of_vm) or not tolerated(khz, first):
                self._other_rate.add(number)
            # 0 asked for the host's own.
            if self._khz_of_vm:
                yield "khz", _same(subject, {"is what was set for the VM": self._khz_of_vm}, khz)
            else:
                yield "khz", _same(subject, {"is that of the first vCPU": first}, khz)
        elif operation.new_khz(event.values) is not None:
            self._khz_set[number] = khz
            near = khz == 0 or tolerated(khz, self._khz_created.get(number, 0))
            (self._other_rate.discard if near else self._other_rate.add)(number)
        elif not event.error:
            known = {
                "is what it was created with": self._khz_created.get(number),
                "is what it was set to": self._khz_set.get(number),
            }
            yield "khz", _same(subject, known, khz)
        for number, shown in zip(operation.vcpu_numbers, event.debugfs, strict=False):
            if shown.ratio is not None:
                before, since = self._ratios.get(number, (None, 0))
                self._ratios[number] = shown.ratio, self._step
                if before is not None:
                    known = {"stays as it was": before}
                    # Two that were read last at different steps are not compared.
                    subject = f"the scaling ratio of vCPU {number}"
                    yield f"ratio since {since}", _same(subject, known, shown.ratio)

    def _of_paces(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """How a TSC goes on that has another rate than the host's, as its guest reads it.

        The host reads it as it was at the vCPU's last entry, so only a guest's reading counts.
        """
        if len(event.operation.vcpu_numbers) != 1 or event.error:
            return
        (number,), read = event.operation.vcpu_numbers, event.guest_tsc
        if event.operation.sets_tsc or event.operation.new_khz(event.values) is not None:
            self._wrote.pop(number, None)
            if read is not None and event.operation.sets_tsc and not event.operation.by_guest:
                self._wrote[number] = Written(read, event)
        elif read is not None and event.operation.by_guest and number in self._wrote:
            khz = self._khz_set.get(number) or self._khz_created.get(number)
            if khz and number in self._other_rate:
                moved = self._wrote[number].goes_on(event, khz)
                gaps = {name: each.gap(Interval(0, 0)) for name, each in moved.items()}
                widths = {name: each.width for name, each in moved.items()}
                names = frozenset(name for name, gap in gaps.items() if gap == 0)
                subject = f"the TSC of vCPU {number}"
                yield "pace", Relation(subject, names, gaps, widths, khz, otherwise="is at neither rate")

    def _of_msrs(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """What TSC_ADJUST reads."""
        value = event.value("TSC_ADJUST")
        if value is None or event.error:
            return
        (number,) = event.operation.vcpu_numbers
        if event.operation.sets_tsc:
            self._adjusted[number] = value
        else:
            yield "adjust", self._of_adjust(number, value)
            self._adjust[number] = Interval(value, value)

    def _of_adjust(self, number: int, value: int) -> Relation:
        """What the TSC_ADJUST that was read is, of a vCPU."""
        written, moved = self._adjusted.get(number), self._adjust.get(number)
        known = {"is 0": Interval(0, 0), _MOVED: moved}
        if written is not None:
            known["is what was written"] = Interval(written, written)
        gaps = {name: each.gap(Interval(value, value)) for name, each in known.items() if each}
        widths = {name: each.width for name, each in known.items() if each}
        names = frozenset(name for name, gap in gaps.items() if gap == 0)
        khz = self._khz_created.get(number, 0)
        return Relation(f"TSC_ADJUST of vCPU {number}", names, gaps, widths, khz, otherwise="is another")

    def _of_clock(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """The flags of the VM's clock, and whether a guest reads anything."""
        flags, clock = event.value("clock_flags"), event.value("clock")
        if flags is not None:
            yield "flags", _flag("the VM's clock", "stable", bool(flags & TSC_STABLE))
        if flags is not None and clock is not None:
            known = {name: each.passed(clock, event) for name, each in self._clocks.items()}
            gaps = {name: each.gap(Interval(0, 0)) for name, each in known.items()}
            widths = {name: each.width for name, each in known.items()}
            names = frozenset(name for name, gap in gaps.items() if gap == 0)
            if known:
                yield "time", Relation("the VM's clock", names, gaps, widths, 1_000_000, otherwise=_JUMPS)
            self._clocks[_GOES_ON] = Written(clock, event)
            yield from self._beside_pages(clock, event)
        elif event.operation.sets_clock and clock is None:
            self._clocks = {}
        elif clock is not None and not event.error:
            self._clocks = {_AS_SET: Written(clock, event)}
        if event.operation.by_guest and not event.error and not event.timed_out:
            (number,) = event.operation.vcpu_numbers
            yield "reads", _flag(f"the guest of vCPU {number}", "able to read its TSC", bool(event.values))

    def _of_pages(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """A vCPU's kvmclock page: its flags, and whether it is the function of the TSC that the last one was.

        Both are evaluated at the moment of the later page, so no bracket is needed.
        """
        version, flags = event.value("version"), event.value("flags")
        if version is None or flags is None:
            return
        (number,) = event.operation.vcpu_numbers
        subject = f"the kvmclock page of vCPU {number}"
        yield "written", _flag(subject, "written", bool(version))
        if not version:
            return
        yield "open", _flag(subject, "left open, as if it were still written to", bool(version & 1))
        for bit, name in _PAGE_FLAGS.items():
            yield name, _flag(subject, name, bool(flags & bit))
        yield "page rate", self._page_rate(number, subject, event)
        before, page = self._pages.get(number), event.values
        self._pages[number] = page
        if before:
            # The version is the first value.
            same_version = before[0] == page[0] and before != page
            yield "version", _flag(subject, "changed under its old version", same_version)
            moved = abs(signed(page_time(page, page[1]) - page_time(before, page[1])))
            yield "line", _on_line(subject, moved, "goes on", "is moved")

    def _beside_pages(self, clock: int, event: Event) -> Iterator[tuple[str, Relation]]:
        """Whether the clock is what the vCPUs' pages say at the host's TSC that was read with it.

        A page that was read before may be stale. Then it is so on both kernels.
        """
        host_tsc = event.value("host_tsc")
        if host_tsc is None:
            return
        for number, page in self._pages.items():
            offset = self._offsets.get(number)
            if offset is None or offset.width or number in self._other_rate:
                continue
            apart = abs(signed(clock - page_time(page, (host_tsc + offset.low) % 2**64)))
            with_page = f"the page of vCPU {number}"
            yield (
                f"page {number}",
                _on_line("the VM's clock", apart, f"agrees with {with_page}", f"disagrees with {with_page}"),
            )

    def _page_rate(self, number: int, subject: str, event: Event) -> Relation:
        """At which of the known rates the page has its TSC count."""
        multiplier, shift = event.value("multiplier") or 0, event.value("shift") or 0
        khz = page_khz(multiplier, shift)
        known = {
            "has the TSC count as the first vCPU's": next(iter(self._khz_created.values()), None),
            "has the TSC count at the rate of its creation": self._khz_created.get(number),
            "has the TSC count at the rate that was set": self._khz_set.get(number),
        }
        names = frozenset(name for name, each in known.items() if each and abs(each - khz) <= _RATE_KHZ)
        return Relation(subject, names or frozenset({"has the TSC count at another rate"}))


def _zero_within(bracket: Bracket) -> Interval:
    """The offset of a TSC that was 0 at some moment of a bracket."""
    return Interval(-bracket.tsc_after, -bracket.tsc_before)


def _had_before(event: Event) -> Interval | None:
    """The offset that a vCPU had just before its guest wrote an MSR, as that read it; None if it did not."""
    before = event.value("tsc_before")
    if before is None:
        return None
    return Interval(before - event.bracket.tsc_after, before - event.bracket.tsc_before)


def _grown(adjust: Interval, had: Interval, has: Interval) -> Interval:
    """What TSC_ADJUST becomes by a guest's write that moves its vCPU's offset."""
    return Interval(adjust.low + has.low - had.high, adjust.high + has.high - had.low)


def _same(subject: str, known: Mapping[str, int | None], value: int) -> Relation:
    """Which of the known values this is."""
    names = frozenset(name for name, each in known.items() if each == value)
    return Relation(subject, names or frozenset({"is another"}))


def _on_line(subject: str, apart: int, same: str, other: str) -> Relation:
    """Whether two times of one TSC, so many ns apart, are on one line; both where that says nothing."""
    names = {same} if apart <= _LINE_NS else {other} if apart > _MOVED_NS else {same, other}
    return Relation(subject, frozenset(names))


def _flag(subject: str, name: str, is_set: bool) -> Relation:
    return Relation(subject, frozenset({f"is {name}" if is_set else f"is not {name}"}))
