# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps that must follow each other soon; otherwise their results say nothing.

A player that was held up between two writes proves nothing about a kernel that asks how far apart they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kvmharness.trace import Event

# Half of the second within which KVM treats a write as a request to synchronize (kvm_synchronize_tsc).
TOGETHER_NS = 500_000_000


@dataclass(frozen=True, slots=True)
class Promptly:
    """Less than `within_ns` ns pass from the start of the step labelled `first` to the end of `last`."""

    first: str
    last: str
    within_ns: int = TOGETHER_NS


def held_up(condition: Promptly, events: Mapping[str, Event]) -> str:
    """Why the condition is not met, or ""; `events` are by label."""
    for label in (condition.first, condition.last):
        if label not in events:
            return f"step {label!r} was not reached"
        if events[label].error:
            return f"step {label!r} failed with {events[label].error}"
    elapsed = events[condition.last].bracket.ns_after - events[condition.first].bracket.ns_before
    if elapsed < condition.within_ns:
        return ""
    apart = f"steps {condition.first!r} and {condition.last!r} were {elapsed / 1e6:.0f} ms apart"
    return f"{apart}, too far to say anything about the kernel"
