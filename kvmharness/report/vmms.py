# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of VMMs by kernels or policies: where each keeps what the VMM's guests are entitled to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvmharness.contract import Status
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.model.policy import Policy
from kvmharness.scenarios import Scenario
from kvmharness.scenarios.predicted import predicted_contract

KEPT, BROKEN, OPEN = "kept", "broken", "open"
_WORDS = {Status.KEPT: KEPT, Status.BROKEN: BROKEN, Status.UNDECIDED: OPEN}
_OF_VERDICT = {Verdict.PASS: KEPT, Verdict.FAIL: BROKEN, Verdict.INCONCLUSIVE: OPEN}


@dataclass(frozen=True, slots=True)
class Column:
    """A kernel or a policy, and for each recording by name what it does: a word."""

    name: str
    cells: Mapping[str, str]


def of_policy(policy: Policy, scenarios: Sequence[Scenario]) -> Column:
    """What the model predicts for a policy."""
    cells = {}
    for scenario in scenarios:
        found = predicted_contract(scenario, policy)
        cells[scenario.name] = _WORDS[next(iter(found))] if len(found) == 1 else OPEN
    return Column(policy.name, cells)


def of_kernel(name: str, results: Sequence[Result]) -> Column:
    """What a kernel did, judged by the contracts alone."""
    verdicts = {each.scenario: each.verdict for each in results}
    return Column(name, {key: _OF_VERDICT.get(each, each.name) for key, each in verdicts.items()})


def flow(scenario: Scenario) -> str:
    """What a recording is of, by its name."""
    return scenario.name.removeprefix("recorded-")


def as_text(scenarios: Sequence[Scenario], columns: Sequence[Column]) -> str:
    """A table for a terminal: a line a recording, a letter a column, below it what the letters stand for."""
    letters = [chr(ord("A") + place % 26) * (place // 26 + 1) for place in range(len(columns))]
    width = max(len(flow(each)) for each in scenarios)
    lines = [f"{'':{width}}  {'  '.join(f'{letter:6}' for letter in letters)}".rstrip()]
    for each in scenarios:
        cells = "  ".join(f"{column.cells.get(each.name, '-'):6}" for column in columns)
        lines.append(f"{flow(each):{width}}  {cells}".rstrip())
    lines += ["", *(f"{letter}  {column.name}" for letter, column in zip(letters, columns, strict=True))]
    return "\n".join(lines) + "\n"


def as_markdown(scenarios: Sequence[Scenario], columns: Sequence[Column]) -> str:
    """The same as a table of Markdown; what is broken stands out."""
    lines = [f"| recording | {' | '.join(column.name for column in columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for each in scenarios:
        cells = [column.cells.get(each.name, "-") for column in columns]
        shown = [f"**{cell}**" if cell == BROKEN else cell for cell in cells]
        lines.append(f"| {flow(each)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"
