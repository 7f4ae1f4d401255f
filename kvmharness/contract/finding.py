# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of a claim."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Status(Enum):
    """What became of a claim."""

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
    """A claim's status, why (a sentence, "" where kept), and at which step (counted from 1; 0 for none)."""

    claim: AClaim
    status: Status
    reason: str = ""
    step: int = 0
