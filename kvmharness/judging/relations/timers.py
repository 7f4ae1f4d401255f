# SPDX-License-Identifier: GPL-2.0-or-later
"""Deadline timers: whether a guest has its interrupt, when by its TSC, and what its deadline reads."""

from collections.abc import Iterator, Mapping

from kvmharness.contract.host_rate import CORRECTED_PPB
from kvmharness.contract.timer import RAW_PPB, SLEWED_PPB
from kvmharness.judging.relations.rates import Rates
from kvmharness.judging.relations.relation import Relation, same
from kvmharness.model.interval import Interval, signed
from kvmharness.trace import Event

_FIRES, _NEVER = "interrupts its guest", "does not interrupt its guest"
_EARLY, _NOT_EARLY = "interrupts its guest before its time", "does not interrupt its guest before its time"
# Within so many ns of a deadline its reading says nothing: the interrupt may have come, or not.
_NEAR_NS = 3_000_000


class Timers:
    """Each vCPU's deadline as it was written last; `offsets` are the vCPUs'.

    With `undisturbed` the host's timers are exact.
    """

    def __init__(self, rates: Rates, offsets: Mapping[int, Interval], *, undisturbed: bool) -> None:
        self._rates, self._offsets, self._undisturbed = rates, offsets, undisturbed
        self._written: dict[int, int] = {}
        self._armed: dict[int, tuple[int, Event]] = {}  # where no interrupt came since, with the step

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """What a step shows of its vCPU's timer."""
        deadline, fired = event.value("TSC_DEADLINE"), event.value("fired")
        if event.error or (deadline is None and fired is None):
            return
        (number,) = event.operation.vcpu_numbers
        subject = f"the timer of vCPU {number}"
        if deadline is not None and event.operation.only_reads_tsc(event.values, event.error):
            if not self._is_near(event, number, deadline):
                known = {"is 0": 0, "is what was written": self._written.get(number)}
                yield "deadline", same(f"the deadline of vCPU {number}", known, deadline)
        elif deadline is not None:
            self._written[number] = deadline
            self._armed[number] = deadline, event
        if fired is not None and event.value("armed") != 0:
            yield "fired", Relation(subject, frozenset({_FIRES if fired else _NEVER}))
            if fired and number in self._armed:
                yield "early", Relation(subject, self._when(fired, *self._armed.pop(number), event))

    def _is_near(self, event: Event, number: int, deadline: int) -> bool:
        """Whether the time of a deadline may come at this very step."""
        due, offset = deadline or self._written.get(number), self._offsets.get(number)
        if self._undisturbed or not due:
            return False
        if offset is None:
            return True
        near = _NEAR_NS * self._rates.created.get(number, 0) // 1_000_000
        low, high = event.bracket.tsc_before + offset.low, event.bracket.tsc_after + offset.high
        return signed(due - low) > -near and signed(due - high) < near

    def _when(self, fired: int, deadline: int, wrote: Event, event: Event) -> frozenset[str]:
        """Whether an interrupt came before its time, by the guest's TSC.

        How late it came is not asked: the host's kernel may have been busy.
        """
        early = signed(deadline - fired)
        if not deadline or early <= 0:
            return frozenset({_NOT_EARLY})
        off_ppb = RAW_PPB if self._undisturbed else SLEWED_PPB + CORRECTED_PPB
        slewed = (event.bracket.tsc_after - wrote.bracket.tsc_before) * off_ppb // 10**9
        return frozenset({_EARLY} if early > slewed else {_EARLY, _NOT_EARLY})
