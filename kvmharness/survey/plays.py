# SPDX-License-Identifier: GPL-2.0-or-later
"""One scenario under every policy of a space, each way that it can go played once.

The model asks a policy for what it decides only where that matters. A step notes what was asked. Every policy
that decides these questions alike goes the same way, so only another decision about one of them is worth
playing the step again. Ways that meet (the same happened, and nothing that can still be seen differs) go on
as one. A scenario so is a tree of questions with an outcome at each end.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvmharness.contract import Status
from kvmharness.model.ends import ENDS, Chooser
from kvmharness.model.policy import Policy
from kvmharness.model.quantity import bounds
from kvmharness.model.simulate import UNPREDICTABLE, Simulation, simulation, trace_of
from kvmharness.scenarios import Scenario
from kvmharness.scenarios.predicted import contract_status, shows_debugfs
from kvmharness.survey.asking import Asker
from kvmharness.survey.keys import Space
from kvmharness.trace import Event


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario goes under a policy: a digest of everything that happens, and the contract's states.

    The states are two where the rules leave it open.
    """

    digest: str
    states: frozenset[Status]


@dataclass(frozen=True, slots=True)
class Question:
    """A choice, by its number in the space, that decides how it goes on: for each of its values, how."""

    choice: int
    branches: "tuple[Tree, ...]"


Tree = Outcome | Question


def outcome(scenario: Scenario, policy: Policy) -> Outcome:
    """How the scenario goes under one policy."""
    found = tree(scenario, Space((), policy))
    assert isinstance(found, Outcome)
    return found


def tree(scenario: Scenario, space: Space) -> Tree:
    """How the scenario goes under each policy of the space."""
    return _Scenario(scenario, space).tree()


class _Play(NamedTuple):
    """A play up to a step: the player, what happened, a digest of that. `ended` one can go no further, of a
    `lost` one the model predicts no more.
    """

    player: Simulation
    events: tuple[Event, ...]
    digest: bytes
    ended: bool = False
    lost: bool = False


# Where the rules leave something open two plays: with the one end of it, and with the other.
_Plays = tuple[_Play, ...]


class _Known(NamedTuple):
    """A tree, for those who decided so of what is asked in it; None for what they had not decided."""

    decided: Mapping[int, Any]
    tree: Tree


class _Scenario:
    """A scenario that is played under all policies of a space."""

    def __init__(self, scenario: Scenario, space: Space) -> None:
        self._scenario = scenario
        self._choices = space.choices
        self._asker = Asker(space)
        self._shown = shows_debugfs(scenario)
        self._known: dict[object, list[_Known]] = {}
        self._states: dict[bytes, Status] = {}

    def tree(self) -> Tree:
        """The whole tree."""
        self._asker.begin({})
        player = simulation(self._asker.policy, self._scenario.host, ENDS[0])
        assert not self._asker.answered, "a policy is asked before the first step"
        return self._grown((_Play(player, (), b""),), 0, {})[0]

    def _grown(self, plays: _Plays, number: int, decided: Mapping[int, Any]) -> tuple[Tree, set[int]]:
        """The tree from a step on (from 0), and all that is asked in it, also what is decided."""
        if number == len(self._scenario.script):
            return self._outcome(plays), set()
        here = number, *((play.digest, play.lost, play.ended, play.player.world.key()) for play in plays)
        for known in self._known.setdefault(here, []):
            if all(decided.get(choice) == value for choice, value in known.decided.items()):
                return known.tree, set(known.decided)
        found, asked = self._asked(plays, number, decided)
        self._known[here].append(_Known({choice: decided.get(choice) for choice in asked}, found))
        return found, asked

    def _asked(self, plays: _Plays, number: int, decided: Mapping[int, Any]) -> tuple[Tree, set[int]]:
        """The same, where it is not known yet: the step is played for each answer to what it asks."""
        self._asker.begin(decided)
        after = self._played(plays, number)
        answered = self._asker.answered
        questions = [choice for choice in answered if choice not in decided]
        found, asked = self._grown(after, number + 1, {**decided, **answered})
        asked |= answered.keys()
        for place in reversed(range(len(questions))):
            choice = questions[place]
            above = {**decided, **{each: answered[each] for each in questions[:place]}}
            branches = []
            for value in self._choices[choice].values:
                if value == answered[choice]:
                    branches.append(found)
                else:
                    other, also = self._asked(plays, number, {**above, choice: value})
                    branches.append(other)
                    asked |= also
            same = all(each == branches[0] for each in branches)
            found = branches[0] if same else Question(choice, tuple(branches))
        return found, asked

    def _played(self, plays: _Plays, number: int) -> _Plays:
        """The plays after a step more: two, if something is open in it."""
        if len(plays) > 1:
            return tuple(self._step(play, number, end)[0] for play, end in zip(plays, ENDS, strict=True))
        after, had_choice = self._step(plays[0], number, ENDS[0])
        return (after, self._step(plays[0], number, ENDS[1])[0]) if had_choice else (after,)

    def _step(self, play: _Play, number: int, end: Callable[[int], int]) -> tuple[_Play, bool]:
        """A play after a step more, and whether something was open in it."""
        if play.ended:
            return play, False
        player, choose = play.player.fork(), Chooser(end)
        player.choose = choose
        try:
            event = player.next(self._scenario.script[number], debugfs=self._shown)
        except UNPREDICTABLE:
            return play._replace(ended=True, lost=True), choose.had_choice
        if event is None:
            return play._replace(ended=True), choose.had_choice
        digest = hashlib.blake2b(play.digest + _content(event, player), digest_size=16).digest()
        return _Play(player, (*play.events, event), digest), choose.had_choice

    def _outcome(self, plays: _Plays) -> Outcome:
        for play in plays:
            if play.digest not in self._states:
                trace = trace_of(self._scenario.name, play.events, self._scenario.host, play.player.created)
                self._states[play.digest] = contract_status(self._scenario, trace)
        digests = sorted({play.digest for play in plays})
        if any(play.lost for play in plays):
            return Outcome(b"".join(digests).hex(), frozenset({Status.UNDECIDED}))
        return Outcome(b"".join(digests).hex(), frozenset(self._states[each] for each in digests))


def _content(event: Event, player: Simulation) -> bytes:
    """What happened in a step: what was read, and the offsets then."""
    world = player.world
    vcpus = [world.vcpus[each] for each in event.operation.vcpu_numbers if each in world.vcpus]
    offsets = [(bounds(vcpu.l1_tsc_offset, world.unknowns), vcpu.ratio) for vcpu in vcpus]
    return repr((event.values, event.error, event.debugfs, offsets)).encode()
