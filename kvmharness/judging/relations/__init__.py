# SPDX-License-Identifier: GPL-2.0-or-later
"""How what a step shows is related to what was seen before it in the same trace, in words.

Numbers of two kernels cannot be compared, since the two ran at different moments; these relations can.
"""

from collections.abc import Callable, Iterator

from kvmharness.contract.host_rate import CORRECTED_PPB, off_ppb
from kvmharness.judging.relations.adjust import Adjusts
from kvmharness.judging.relations.clock import Clock, Pages
from kvmharness.judging.relations.looks import Looks
from kvmharness.judging.relations.offsets import Offsets, UnstableOffsets
from kvmharness.judging.relations.rates import Paces, Rates
from kvmharness.judging.relations.reference import ReferenceTimes
from kvmharness.judging.relations.relation import Relation
from kvmharness.judging.relations.runstate import Runstates
from kvmharness.judging.relations.steal import Steal
from kvmharness.judging.relations.timers import Timers
from kvmharness.trace import Bracket, Event, Trace

__all__ = ["Reading", "Relation", "Relations"]

Relations = dict[tuple[str, object], Relation]


class Reading:
    """One trace, read from its beginning: what is known of each vCPU and of the clock so far.

    `stable` says whether the host's TSC is stable, `undisturbed` that nothing but the kernel and the player
    ran, on CPUs that share one TSC; `created` is the bracket of the VM's creation.
    """

    def __init__(
        self, trace: Trace, stable: bool, created: Bracket | None = None, *, undisturbed: bool = False
    ) -> None:
        rates = Rates(_off_ppb(trace))
        adjusts, pages = Adjusts(rates), Pages(rates)
        offsets = Offsets(rates, adjusts, created)
        # Offsets come first: what TSC_ADJUST and the clock are held against follows from them.
        self._sources: list[Callable[[Event], Iterator[tuple[str, Relation]]]] = []
        if stable:
            self._sources += [offsets.relations, Paces(rates).relations]
        elif undisturbed:
            self._sources += [UnstableOffsets(rates).relations]
        clock = Clock(rates, offsets.known, pages, real_slewed=not undisturbed)
        timers = Timers(rates, offsets.known, undisturbed=undisturbed)
        self._sources += [rates.relations, adjusts.relations, clock.relations, pages.relations]
        self._sources += [ReferenceTimes(rates, pages, clock).relations, timers.relations]
        self._sources += [Steal().relations, Runstates().relations]
        if stable:
            # Last: where a step shows something else, too, that says more.
            self._sources.append(Looks(rates, offsets, created).relations)

    def relations(self, event: Event) -> Relations:
        """Take a step: each thing that it shows, and how that is related to what was seen before."""
        return {
            (relation.subject, aspect): relation
            for source in self._sources
            for aspect, relation in source(event)
        }


def _off_ppb(trace: Trace) -> int:
    """How far the rate that KVM counts by may be from the raw clock's, which may leave the TSC meanwhile."""
    left = any(event.operation.host_clock_on_tsc is False for event in trace.events)
    return CORRECTED_PPB if left else off_ppb(trace)
