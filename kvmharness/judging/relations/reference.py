# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference time of a Hyper-V, by its counter and its TSC page: whether it is the VM's clock."""

from collections.abc import Iterator

from kvmharness.contract.clock import page_time
from kvmharness.contract.reference import (
    AHEAD_NS,
    BEHIND_NS,
    UNIT_NS,
    counter,
    reference_time,
    scale_of,
    tsc_page,
)
from kvmharness.judging.relations.clock import Clock, Pages, since
from kvmharness.judging.relations.rates import Rates
from kvmharness.judging.relations.relation import Relation, beside, flag, same
from kvmharness.model.interval import Interval
from kvmharness.trace import Event

_COUNTER, _PAGE = "the Hyper-V reference counter", "the Hyper-V TSC page"
_BY_PAGE = "is the time of the Hyper-V TSC page"


class ReferenceTimes:
    """The counter beside the pages and the VM's clock; the TSC page beside the kvmclock pages and the page
    that was there before."""

    def __init__(self, rates: Rates, pages: Pages, clock: Clock) -> None:
        self._rates, self._pages, self._clock = rates, pages, clock
        self._tsc_page: tuple[int, int, int] | None = None
        self._copied = False  # whether the guest has to be asked before the page is written again
        self._tscs: dict[int, int] = {}  # each vCPU's, as it was read last

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """What a step shows of the reference time."""
        if event.error:
            return
        numbers, tsc = event.operation.vcpu_numbers, event.guest_tsc
        if len(numbers) == 1 and tsc is not None:
            self._tscs[numbers[0]] = tsc
        if event.operation.guest_writes == "HV_TSC_EMULATION_CONTROL":
            self._copied = event.values[:1] != (0,)
        hz = event.value("HV_TSC_FREQUENCY")
        if hz is not None:
            yield "hv frequency", self._frequency(numbers[0], hz)
        found = counter(event)
        if found:
            yield from self._counter(event, numbers[0], *found)
        page = tsc_page(event)
        if page:
            yield from self._page(page)

    def _frequency(self, number: int, hz: int) -> Relation:
        known = {
            "is that of its creation": self._rates.created.get(number, 0) * 1000,
            "is the one that was set": self._rates.set_to.get(number, 0) * 1000,
        }
        return same(f"the TSC frequency that the guest of vCPU {number} reads", known, hz)

    def _counter(
        self, event: Event, number: int, before: int, count: int, after: int
    ) -> Iterator[tuple[str, Relation]]:
        """Which times it is, at some moment between the two readings of the vCPU's TSC."""
        read, clock = Interval(count * UNIT_NS, count * UNIT_NS), self._clock.gone_on(event)
        known = {"the VM's clock": {name: _widened(each.low, each.high) for name, each in clock.items()}}
        page = self._pages.last.get(number)
        if page:
            off = self._pages.within(number, since(page, after))[1]
            due = _between(page_time(page, before), page_time(page, after), off)
            known[f"vCPU {number}'s kvmclock page"] = {f"is the time of vCPU {number}'s kvmclock page": due}
        if self._tsc_page and self._tsc_page[0]:
            first, last = (_time(self._tsc_page, tsc) for tsc in (before, after))
            known["the Hyper-V TSC page"] = {_BY_PAGE: _between(first, last, 0)}
        for what, times in known.items():
            if times:
                told = beside(_COUNTER, times, read, khz=1_000_000, otherwise=f"is not the time of {what}")
                yield f"hv counter by {what}", told

    def _page(self, page: tuple[int, int, int]) -> Iterator[tuple[str, Relation]]:
        """Whether it is in use and another than before, and whose time it tells."""
        yield "hv page in use", flag(_PAGE, "in use", bool(page[0]))
        before, self._tsc_page = self._tsc_page, page
        if before:
            if self._copied:
                yield "hv page", same(_PAGE, {"is as it was": int(page == before)}, 1)
            under_old = page[0] == before[0] and page != before
            yield "hv sequence", flag(_PAGE, "changed under its old sequence", under_old)
        if not page[0]:
            return
        for number, clock in self._pages.last.items():
            subject = f"{_PAGE}, beside the kvmclock page of vCPU {number},"
            yield (
                f"hv scale {number}",
                same(subject, {"has its scale": scale_of(clock[3], clock[4])}, page[1]),
            )
            tsc = self._tscs.get(number)
            if tsc is not None:
                off = self._pages.within(number, since(clock, tsc))[1]
                time = page_time(clock, tsc)
                known = {"tells its time": _between(time, time, off)}
                read = Interval(_time(page, tsc), _time(page, tsc))
                yield (
                    f"hv time {number}",
                    beside(subject, known, read, khz=1_000_000, otherwise="tells another time"),
                )


def _time(page: tuple[int, int, int], tsc: int) -> int:
    """The time (ns) for a TSC by a TSC page."""
    return reference_time(page[1], page[2], tsc) * UNIT_NS


def _between(first: int, last: int, off: int) -> Interval:
    """What a reference time reads at a moment from one of the clock's times to another."""
    return _widened(first - off, first + (last - first) % 2**64 + off)


def _widened(low: int, high: int) -> Interval:
    return Interval(low - BEHIND_NS, high + AHEAD_NS)
