# SPDX-License-Identifier: GPL-2.0-or-later
"""Each vCPU's steal time, beside what the thread that runs it waited for a CPU."""

from collections.abc import Iterator

from kvmharness.judging.relations.relation import Relation, flag
from kvmharness.trace import Event

_ROOM = ("steal_flags", "steal_padding")


class Steal:
    """Each vCPU's steal time as its guest read it last."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, ...]] = {}

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """Whether there is any, whether its page is whole, and whether it is what the thread waited."""
        steal, version = event.value("steal"), event.value("steal_version")
        before, after = event.value("run_delay_before"), event.value("run_delay_after")
        if steal is None or version is None or before is None or after is None or event.error:
            return
        (number,) = event.operation.vcpu_numbers
        subject = f"the steal time of vCPU {number}"
        yield "written", flag(subject, "written", bool(version))
        if not version:
            return
        yield "open", flag(subject, "left open, as if it were still written to", bool(version & 1))
        yield "preempted", flag(subject, "that of a preempted vCPU", bool(event.value("preempted")))
        yield "room", flag(subject, "followed by 0", not any(event.value(name) for name in _ROOM))
        yield "waited", flag(subject, "what its thread waited for a CPU", before <= steal <= after)
        if number in self._last:
            same = self._last[number] == (steal, version)
            yield "again", flag(subject, "the same under the same version", same)
        self._last[number] = steal, version
