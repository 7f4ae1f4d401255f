# SPDX-License-Identifier: GPL-2.0-or-later
"""What each vCPU's TSC_ADJUST is, by all that moved its TSC."""

from collections.abc import Iterator

from kvmharness.judging.relations.rates import Rates
from kvmharness.judging.relations.relation import Relation, beside
from kvmharness.model.interval import Interval
from kvmharness.trace import Event


class Adjusts:
    """Each vCPU's TSC_ADJUST: a guest that writes its TSC adds to it by how much that moves; a host that does
    leaves it alone."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._written: dict[int, int] = {}  # what was last written to each
        self._now: dict[int, Interval] = {}  # what each then is, by all that moved its TSC

    def moved_to(self, event: Event, number: int, had: Interval | None) -> Interval | None:
        """What a guest that writes its TSC_ADJUST asks for: the offset it had, and what that grows."""
        adjust = self._now.get(number)
        if had is None or adjust is None:
            return None
        grown = event.values[0]
        return Interval(had.low + grown - adjust.high, had.high + grown - adjust.low)

    def follow(self, event: Event, number: int, had: Interval | None, has: Interval | None) -> None:
        """Take a step of a vCPU whose offset was `had` and now is `has`."""
        operation, adjust = event.operation, self._now.pop(number, None)
        written = event.value("TSC_ADJUST") if operation.sets_tsc and not event.error else None
        if operation.guest_writes and len(event.values) < len(operation.value_names):
            return  # it may not have come to that
        if operation.creates_vcpu:
            written = 0
        elif operation.guest_writes == "TSC_ADJUST":
            written = self._written[number] = event.values[0]
        if written is not None:
            adjust = Interval(written, written)
        elif operation.guest_writes == "TSC":
            adjust = _grown(adjust, had, has) if adjust and had and has else None
        if adjust:
            self._now[number] = adjust

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """What TSC_ADJUST reads."""
        value = event.value("TSC_ADJUST")
        if value is None or event.error:
            return
        (number,) = event.operation.vcpu_numbers
        if event.operation.sets_tsc:
            self._written[number] = value
            return
        read = Interval(value, value)
        known = {"is 0": Interval(0, 0), "is by how much writes moved it and the TSC": self._now.get(number)}
        if number in self._written:
            known["is what was written"] = Interval(self._written[number], self._written[number])
        khz = self._rates.created.get(number, 0)
        yield "adjust", beside(f"TSC_ADJUST of vCPU {number}", known, read, khz=khz, otherwise="is another")
        self._now[number] = read


def _grown(adjust: Interval, had: Interval, has: Interval) -> Interval:
    """What TSC_ADJUST becomes by a guest's write that moves its vCPU's offset."""
    return Interval(adjust.low + has.low - had.high, adjust.high + has.high - had.low)
