# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of checking a claim."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from kvmharness.trace import Event


class Status(Enum):
    """The result of checking a claim."""

    KEPT = "kept"
    BROKEN = "broken"
    UNDECIDED = "undecided"


class AClaim(Protocol):
    """One thing userspace is entitled to; `text` says it in words."""

    @property
    def text(self) -> str:
        """The claim in words."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim's status, the reason in words ("" if kept), and the step that shows it (from 1; 0: none)."""

    claim: AClaim
    status: Status
    reason: str = ""
    step: int = 0


def read_nothing(event: Event) -> str:
    """That a step read nothing, and why, where its exits say so."""
    return f"step {event.operation.label!r} read nothing{f': {event.end}' if event.end else ''}"
