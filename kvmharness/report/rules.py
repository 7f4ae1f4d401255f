# SPDX-License-Identifier: GPL-2.0-or-later
"""A survey of all rules, as text and as JSON; `scripts/rules-page` makes docs/rules.md of the same parts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvmharness.report.lines import wrap
from kvmharness.scenarios import Scenario
from kvmharness.survey.rules import Rule, Survey

SCHEMA = 1
# How many rules are shown that break the same contracts, and how many columns a table has beside the names.
_SHOWN = 3
_COLUMNS = 18


def as_text(survey: Survey, *, verbose: bool = False) -> str:
    """The survey in lines of 78 columns where words allow. `verbose` leaves no rule out."""
    return "\n".join(_lines(survey, len(survey.rules) if verbose else _SHOWN)) + "\n"


def as_json(survey: Survey) -> str:
    """The survey as one JSON object: every rule, the best first."""
    best = {rule.broken for alike in survey.unbeaten for rule in alike}
    rules = [
        {
            "breaks": sorted(rule.broken),
            "left_open": sorted(rule.left_open),
            "beaten": rule.broken not in best,
            "policies": rule.names,
            "combinations": rule.combinations,
            "like": rule.like,
            "but": {
                key: sorted(value) if isinstance(value, frozenset) else value for key, value in rule.changes
            },
        }
        for rule in survey.rules
    ]
    contracts = [
        {
            "scenario": each.name,
            "contract": each.contract,
            "source": each.source,
            "consequence": each.consequence,
        }
        for each in survey.scenarios
    ]
    found = {
        "schema": SCHEMA,
        "keys": survey.keys,
        "combinations": survey.combinations,
        "contracts": contracts,
        "rules": rules,
        "kept_by_no_rule": survey.never_kept,
        "kept_together_by_no_rule": survey.conflicts,
    }
    return json.dumps(found, indent=1) + "\n"


def in_words(rule: Rule, quote: str = "") -> str:
    """What a rule is, by the policies that have it or by the nearest one; keys in `quote`s."""
    if rule.names:
        return ", ".join(rule.names)
    changes = ", ".join(f"{quote}{key} = {_value(value)}{quote}" for key, value in rule.changes)
    return f"as {rule.like} but {changes}" if changes else f"as {rule.like}"


def _value(value: Any) -> str:
    """A key's value as a policy file has it."""
    return json.dumps(sorted(value) if isinstance(value, frozenset) else value)


def summary(survey: Survey) -> str:
    """How much was tried, in a sentence or two."""
    keys = ", ".join(survey.keys)
    tried = f"{survey.combinations} combinations of {keys} against {len(survey.scenarios)} contracts"
    differ = f"{len(survey.rules)} rules, which differ in what they predict"
    return f"{tried}, on the model alone: {differ}. {sum(map(len, survey.unbeaten))} of them no other beats."


def columns(survey: Survey) -> dict[str, frozenset[str]]:
    """What is broken by each column of the table: a number for unbeaten rules, a letter for a policy."""
    found = {str(number): alike[0].broken for number, alike in enumerate(survey.unbeaten, 1)}
    return {**found, **{letter: survey.named[name].broken for name, letter in letters(survey).items()}}


def letters(survey: Survey) -> dict[str, str]:
    """A letter for each policy that has a name, the best first."""
    return {name: _letter(number) for number, name in enumerate(survey.named)}


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"{_letter(number // 26 - 1)}{_letter(number % 26)}"


def whom_it_hurts(survey: Survey) -> dict[Scenario, list[str]]:
    """The contracts that some column breaks, with the names of these columns."""
    broken = columns(survey)
    found = {
        scenario: [name for name, names in broken.items() if scenario.name in names]
        for scenario in survey.scenarios
    }
    return {scenario: names for scenario, names in found.items() if names}


def beaten_by(survey: Survey, rule: Rule) -> list[str]:
    """The unbeaten rules that beat a rule, each with what the rule breaks besides."""
    found = []
    for number in survey.standing(rule):
        besides = sorted(rule.broken - survey.unbeaten[number][0].broken)
        found.append(f"{number + 1}, which keeps {', '.join(besides)} too" if besides else "")
    return [each for each in found if each]


def conflicts(survey: Survey) -> list[tuple[list[str], list[str]]]:
    """The pairs that no rule keeps together: each of the first with each of the second."""
    partners: dict[str, list[str]] = {}
    for one, other in survey.conflicts:
        partners.setdefault(one, []).append(other)
    together: dict[tuple[str, ...], list[str]] = {}
    for one, others in partners.items():
        together.setdefault(tuple(others), []).append(one)
    return [(ones, list(others)) for others, ones in together.items()]


def _lines(survey: Survey, shown: int) -> Iterator[str]:
    yield from wrap(summary(survey))
    yield from _heading("Rules that no other beats")
    yield from _unbeaten(survey, shown)
    yield from _heading("Where today's kernels and the proposals stand")
    yield from _policies(survey)
    yield from _heading("Who breaks what (x)")
    yield from _table(survey)
    yield from _heading("Whom that hurts")
    for scenario, names in whom_it_hurts(survey).items():
        yield from wrap(f"{scenario.name} ({', '.join(names)}): {scenario.consequence}", "  ", "    ")
        yield from wrap(f"Source: {scenario.source}", "    ", "    ")
    yield from _heading("Contracts that no rule keeps")
    yield from wrap(", ".join(survey.never_kept) or "none", "  ", "  ")
    yield from _heading("Contracts that no rule keeps together")
    for ones, others in conflicts(survey):
        yield from wrap(f"{' or '.join(ones)}: {', '.join(others)}", "  ", "    ")
    if not survey.conflicts:
        yield "  none"


def _heading(text: str) -> Iterator[str]:
    yield from ("", text)


def _unbeaten(survey: Survey, shown: int) -> Iterator[str]:
    for number, alike in enumerate(survey.unbeaten, 1):
        yield from wrap(f"{number:>3}  breaks {len(alike[0].broken)}: {in_words(alike[0])}", "", "     ")
        for rule in alike[1:shown]:
            yield from wrap(f"or {in_words(rule)}", "     ", "       ")
        if len(alike) > shown:
            yield f"     or one of {len(alike) - shown} others that break the same (-v)"


def _policies(survey: Survey) -> Iterator[str]:
    for name, letter in letters(survey).items():
        rule = survey.named[name]
        by = beaten_by(survey, rule)
        if by:
            yield f"{letter:>3}  breaks {len(rule.broken)}: {name}, beaten"
            for each in by:
                yield from wrap(f"by {each}", "     ", "       ")
        else:
            yield f"{letter:>3}  breaks {len(rule.broken)}: {name}, not beaten"


def _table(survey: Survey) -> Iterator[str]:
    """A row for each contract that some column breaks; a table for as many columns as a line has room for."""
    rows = whom_it_hurts(survey)
    everyone = [scenario.name for scenario, names in rows.items() if len(names) == len(columns(survey))]
    names = list(columns(survey))
    width = max((len(scenario.name) for scenario in rows), default=0)
    for begin in range(0, len(names), _COLUMNS):
        yield from _part_of_table(rows, names[begin : begin + _COLUMNS], width, everyone)
    if everyone:
        yield from wrap(f"all of them break: {', '.join(everyone)}", "  ", "    ")


def _part_of_table(
    rows: Mapping[Scenario, Sequence[str]], names: Sequence[str], width: int, left_out: Sequence[str]
) -> Iterator[str]:
    cells = [max(2, len(name) + 1) for name in names]
    titles = "".join(name.rjust(cell) for name, cell in zip(names, cells, strict=True))
    yield f"  {'':{width}}{titles}"
    for scenario, breaking in rows.items():
        if scenario.name not in left_out:
            marks = ["x" if name in breaking else "." for name in names]
            line = "".join(mark.rjust(cell) for mark, cell in zip(marks, cells, strict=True))
            yield f"  {scenario.name:{width}}{line}"
