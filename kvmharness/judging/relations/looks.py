# SPDX-License-Identifier: GPL-2.0-or-later
"""When the masterclock was looked at: at which step, by the moment that a kvmclock page stands for."""

from collections.abc import Iterator

from kvmharness.judging.relations.clock import is_own_page
from kvmharness.judging.relations.offsets import Offsets
from kvmharness.judging.relations.rates import Rates
from kvmharness.judging.relations.relation import Relation
from kvmharness.model.interval import Interval, signed
from kvmharness.script import PVCLOCK_TSC_STABLE_BIT
from kvmharness.trace import Bracket, Event


class Looks:
    """The step at which KVM read the clocks of the masterclock that a vCPU's kvmclock page is written from.

    The page has the vCPU's TSC of that moment (tsc_timestamp), so that with the vCPU's offset the step is
    known whose bracket holds it. A page may be of an earlier offset: each that the vCPU had counts. Nothing
    is said where one of these was never seen, where two threads were at work at once, and once the host's
    clock left the TSC, of which KVM hears later. Nor without a masterclock: such a page is written again for
    reasons that come when they like.
    """

    def __init__(self, rates: Rates, offsets: Offsets, created: Bracket | None) -> None:
        self._rates, self._offsets = rates, offsets
        self._steps: list[tuple[str, Bracket]] = [("the VM's creation", created)] if created else []
        self._is_whole = created is not None
        self._had: dict[int, set[Interval]] = {}
        self._unseen: set[int] = set()  # vCPUs whose last write was not seen yet
        self._missed: set[int] = set()  # and those of which a write never was

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """Take a step; of one that read a page, when the masterclock in it was looked at."""
        operation = event.operation
        self._steps.append((f"step {len(self._steps)}", event.bracket))
        at_once = len(operation.vcpu_numbers) > 1 or (operation.sets_clock and operation.enters_guest)
        self._is_whole = self._is_whole and not at_once and operation.host_clock_on_tsc is None
        if not self._is_whole:
            return
        for number in operation.vcpu_numbers:
            self._follow(number, writes=operation.sets_tsc)
            if is_own_page(event) and (event.value("flags") or 0) & PVCLOCK_TSC_STABLE_BIT:
                names = self._looked_at(number, event.value("tsc_timestamp") or 0)
                if names:
                    subject = f"the masterclock in the kvmclock page of vCPU {number}"
                    yield "looked at", Relation(subject, frozenset(names))

    def _follow(self, number: int, *, writes: bool) -> None:
        """Take note of the offset that a vCPU now has, as far as that was seen."""
        if writes and number in self._unseen:
            self._missed.add(number)
        seen = self._offsets.known.get(number)
        if seen is not None:
            self._had.setdefault(number, set()).add(seen)
            self._unseen.discard(number)
        elif writes:
            self._unseen.add(number)

    def _looked_at(self, number: int, tsc: int) -> set[str]:
        """The steps in which the vCPU's TSC was that."""
        if number in self._missed | self._unseen | self._rates.other:
            return set()
        found = set()
        for offset in self._had.get(number, ()):
            low, high = tsc - offset.high, tsc - offset.low
            for name, bracket in self._steps:
                if signed(high - bracket.tsc_before) >= 0 and signed(bracket.tsc_after - low) >= 0:
                    found.add(f"was last looked at in {name}")
        return found
