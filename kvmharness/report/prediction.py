# SPDX-License-Identifier: GPL-2.0-or-later
"""A prediction, as text and as JSON."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from kvmharness.contract import Status
from kvmharness.model.predict import Course, first_difference
from kvmharness.scenarios import Scenario

WIDTH = 100
SCHEMA = 2


def as_text(scenario: Scenario, courses: Sequence[Course]) -> str:
    """A column for each course with the vCPU's TSC after each step; then the reasons for what differs."""
    return "\n".join(_lines(scenario, courses)) + "\n"


def as_json(predictions: Sequence[tuple[Scenario, Sequence[Course]]]) -> str:
    """All predictions as one JSON object."""
    found = [
        {
            "scenario": scenario.name,
            "first_difference": first_difference(courses) or None,
            "operations": [operation.in_words() for operation in scenario.script],
            "courses": [
                {
                    "policies": course.policies,
                    "effects": course.effects,
                    "reasons": course.reasons,
                    "contract": _contract(scenario, course),
                }
                for course in courses
            ],
        }
        for scenario, courses in predictions
    ]
    return json.dumps({"schema": SCHEMA, "predictions": found}, indent=1) + "\n"


def _lines(scenario: Scenario, courses: Sequence[Course]) -> Iterator[str]:
    yield from _wrap(f"{scenario.name}: {scenario.contract}", "", "  ")
    yield ""
    letters = [chr(ord("A") + place) for place in range(len(courses))]
    for letter, course in zip(letters, courses, strict=True):
        yield from _wrap(f"{letter}  {', '.join(course.policies)}", "  ", "     ")
    yield ""
    yield from _table(scenario, courses, letters)
    differ = first_difference(courses)
    if differ:
        yield ""
        yield f"The policies first differ at step {differ}."
        yield from _reasons(courses, letters, differ)


def _table(scenario: Scenario, courses: Sequence[Course], letters: Sequence[str]) -> Iterator[str]:
    rows = [["", "", "", *letters]]
    effects = zip_longest(*(course.effects for course in courses), fillvalue="-")
    for number, (operation, row) in enumerate(zip(scenario.script, effects, strict=False), 1):
        rows.append([str(number), operation.label, operation.in_words(), *row])
    rows.append(["", "", "contract", *(_contract(scenario, course) for course in courses)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for line in rows:
        cells = [
            cell.ljust(width) if 0 < place < 3 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _reasons(courses: Sequence[Course], letters: Sequence[str], first: int) -> Iterator[str]:
    """The reasons of each course, from step `first` on."""
    for number in range(first, max(len(course.effects) for course in courses) + 1):
        for letter, course in zip(letters, courses, strict=True):
            reasons = course.reasons[number - 1] if number <= len(course.reasons) else {}
            for reason, names in reasons.items():
                who = f" ({', '.join(names)})" if len(reasons) > 1 else ""
                yield from _wrap(f"{letter}, step {number}: {reason}{who}", "  ", "    ")


def _contract(scenario: Scenario, course: Course) -> str:
    """What becomes of the scenario's contract."""
    states = {finding.status for finding in scenario.findings(course.trace)}
    return next(
        (status for status in (Status.BROKEN, Status.UNDECIDED) if status in states), Status.KEPT
    ).value


def _wrap(text: str, first: str, rest: str) -> list[str]:
    wrapper = textwrap.TextWrapper(WIDTH, first, rest, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)
