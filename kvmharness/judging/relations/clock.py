# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM's clock and the vCPUs' kvmclock pages: whether each goes on, and agrees with the others."""

from collections.abc import Iterator, Mapping

from kvmharness.contract.clock import page_khz, page_time
from kvmharness.contract.line import slack, vcpu_tsc
from kvmharness.judging.pace import Written
from kvmharness.judging.relations.rates import Rates
from kvmharness.judging.relations.relation import Relation, beside, flag, on_line
from kvmharness.model.interval import Interval, signed
from kvmharness.script import HOST_TSC, PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE_BIT, REALTIME, TSC_STABLE
from kvmharness.trace import Event

# A page's rate is that of a scaled TSC, which KVM knows to the kHz (kvm_guest_time_update, hw_tsc_khz).
_RATE_KHZ = 1.5
_PAGE_FLAGS = {PVCLOCK_TSC_STABLE_BIT: "stable", PVCLOCK_GUEST_STOPPED: "marked as stopped"}
_GOES_ON, _AS_SET = "goes on from what it was", "goes on from what was set"
_AND_PASSED = "goes on from what was set and the real time that had passed"
_JUMPS = "is neither what it was nor what was set, gone on"
_REAL_JUMPS = "is not what it was, gone on"
# NTP slews the host's real time by so much at the most (MAXFREQ of linux/timex.h), in 10**-9.
_SLEWED_PPB = 500_000
# Without a masterclock KVM reads the TSC and the raw clock one after the other, for each page.
_READ_APART_NS = 1_000


class Pages:
    """Each vCPU's kvmclock page as it was read last (`last`).

    Two pages are evaluated at the moment of the later one, so no bracket is needed.
    """

    def __init__(self, rates: Rates) -> None:
        self.last: dict[int, tuple[int, ...]] = {}
        self._others: dict[str, dict[int, tuple[int, ...]]] = {}
        self._rates = rates

    def within(self, number: int, since: int, *, stable: bool = True) -> tuple[int, int]:
        """How far (ns) a time may be from that of the page of vCPU `number` to be on one line with it, and
        from where on it is not.

        There are `since` ns from the page's snapshot of the clocks to the moment at which both are evaluated:
        by then the two may have gone apart by what the raw clock is off KVM's rate, if the masterclock is
        another. A rate that is not the host's is known to a kHz.
        """
        near = slack(since)
        far = near + since * self._rates.off_ppb // 10**9
        if number in self._rates.other or not stable:
            khz = int(page_khz(*self.last[number][3:5])) if number in self.last else 0
            far += _READ_APART_NS + since // (khz or 1)
        return near, far

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """A page's flags, and whether it is the function of the TSC that the one before it was."""
        version, flags = event.value("version"), event.value("flags")
        if version is None or flags is None:
            return
        (number,) = event.operation.vcpu_numbers
        # Another's pages than KVM's own, a Xen's, are held against themselves.
        own = is_own_page(event)
        what = "the kvmclock page" if own else event.operation.phrase.removeprefix("read ")
        last = self.last if own else self._others.setdefault(what, {})
        subject = f"{what} of vCPU {number}"
        yield "written", flag(subject, "written", bool(version))
        if not version:
            return
        yield "open", flag(subject, "left open, as if it were still written to", bool(version & 1))
        for bit, name in _PAGE_FLAGS.items():
            yield name, flag(subject, name, bool(flags & bit))
        yield "page rate", self._rate(number, subject, event)
        before, page = last.get(number), event.values
        last[number] = page
        if before:
            # The version is the first value.
            same_version = before[0] == page[0] and before != page
            yield "version", flag(subject, "changed under its old version", same_version)
            moved = signed(page_time(page, page[1]) - page_time(before, page[1]))
            stable = bool(before[5] & page[5] & PVCLOCK_TSC_STABLE_BIT)
            within = self.within(number, since(before, page[1]), stable=stable)
            yield "line", on_line(subject, moved, within, "goes on", "is moved")

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
    """The VM's clock, beside what it was, what it was set to, and the pages; `offsets` are the vCPUs'.

    `real_slewed` says whether somebody may slew the host's real time.
    """

    def __init__(
        self, rates: Rates, offsets: Mapping[int, Interval], pages: Pages, *, real_slewed: bool
    ) -> None:
        self._rates, self._offsets, self._pages = rates, offsets, pages
        self._clocks: dict[str, Written] = {}
        self._real_off_ppb = rates.off_ppb + (_SLEWED_PPB if real_slewed else 0)
        self._real: Written | None = None

    def gone_on(self, event: Event) -> dict[str, Interval]:
        """What the clock may read at a step (ns), by the ways on which it may have come there."""
        return {name: each.gone_on(event) for name, each in self._clocks.items()}

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """The clock's flags and time, and whether a guest reads anything."""
        flags, clock = event.value("clock_flags"), event.value("clock")
        if flags is not None:
            yield "flags", flag("the VM's clock", "stable", bool(flags & TSC_STABLE))
        if flags is not None and clock is not None:
            known = self.gone_on(event)
            if known:
                read = Interval(clock, clock)
                yield "time", beside("the VM's clock", known, read, khz=1_000_000, otherwise=_JUMPS)
            self._clocks[_GOES_ON] = Written(clock, event, self._rates.off_ppb)
            yield from self._of_host(flags, event)
            yield from self._beside_pages(clock, event)
        elif event.operation.sets_clock and clock is None:
            self._clocks = {}
        elif clock is not None and not event.error:
            self._clocks = {_AS_SET: Written(clock, event, self._rates.off_ppb)}
            since, real = event.value("realtime"), self._real
            if since is not None and real is not None:
                # What the host's real time was is known by an earlier reading.
                passed = Written(clock + real.value - since, real.event, self._real_off_ppb)
                self._clocks[_AND_PASSED] = passed
        if event.operation.by_guest and not event.error and not event.timed_out:
            (number,) = event.operation.vcpu_numbers
            yield "reads", flag(f"the guest of vCPU {number}", "able to read its TSC", bool(event.values))

    def _of_host(self, flags: int, event: Event) -> Iterator[tuple[str, Relation]]:
        """The host's real time, and whether its TSC comes with it.

        A kernel that reports neither cannot: that is a capability.
        """
        subject, realtime = "the host's real time", event.value("realtime")
        if flags & REALTIME:
            yield "realtime with TSC", flag(subject, "reported with its TSC", bool(flags & HOST_TSC))
        if realtime is not None:
            if self._real:
                known, read = {_GOES_ON: self._real.gone_on(event)}, Interval(realtime, realtime)
                yield "realtime", beside(subject, known, read, khz=1_000_000, otherwise=_REAL_JUMPS)
            self._real = Written(realtime, event, self._real_off_ppb)

    def _beside_pages(self, clock: int, event: Event) -> Iterator[tuple[str, Relation]]:
        """Whether the clock is what the vCPUs' pages say at the host's TSC that was read with it.

        A page that was read before may be stale. Then it is so on both kernels.
        """
        host_tsc = event.value("host_tsc")
        if host_tsc is None:
            return
        for number, page in self._pages.last.items():
            offset, ratio = self._offsets.get(number), self._rates.ratio(number)
            if offset is None or offset.width or (number in self._rates.other and ratio is None):
                continue
            tsc = vcpu_tsc(host_tsc, offset.low, ratio)
            apart = signed(clock - page_time(page, tsc))
            of_page = f"the page of vCPU {number}"
            said = f"agrees with {of_page}", f"disagrees with {of_page}"
            within = self._pages.within(number, since(page, tsc))
            yield f"page {number}", on_line("the VM's clock", apart, within, *said)


def is_own_page(event: Event) -> bool:
    """Whether a step reads a page as KVM's own guests have it: no Xen's."""
    return event.operation.name.endswith("kvmclock")


def since(page: tuple[int, ...], tsc: int) -> int:
    """How many ns there are from a page's snapshot of the clocks to a TSC."""
    return abs(signed(page_time(page, tsc) - page[2]))
