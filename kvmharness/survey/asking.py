# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy that notes what it is asked for."""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import fields
from functools import partial
from typing import Any

from kvmharness.model.policy import Policy
from kvmharness.survey.keys import Choice, Space


class Asker:
    """Decides as it is told, else as the base of a space, and notes in `answered` what it was asked.

    Choices are known by their number in the space.

    `policy` is what the rules ask.
    """

    def __init__(self, space: Space) -> None:
        self._decided: Mapping[int, Any] = {}
        self.answered: dict[int, Any] = {}
        self._usual = [_usual(choice, space.base) for choice in space.choices]
        self.policy = _asking(space, self) if space.choices else space.base

    def begin(self, decided: Mapping[int, Any]) -> None:
        """Decide so from now on, with nothing noted."""
        self._decided, self.answered = decided, {}

    def answer(self, choice: int) -> Any:
        """What is decided."""
        if choice not in self.answered:
            self.answered[choice] = self._decided[choice] if choice in self._decided else self._usual[choice]
        return self.answered[choice]


def _usual(choice: Choice, base: Policy) -> Any:
    """What the base decides, or the first value where that is not among the choice's."""
    value = choice.of(base)
    return value if value in choice.values else choice.values[0]


def _asking(space: Space, asker: Asker) -> Policy:
    choices: dict[str, dict[str, int]] = {}
    for number, choice in enumerate(space.choices):
        choices.setdefault(choice.key, {})[choice.word] = number
    answers: dict[str, Callable[[], Any]] = {}
    for key, words in choices.items():
        if "" in words:
            answers[key] = partial(asker.answer, words[""])
        else:
            answers[key] = partial(_Words, getattr(space.base, key), words, asker)
    policy = _Asking(**{field.name: getattr(space.base, field.name) for field in fields(Policy)})
    object.__setattr__(policy, "answers", answers)
    return policy


class _Asking(Policy):
    """A policy whose keys are answered by an Asker."""

    def __getattribute__(self, name: str) -> Any:
        answers = object.__getattribute__(self, "__dict__").get("answers", {})
        return answers[name]() if name in answers else object.__getattribute__(self, name)


class _Words(Set[str]):
    """A set that asks for each word that is looked for; whoever does more asks for all of them."""

    def __init__(self, base: frozenset[str], choices: Mapping[str, int], asker: Asker) -> None:
        self._base, self._choices, self._asker = base, choices, asker

    def __contains__(self, word: object) -> bool:
        choice = self._choices.get(str(word))
        return word in self._base if choice is None else bool(self._asker.answer(choice))

    def __iter__(self) -> Iterator[str]:
        return (word for word in sorted({*self._base, *self._choices}) if word in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
