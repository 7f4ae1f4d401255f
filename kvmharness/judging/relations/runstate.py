# SPDX-License-Identifier: GPL-2.0-or-later
"""Each vCPU's runstate as a Xen tells it: what its times add up to, and what its thread waited for a CPU."""

from collections.abc import Iterator

from kvmharness.judging.relations.relation import Relation, flag
from kvmharness.script import RUNSTATES
from kvmharness.trace import Event


class Runstates:
    """Each vCPU's runstate as it was read last."""

    def __init__(self) -> None:
        self._waited: int | None = None

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """Whether there is any, whether it adds up, and its state where the thread has not waited since."""
        state, entered = event.value("runstate"), event.value("state_entry_time")
        waited = event.value("run_delay")
        if state is None or entered is None or event.error:
            return
        (number,) = event.operation.vcpu_numbers
        subject = f"the runstate of vCPU {number}"
        times = [event.value(f"time_{name}") or 0 for name in RUNSTATES]
        yield "written", flag(subject, "written", bool(entered))
        yield "sum", flag(subject, "one whose times add up", sum(times) % 2**64 == entered)
        yield "back", flag(subject, "one with a time that ran back", any(each >= 2**63 for each in times))
        if waited == self._waited:
            for each, name in enumerate(RUNSTATES):
                yield name, flag(subject, name, state == each)
        self._waited = waited
