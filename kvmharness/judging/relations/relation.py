# SPDX-License-Identifier: GPL-2.0-or-later
"""One thing that a step shows, and how it is related to what was seen before it, in words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvmharness.model.arithmetic import duration
from kvmharness.model.interval import Interval

KEEPS, HONOURS = "keeps the offset that it had", "honours what was written"
_PLAIN = (HONOURS, KEEPS)


@dataclass(frozen=True, slots=True)
class Relation:
    """How one thing that a step shows, `subject`, is related to others of its trace.

    `names` are the relations that hold, in words. `gaps` say of each relation that was looked at how far it
    is from holding, in cycles (0: it holds), `widths` how far it could be without showing. Without gaps it
    is known exactly which relations hold; `otherwise` says that none does. `khz` turns cycles into a
    duration, and `writes` says whether the step writes it.
    """

    subject: str
    names: frozenset[str]
    gaps: Mapping[str, int] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    khz: int = 0
    writes: bool = False
    otherwise: str = "gets an offset that is neither what was written nor any that a vCPU had"

    def contradicts(self, other: "Relation") -> bool:
        """Whether nothing that holds here holds there, and is further from it than brackets leave open."""
        if _moved_by_itself(self, other) or _moved_by_itself(other, self):
            return True
        if self.names & other.names or not self.names | other.names:
            return False
        if not self.gaps and not other.gaps:
            return True
        return _clear(self, other) or _clear(other, self)

    def text(self, other: "Relation") -> str:
        """What it is related to, the plainest relation first, where the other trace has something else."""
        if _moved_by_itself(self, other):
            return f"{self.subject} {KEEPS}"
        if _moved_by_itself(other, self):
            return f"{self.subject} gets another offset without a write"
        return f"{self.subject} {min(self.names, key=_plainness) if self.names else self.otherwise}"

    def distance(self, other: "Relation") -> str:
        """How far it is from what holds in the other trace, in cycles and as a duration; "" where unknown."""
        missed = next((name for name in sorted(other.names, key=_plainness) if self.gaps.get(name)), "")
        gap = abs(self.gaps.get(missed, 0))
        return f"{gap} cycles, {duration(gap, self.khz)}" if gap else ""


def beside(subject: str, known: Mapping[str, Interval | None], seen: Interval, **more: Any) -> Relation:
    """Which of the known values what was seen may be, each within its interval; `more` as a Relation's."""
    gaps = {name: each.gap(seen) for name, each in known.items() if each}
    widths = {name: each.width + seen.width for name, each in known.items() if each}
    names = frozenset(name for name, gap in gaps.items() if gap == 0)
    return Relation(subject, names, gaps, widths, **more)


def same(subject: str, known: Mapping[str, int | None], value: int) -> Relation:
    """Which of the known values this is."""
    names = frozenset(name for name, each in known.items() if each == value)
    return Relation(subject, names or frozenset({"is another"}))


def on_line(subject: str, apart: int, within: tuple[int, int], agrees: str, otherwise: str) -> Relation:
    """Whether two times of one TSC, so many ns apart, are on one line.

    They are up to the first of `within`, and are not from the second on; what lies between says nothing.
    """
    near, far = within
    names = {agrees} if abs(apart) <= near else {otherwise} if abs(apart) > far else {agrees, otherwise}
    return Relation(subject, frozenset(names))


def flag(subject: str, name: str, is_set: bool) -> Relation:
    """Whether it is what `name` says."""
    return Relation(subject, frozenset({f"is {name}" if is_set else f"is not {name}"}))


def _moved_by_itself(one: Relation, other: Relation) -> bool:
    """Whether an offset that nobody wrote stays to the cycle in one trace and moves in the other."""
    stays = KEEPS in one.names and one.widths.get(KEEPS) == 0
    return stays and not other.writes and bool(other.gaps.get(KEEPS)) and other.widths.get(KEEPS) == 0


def _clear(one: Relation, other: Relation) -> bool:
    """Whether `one` is clearly away from what `other` agrees with."""
    return any(abs(one.gaps.get(name, 0)) > other.widths.get(name, 0) for name in other.names)


def _plainness(name: str) -> tuple[int, str]:
    return (_PLAIN.index(name) if name in _PLAIN else len(_PLAIN)), name
