# SPDX-License-Identifier: GPL-2.0-or-later
"""One scenario under every policy of a space, each way that it can go played once.

The model asks a policy for what it decides only where that matters. A play notes what was asked. Every policy
that decides these questions alike goes the same way, so only another decision about one of them is worth
another play. A scenario so is a tree of questions with an outcome at each end.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from kvmharness.contract import Status
from kvmharness.model.policy import Policy
from kvmharness.model.quantity import bounds
from kvmharness.model.simulate import Step
from kvmharness.scenarios import Scenario
from kvmharness.scenarios.predicted import contract_status, plays
from kvmharness.survey.keys import Choice, Space


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario goes under a policy: a digest of everything that happens, and the contract's states.

    The states are two where the rules leave it open.
    """

    digest: str
    states: frozenset[Status]


@dataclass(frozen=True, slots=True)
class Question:
    """A choice that decides how it goes on: for each of its values, in their order, how."""

    choice: Choice
    branches: "tuple[Tree, ...]"


Tree = Outcome | Question
Ask = Callable[[Choice], None]


def outcome(scenario: Scenario, policy: Policy) -> Outcome:
    """How the scenario goes under one policy."""
    seen = hashlib.blake2b(digest_size=16)

    def watch(step: Step) -> None:
        event, world = step.event, step.world
        vcpus = [world.vcpus[each] for each in event.operation.vcpu_numbers if each in world.vcpus]
        offsets = [(bounds(vcpu.l1_tsc_offset, world.unknowns), vcpu.ratio) for vcpu in vcpus]
        seen.update(repr((event.values, event.error, event.debugfs, offsets)).encode())

    states = {contract_status(scenario, trace) for trace in plays(scenario, policy, watch=watch)}
    return Outcome(seen.hexdigest(), frozenset(states))


def tree(scenario: Scenario, space: Space) -> Tree:
    """How the scenario goes under each policy of the space."""
    return _grown(scenario, space, {})


def _grown(scenario: Scenario, space: Space, decided: Mapping[Choice, Any]) -> Tree:
    """The tree below what is decided."""
    asked: dict[Choice, Any] = {}
    found: Tree = outcome(scenario, _asking(space, decided, asked))
    questions = list(asked.items())
    for place in reversed(range(len(questions))):
        choice, took = questions[place]
        above = {**decided, **dict(questions[:place])}
        branches = tuple(
            found if value == took else _grown(scenario, space, {**above, choice: value})
            for value in choice.values
        )
        found = branches[0] if all(each == branches[0] for each in branches) else Question(choice, branches)
    return found


def _asking(space: Space, decided: Mapping[Choice, Any], asked: dict[Choice, Any]) -> Policy:
    """A policy that decides as given, and notes in `asked` what else it is asked for, with its answer.

    Its answer is what the base of the space says, or the first value where that is not among the choice's.
    """
    open_ones = {choice: _usual(choice, space.base) for choice in space.choices if choice not in decided}
    policy = space.policy({**open_ones, **decided})
    by_key: dict[str, list[Choice]] = {}
    for choice in open_ones:
        by_key.setdefault(choice.key, []).append(choice)

    def ask(choice: Choice) -> None:
        asked.setdefault(choice, open_ones[choice])

    sets = {
        key: _Words(getattr(policy, key), {each.word: each for each in choices}, ask)
        for key, choices in by_key.items()
        if choices[0].word
    }
    asking = _Asking(**{field.name: getattr(policy, field.name) for field in fields(Policy)})
    plain = {key: choices[0] for key, choices in by_key.items() if key not in sets}
    object.__setattr__(asking, "notes", _Notes(plain, sets, ask))
    return asking


def _usual(choice: Choice, base: Policy) -> Any:
    value = choice.of(base)
    return value if value in choice.values else choice.values[0]


class _Notes(NamedTuple):
    """What a policy that notes may be asked for: plain keys, sets, and how it notes that."""

    plain: Mapping[str, Choice]
    sets: "Mapping[str, _Words]"
    ask: Ask


class _Asking(Policy):
    """A policy that notes what it is asked for: see _asking()."""

    def __getattribute__(self, name: str) -> Any:
        notes = object.__getattribute__(self, "__dict__").get("notes")
        if notes and name in notes.sets:
            return notes.sets[name]
        if notes and name in notes.plain:
            notes.ask(notes.plain[name])
        return object.__getattribute__(self, name)


class _Words(Set[str]):
    """A set that notes which words it is asked for. Whoever does more than look for a word asks for all."""

    def __init__(self, held: frozenset[str], choices: Mapping[str, Choice], ask: Ask) -> None:
        self._held, self._choices, self._ask = held, choices, ask

    def __contains__(self, word: object) -> bool:
        if word in self._choices:
            self._ask(self._choices[str(word)])
        return word in self._held

    def __iter__(self) -> Iterator[str]:
        self._ask_all()
        return iter(self._held)

    def __len__(self) -> int:
        self._ask_all()
        return len(self._held)

    def _ask_all(self) -> None:
        for choice in self._choices.values():
            self._ask(choice)
