# SPDX-License-Identifier: GPL-2.0-or-later
"""How what a step shows is related to what was seen before it in the same trace, in words.

Numbers of two kernels cannot be compared, since the two ran at different moments; these relations can.
"""

from collections.abc import Callable, Iterator

from kvmharness.judging.relations.adjust import Adjusts
from kvmharness.judging.relations.clock import Clock, Pages
from kvmharness.judging.relations.offsets import Offsets, UnstableOffsets
from kvmharness.judging.relations.rates import Paces, Rates
from kvmharness.judging.relations.relation import Relation
from kvmharness.trace import Bracket, Event

__all__ = ["Reading", "Relation", "Relations"]

Relations = dict[tuple[str, object], Relation]


class Reading:
    """One trace, read from its beginning: what is known of each vCPU and of the clock so far.

    `stable` says whether the host's TSC is stable, `one_tsc` that all its CPUs share one; `created` is the
    bracket of the VM's creation.
    """

    def __init__(self, stable: bool, created: Bracket | None = None, *, one_tsc: bool = False) -> None:
        rates = Rates()
        adjusts, pages = Adjusts(rates), Pages(rates)
        offsets = Offsets(rates, adjusts, created)
        # Offsets come first: what TSC_ADJUST and the clock are held against follows from them.
        self._sources: list[Callable[[Event], Iterator[tuple[str, Relation]]]] = []
        if stable:
            self._sources += [offsets.relations, Paces(rates).relations]
        elif one_tsc:
            self._sources += [UnstableOffsets(rates).relations]
        clock = Clock(rates, offsets.known, pages)
        self._sources += [rates.relations, adjusts.relations, clock.relations, pages.relations]

    def relations(self, event: Event) -> Relations:
        """Take a step: each thing that it shows, and how that is related to what was seen before."""
        return {
            (relation.subject, aspect): relation
            for source in self._sources
            for aspect, relation in source(event)
        }
