# SPDX-License-Identifier: GPL-2.0-or-later
"""What a claim is, and the result of checking it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import Enum

from kvmharness.trace import Event, Trace


class Status(Enum):
    """The result of checking a claim."""

    KEPT = "kept"
    BROKEN = "broken"
    UNDECIDED = "undecided"


# The fields of claims that hold labels, one or several.
_NAME_STEPS = frozenset(
    {
        *("seen", "expected", "instead", "together", "first", "last", "khz", "stands_since"),
        *("before", "by", "after", "ratio", "offset"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(ABC):
    """One thing userspace is entitled to; `text` says it in words."""

    text: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the steps that it names."""
        found: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _NAME_STEPS and value:
                found += [value] if isinstance(value, str) else value
        return tuple(found)

    @abstractmethod
    def check(self, trace: Trace) -> "Finding":
        """Check it on a trace."""

    def kept(self) -> "Finding":
        """The finding that it holds."""
        return Finding(self, Status.KEPT)

    def broken(self, reason: str, step: int, by: str = "") -> "Finding":
        """The finding that it does not hold, why, and the step that shows it; `by` how much, in words."""
        return Finding(self, Status.BROKEN, reason, step, by)

    def undecided(self, reason: str, step: int = 0) -> "Finding":
        """The finding that nothing can be said, and why."""
        return Finding(self, Status.UNDECIDED, reason, step)


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim's status, the reason in words ("" if kept), and the step that shows it (from 1; 0: none).

    `by` is how far what was seen is from what was required, with its unit; "" where that is no distance.
    """

    claim: Claim
    status: Status
    reason: str = ""
    step: int = 0
    by: str = ""


def read_nothing(event: Event) -> str:
    """That a step read nothing, and why, where its exits say so."""
    return f"step {event.operation.label!r} read nothing{f': {event.end}' if event.end else ''}"
