# SPDX-License-Identifier: GPL-2.0-or-later
"""A prediction, as text and as JSON."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from kvmharness.model.predict import Prediction, first_difference
from kvmharness.scenarios import Scenario
from kvmharness.scenarios.predicted import contract_status

WIDTH = 100
SCHEMA = 2


def as_text(scenario: Scenario, predictions: Sequence[Prediction]) -> str:
    """A column for each prediction with the vCPU's TSC after each step; then the reasons for what differs."""
    return "\n".join(_lines(scenario, predictions)) + "\n"


def as_json(predicted: Sequence[tuple[Scenario, Sequence[Prediction]]]) -> str:
    """All predictions as one JSON object."""
    found = [
        {
            "scenario": scenario.name,
            "first_difference": first_difference(predictions) or None,
            "operations": [operation.in_words() for operation in scenario.script],
            "by_policy": [
                {
                    "policies": prediction.policies,
                    "effects": prediction.effects,
                    "reasons": prediction.reasons,
                    "contract": _contract(scenario, prediction),
                }
                for prediction in predictions
            ],
        }
        for scenario, predictions in predicted
    ]
    return json.dumps({"schema": SCHEMA, "predictions": found}, indent=1) + "\n"


def _lines(scenario: Scenario, predictions: Sequence[Prediction]) -> Iterator[str]:
    yield from _wrap(f"{scenario.name}: {scenario.contract}", "", "  ")
    yield ""
    letters = [chr(ord("A") + place) for place in range(len(predictions))]
    for letter, prediction in zip(letters, predictions, strict=True):
        yield from _wrap(f"{letter}  {', '.join(prediction.policies)}", "  ", "     ")
    yield ""
    yield from _table(scenario, predictions, letters)
    differ = first_difference(predictions)
    if differ:
        yield ""
        yield f"The policies first differ at step {differ}."
        yield from _reasons(predictions, letters, differ)


def _table(scenario: Scenario, predictions: Sequence[Prediction], letters: Sequence[str]) -> Iterator[str]:
    rows = [["", "", "", *letters]]
    effects = zip_longest(*(prediction.effects for prediction in predictions), fillvalue="-")
    for number, (operation, row) in enumerate(zip(scenario.script, effects, strict=False), 1):
        rows.append([str(number), operation.label, operation.in_words(), *row])
    rows.append(["", "", "contract", *(_contract(scenario, prediction) for prediction in predictions)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for line in rows:
        cells = [
            cell.ljust(width) if 0 < place < 3 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _reasons(predictions: Sequence[Prediction], letters: Sequence[str], first: int) -> Iterator[str]:
    """The reasons of each prediction, from step `first` on."""
    for number in range(first, max(len(prediction.effects) for prediction in predictions) + 1):
        for letter, prediction in zip(letters, predictions, strict=True):
            reasons = prediction.reasons[number - 1] if number <= len(prediction.reasons) else {}
            for reason, names in reasons.items():
                who = f" ({', '.join(names)})" if len(reasons) > 1 else ""
                yield from _wrap(f"{letter}, step {number}: {reason}{who}", "  ", "    ")


def _contract(scenario: Scenario, prediction: Prediction) -> str:
    """The status of the scenario's contract."""
    return contract_status(scenario, prediction.trace).value


def _wrap(text: str, first: str, rest: str) -> list[str]:
    wrapper = textwrap.TextWrapper(WIDTH, first, rest, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)
