# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM's clock and the vCPUs' kvmclock pages: whether each goes on, and agrees with the others."""

from collections.abc import Iterator, Mapping

from kvmharness.contract.clock import page_khz, page_time
from kvmharness.judging.pace import Written
from kvmharness.judging.relations.rates import Rates
from kvmharness.judging.relations.relation import Relation, beside, flag, on_line
from kvmharness.model.interval import Interval, signed
from kvmharness.script import PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE_BIT, TSC_STABLE
from kvmharness.trace import Event

# A page's rate is that of a scaled TSC, which KVM knows to the kHz (kvm_guest_time_update, hw_tsc_khz).
_RATE_KHZ = 1.5
_PAGE_FLAGS = {PVCLOCK_TSC_STABLE_BIT: "stable", PVCLOCK_GUEST_STOPPED: "marked as stopped"}
_GOES_ON, _AS_SET = "goes on from what it was", "goes on from what was set"
_JUMPS = "is neither what it was nor what was set, gone on"


class Pages:
    """Each vCPU's kvmclock page as it was read last (`last`).

    Two pages are evaluated at the moment of the later one, so no bracket is needed.
    """

    def __init__(self, rates: Rates) -> None:
        self.last: dict[int, tuple[int, ...]] = {}
        self._rates = rates

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """A page's flags, and whether it is the function of the TSC that the one before it was."""
        version, flags = event.value("version"), event.value("flags")
        if version is None or flags is None:
            return
        (number,) = event.operation.vcpu_numbers
        subject = f"the kvmclock page of vCPU {number}"
        yield "written", flag(subject, "written", bool(version))
        if not version:
            return
        yield "open", flag(subject, "left open, as if it were still written to", bool(version & 1))
        for bit, name in _PAGE_FLAGS.items():
            yield name, flag(subject, name, bool(flags & bit))
        yield "page rate", self._rate(number, subject, event)
        before, page = self.last.get(number), event.values
        self.last[number] = page
        if before:
            # The version is the first value.
            same_version = before[0] == page[0] and before != page
            yield "version", flag(subject, "changed under its old version", same_version)
            moved = abs(signed(page_time(page, page[1]) - page_time(before, page[1])))
            yield "line", on_line(subject, moved, "goes on", "is moved")

    def _rate(self, number: int, subject: str, event: Event) -> Relation:
        """At which of the known rates the page has its TSC count."""
        multiplier, shift = event.value("multiplier") or 0, event.value("shift") or 0
        khz = page_khz(multiplier, shift)
        known = {
            "has the TSC count as the first vCPU's": self._rates.first,
            "has the TSC count at the rate of its creation": self._rates.created.get(number),
            "has the TSC count at the rate that was set": self._rates.set_to.get(number),
        }
        names = frozenset(name for name, each in known.items() if each and abs(each - khz) <= _RATE_KHZ)
        return Relation(subject, names or frozenset({"has the TSC count at another rate"}))


class Clock:
    """The VM's clock, beside what it was, what it was set to, and the pages; `offsets` are the vCPUs'."""

    def __init__(self, rates: Rates, offsets: Mapping[int, Interval], pages: Pages) -> None:
        self._rates, self._offsets, self._pages = rates, offsets, pages
        self._clocks: dict[str, Written] = {}

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """The clock's flags and time, and whether a guest reads anything."""
        flags, clock = event.value("clock_flags"), event.value("clock")
        if flags is not None:
            yield "flags", flag("the VM's clock", "stable", bool(flags & TSC_STABLE))
        if flags is not None and clock is not None:
            known = {name: each.passed(clock, event) for name, each in self._clocks.items()}
            if known:
                told = beside("the VM's clock", known, Interval(0, 0), khz=1_000_000, otherwise=_JUMPS)
                yield "time", told
            self._clocks[_GOES_ON] = Written(clock, event)
            yield from self._beside_pages(clock, event)
        elif event.operation.sets_clock and clock is None:
            self._clocks = {}
        elif clock is not None and not event.error:
            self._clocks = {_AS_SET: Written(clock, event)}
        if event.operation.by_guest and not event.error and not event.timed_out:
            (number,) = event.operation.vcpu_numbers
            yield "reads", flag(f"the guest of vCPU {number}", "able to read its TSC", bool(event.values))

    def _beside_pages(self, clock: int, event: Event) -> Iterator[tuple[str, Relation]]:
        """Whether the clock is what the vCPUs' pages say at the host's TSC that was read with it.

        A page that was read before may be stale. Then it is so on both kernels.
        """
        host_tsc = event.value("host_tsc")
        if host_tsc is None:
            return
        for number, page in self._pages.last.items():
            offset = self._offsets.get(number)
            if offset is None or offset.width or number in self._rates.other:
                continue
            apart = abs(signed(clock - page_time(page, (host_tsc + offset.low) % 2**64)))
            of_page = f"the page of vCPU {number}"
            said = f"agrees with {of_page}", f"disagrees with {of_page}"
            yield f"page {number}", on_line("the VM's clock", apart, *said)
