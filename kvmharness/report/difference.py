# SPDX-License-Identifier: GPL-2.0-or-later
"""Two kernels held against each other, as a text and for programs."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from kvmharness import __version__
from kvmharness.judging.difference import Comparison, Difference
from kvmharness.printable import printable
from kvmharness.report.about import About
from kvmharness.scenarios import SCENARIOS

WIDTH = 78
# How many scenarios are named that differ in the same way.
_NAMED = 6


@dataclass(frozen=True, slots=True)
class DifferenceReport:
    """Two kernels, as the user named them, with their releases, on one machine, and what differs.

    `troubles` say what could not be compared, a line each.
    """

    kernels: tuple[str, str]
    releases: tuple[str, str]
    machine: str
    comparison: Comparison
    troubles: tuple[str, ...] = ()


def render(reports: Sequence[DifferenceReport]) -> str:
    """The whole text, its lines at most 78 columns wide where words allow."""
    blocks = ["\n".join(_one(report)) for report in reports]
    return "\n\n".join(blocks) + "\n"


def to_json(reports: Sequence[DifferenceReport], about: About | None = None) -> str:
    """All of it for programs, a comparison a machine. `schema` grows when a key changes its meaning.

    `about` says which run it was."""
    comparisons = [
        {
            "kernels": [printable(name) for name in each.kernels],
            "releases": [printable(release) for release in each.releases],
            "machine": each.machine,
            **asdict(each.comparison),
            "troubles": [printable(trouble) for trouble in each.troubles],
        }
        for each in reports
    ]
    data = {
        "schema": 1,
        "tool": f"kvmharness {__version__}",
        "about": about.to_json() if about else None,
        "comparisons": comparisons,
    }
    return json.dumps(data, indent=1) + "\n"


def _one(report: DifferenceReport) -> Iterator[str]:
    found = report.comparison
    yield _summary(report)
    for letter, kernel, release in zip("AB", report.kernels, report.releases, strict=True):
        yield f"  {letter}  {printable(kernel)} ({printable(release)})"
    for trouble in report.troubles:
        yield from _wrap(printable(trouble), "  ", "    ")
    yield from _contracts("A", "B", found.kept_by_first)
    yield from _contracts("B", "A", found.kept_by_second)
    for letter, can_do in (("A", found.only_first), ("B", found.only_second)):
        for each in can_do:
            yield from _wrap(f"{letter} alone: {each}", "", "  ")
    yield from differences(found.differences, ("A", "B"), WIDTH)


def _summary(report: DifferenceReport) -> str:
    found = report.comparison
    rest = f", {found.left_open} left open" if found.left_open else ""
    if not found.compared:
        return f"Nothing could be compared on {report.machine}{rest}"
    if not found.differences:
        return f"No difference in {found.compared} scenarios on {report.machine}{rest}"
    return f"{len(found.differences)} of {found.compared} scenarios differ on {report.machine}{rest}"


def differences(found: Sequence[Difference], called: tuple[str, str], width: int) -> Iterator[str]:
    """The differences, those that read alike together, each after an empty line.

    `called` are the two kernels' names; lines are at most `width` columns wide where words allow.
    """
    groups: dict[tuple[str, str, str], list[Difference]] = {}
    for each in found:
        groups.setdefault((each.operation, each.first, each.second), []).append(each)
    for alike in groups.values():
        yield ""
        yield from _alike(alike, called, width)


def _alike(alike: Sequence[Difference], called: tuple[str, str], width: int) -> Iterator[str]:
    first, *others = alike
    apart = f" ({first.distance} apart)" if first.distance else ""
    yield from _wrap(f"{first.scenario}, step {first.step}: {first.operation}{apart}", "", "  ", width)
    for name, does in zip(called, (first.first, first.second), strict=True):
        yield from _wrap(f"{name}: {does}", "  ", "    ", width)
    if others:
        names = [f"{each.scenario} (step {each.step})" for each in others[:_NAMED]]
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        yield from _wrap(f"likewise: {', '.join(names)}{more}", "  ", "    ", width)


def _contracts(keeps: str, breaks: str, names: Sequence[str]) -> Iterator[str]:
    """The contracts that one kernel alone keeps, and what it means that the other breaks them."""
    if not names:
        return
    yield ""
    yield from _wrap(f"{keeps} keeps, {breaks} breaks: {', '.join(names)}", "", "  ")
    for consequence in dict.fromkeys(SCENARIOS[name].consequence for name in names if name in SCENARIOS):
        yield from _wrap(f"with {breaks}: {consequence}", "  ", "    ")


def _wrap(text: str, first: str, rest: str, width: int = WIDTH) -> list[str]:
    wrapper = textwrap.TextWrapper(width, first, rest, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)
