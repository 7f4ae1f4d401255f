# SPDX-License-Identifier: GPL-2.0-or-later
"""A series, patch by patch: what each changes. Data alone; `series_text` and `series_formats` show it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from kvmharness.judging.difference import Comparison
from kvmharness.judging.verdict import Verdict, exit_status
from kvmharness.report.kernel import KernelReport

_FAILED = 1


class Outcome(Enum):
    """The result of a patch."""

    PASSED_OVER = "passed over"
    REFUSED = "does not apply"
    NOT_BUILT = "does not build"
    UNCHANGED = "modules unchanged"
    PLAYED = "played"
    NOT_PLAYED = "not played"


@dataclass(frozen=True, slots=True)
class Effect:
    """What a patch does on one machine: the kernel with it, and how that differs from the kernel before it.
    Where that was lost, it is compared with the kernel of row `since` (0: without the series).

    The rest is worked out from all rows before it: the contracts that are `newly_kept` and `newly_broken`, or
    are judged for the first time (True where kept), and what the kernel behaved as before.
    """

    after: KernelReport
    comparison: Comparison
    since: int | None = None
    newly_kept: tuple[str, ...] = ()
    newly_broken: tuple[str, ...] = ()
    first_judged: Mapping[str, bool] = field(default_factory=dict)
    behaved_as: str = ""

    @property
    def behaves_as(self) -> str:
        """What the kernel behaves as, in a few words."""
        return behaves_as(self.after)

    @property
    def lost(self) -> str:
        """Why the machine was lost; "" where it was not."""
        return next((each.reason for each in self.after.results if each.verdict is Verdict.LOST), "")

    @property
    def changes_something(self) -> bool:
        """Whether anything that was observed is not what it was."""
        return bool(
            self.comparison.differences
            or self.comparison.only_first
            or self.comparison.only_second
            or self.newly_kept
            or self.newly_broken
            or (self.behaved_as and self.behaves_as != self.behaved_as)
            or self.lost
        )


@dataclass(frozen=True, slots=True)
class Row:
    """Patch number `number` (from 1) of a series. `reason` says why nothing came of it.

    `left_out` are its files that KVM's modules are not made of, `doubts` what to keep in mind. It was built
    with the earlier patches `beneath` that do not build. `like` is the earlier one whose error it repeats (0:
    none). There is an effect for each machine whose modules it changes.
    """

    number: int
    title: str
    author: str
    origin: str
    outcome: Outcome
    reason: str = ""
    left_out: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    beneath: tuple[int, ...] = ()
    like: int = 0
    kernel: str = ""
    effects: tuple[Effect, ...] = ()

    @property
    def breaks_something(self) -> bool:
        """Whether somebody has to look at it."""
        stopped = self.outcome in (Outcome.REFUSED, Outcome.NOT_BUILT, Outcome.NOT_PLAYED)
        return stopped or any(each.newly_broken or each.lost for each in self.effects)


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """A kernel, the reports on it without the series (one for each machine), and a row for each patch that
    was measured, out of `count`. `cut_short` says why the others are missing.
    """

    kernel: str
    release: str
    before: tuple[KernelReport, ...]
    rows: tuple[Row, ...]
    count: int
    doubts: tuple[str, ...] = ()
    cut_short: str = ""

    @property
    def machines(self) -> list[str]:
        """The machines, in the order asked for."""
        return [each.machine for each in self.before]

    def last(self, machine: str) -> KernelReport:
        """The kernel with all that was measured of the series."""
        found = next(each for each in self.before if each.machine == machine)
        for effect in (each for row in self.rows for each in row.effects):
            found = effect.after if effect.after.machine == machine else found
        return found

    @property
    def exit_status(self) -> int:
        """1 for a patch that does not apply, build or boot, or breaks a contract; else that of the kernel
        with the whole series."""
        if any(row.breaks_something for row in self.rows):
            return _FAILED
        return exit_status(result for name in self.machines for result in self.last(name).results)


@dataclass(frozen=True, slots=True)
class Turn:
    """A row from which on something is otherwise on a machine: `what` becomes `now`."""

    machine: str
    number: int
    what: str
    now: str


def turns(report: SeriesReport) -> list[Turn]:
    """What the series changes: what a kernel behaves as ("behaves as"), contracts, and what KVM can do."""
    return [
        Turn(effect.after.machine, row.number, what, now)
        for row in report.rows
        for effect in row.effects
        for what, now in _turned(effect)
    ]


def _turned(effect: Effect) -> Iterator[tuple[str, str]]:
    if effect.behaves_as != effect.behaved_as and effect.behaves_as:
        yield "behaves as", effect.behaves_as
    yield from ((name, "kept") for name in effect.newly_kept)
    yield from ((name, "broken") for name in effect.newly_broken)
    for name, kept in effect.first_judged.items():
        yield name, "kept" if kept else "broken"
    yield from ((name, "from here on") for name in effect.comparison.only_second)
    yield from ((name, "no longer") for name in effect.comparison.only_first)


def behaves_as(report: KernelReport) -> str:
    """What a kernel behaves as, in a few words; "" where nothing is known of it."""
    return report.identity.in_short.removeprefix("behaves as ") if report.identity else ""
