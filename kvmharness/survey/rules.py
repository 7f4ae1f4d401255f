# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of a space: policies that predict the same in every scenario are one rule.

A rule beats another if it breaks some of the contracts that the other breaks, and none besides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from kvmharness.contract import Status
from kvmharness.model.policy import Policy
from kvmharness.scenarios import Scenario
from kvmharness.survey.keys import Choice, Space
from kvmharness.survey.plays import Outcome, Tree


@dataclass(frozen=True, slots=True)
class Rule:
    """What some policies are that predict the same.

    `broken` names the scenarios whose contract they break, `left_open` those where the model does not
    decide, `combinations` counts those of the space, `names` are those of the known policies. The one of them
    that is nearest to a known policy is like `like` but for `changes`, the keys with their values.
    """

    broken: frozenset[str]
    left_open: frozenset[str]
    combinations: int
    names: tuple[str, ...]
    like: str
    changes: tuple[tuple[str, Any], ...]

    def beats(self, other: "Rule") -> bool:
        """Whether it breaks less."""
        return self.broken < other.broken


@dataclass(frozen=True)
class Survey:
    """All rules of a space, those that break the fewest contracts first, and the contracts asked about."""

    keys: tuple[str, ...]
    combinations: int
    scenarios: tuple[Scenario, ...]
    rules: tuple[Rule, ...]

    @cached_property
    def unbeaten(self) -> tuple[tuple[Rule, ...], ...]:
        """The rules that no other beats, those together that break the same."""
        together: dict[frozenset[str], list[Rule]] = {}
        for rule in self.rules:
            together.setdefault(rule.broken, []).append(rule)
        return tuple(
            tuple(rules) for broken, rules in together.items() if not any(each < broken for each in together)
        )

    def standing(self, rule: Rule) -> tuple[int, ...]:
        """The unbeaten ones, counted from 0, that beat this rule or break the same."""
        return tuple(number for number, alike in enumerate(self.unbeaten) if alike[0].broken <= rule.broken)

    @property
    def named(self) -> dict[str, Rule]:
        """The rules that have names, by name."""
        return {name: rule for rule in self.rules for name in rule.names}

    @cached_property
    def never_kept(self) -> tuple[str, ...]:
        """The scenarios whose contract each rule breaks, or leaves open."""
        return tuple(name for name, kept in self._kept.items() if not kept)

    @cached_property
    def conflicts(self) -> tuple[tuple[str, str], ...]:
        """The pairs of scenarios whose contracts are kept by some rule each, and by none together."""
        some = {name: kept for name, kept in self._kept.items() if kept}
        return tuple((one, other) for one, other in combinations(some, 2) if not some[one] & some[other])

    @cached_property
    def _kept(self) -> dict[str, int]:
        """For each scenario the rules that keep its contract, a bit each."""
        found = {scenario.name: 0 for scenario in self.scenarios}
        for number, rule in enumerate(self.rules):
            for name in found.keys() - rule.broken - rule.left_open:
                found[name] |= 1 << number
        return found


def survey(
    space: Space,
    scenarios: Sequence[Scenario],
    trees: Sequence[Tree],
    known: Mapping[Policy, Sequence[Outcome]],
) -> Survey:
    """All rules of a space: of each scenario its tree, and what known policies do in each scenario.

    A known policy that is not in the space is a rule of its own, unless it predicts what another does.
    """
    graph = _Graph(space)
    near = (space.base, *(policy for policy in known if policy in space and policy != space.base))
    found = {tuple(map(graph.add, trees)): _Members(1, dict.fromkeys(near, ()))}
    for number, choice in enumerate(space.choices):
        found = _decided(found, graph, number, choice)
    names: dict[_State, list[Policy]] = {}
    for policy, outcomes in known.items():
        state = tuple(map(graph.add, outcomes))
        names.setdefault(state, []).append(policy)
        found.setdefault(state, _Members(0, {policy: ()}))
    rules = [
        _rule(space, scenarios, [graph.outcome(node) for node in state], members, names.get(state, []))
        for state, members in found.items()
    ]
    rules.sort(key=lambda rule: (len(rule.broken), len(rule.left_open), len(rule.changes)))
    return Survey(space.keys, space.size, tuple(scenarios), tuple(rules))


# A node of the graph for each scenario: what comes of it, as far as it is decided.
_State = tuple[int, ...]
_Changes = tuple[tuple[Choice, Any], ...]


@dataclass(frozen=True, slots=True)
class _Members:
    """Policies that predict the same: how many, and for each that others are compared with, what one of them
    decides otherwise, the one that decides the least otherwise."""

    count: int
    changes: Mapping[Policy, _Changes]

    def deciding(self, choice: Choice, value: Any) -> "_Members":
        """Those that decide so."""
        changes = {
            policy: known if choice.of(policy) == value else (*known, (choice, value))
            for policy, known in self.changes.items()
        }
        return _Members(self.count, changes)

    def joined(self, other: "_Members") -> "_Members":
        """Both."""
        changes = {
            policy: min(known, other.changes[policy], key=len) for policy, known in self.changes.items()
        }
        return _Members(self.count + other.count, changes)


def _decided(
    found: Mapping[_State, _Members], graph: "_Graph", number: int, choice: Choice
) -> dict[_State, _Members]:
    """The same with a choice decided in each way; what goes the same way is joined."""
    after: dict[_State, _Members] = {}
    for state, members in found.items():
        for place, value in enumerate(choice.values):
            reached = tuple([graph.decided(node, number, place) for node in state])
            deciding = members.deciding(choice, value)
            after[reached] = after[reached].joined(deciding) if reached in after else deciding
    return after


class _Graph:
    """Trees of which equal parts are there once; a part is known by its number."""

    def __init__(self, space: Space) -> None:
        self._numbers: dict[object, int] = {}
        self._nodes: list[Outcome | tuple[int, tuple[int, ...]]] = []
        # For each choice and each of its values what a part is after it.
        self._decided: list[list[dict[int, int]]] = [[{} for _ in each.values] for each in space.choices]

    def add(self, tree: Tree) -> int:
        """The number of a tree."""
        if isinstance(tree, Outcome):
            return self._number(tree)
        return self._question(tree.choice, tuple(map(self.add, tree.branches)))

    def outcome(self, number: int) -> Outcome:
        """The outcome of that number."""
        found = self._nodes[number]
        assert isinstance(found, Outcome)
        return found

    def decided(self, number: int, choice: int, place: int) -> int:
        """The tree with a choice decided for its value at `place`."""
        known = self._decided[choice][place]
        if number not in known:
            node = self._nodes[number]
            if isinstance(node, Outcome):
                known[number] = number
            elif node[0] == choice:
                known[number] = node[1][place]
            else:
                branches = tuple(self.decided(branch, choice, place) for branch in node[1])
                known[number] = self._question(node[0], branches)
        return known[number]

    def _question(self, choice: int, branches: tuple[int, ...]) -> int:
        return branches[0] if len(set(branches)) == 1 else self._number((choice, branches))

    def _number(self, node: Outcome | tuple[int, tuple[int, ...]]) -> int:
        if node not in self._numbers:
            self._numbers[node] = len(self._nodes)
            self._nodes.append(node)
        return self._numbers[node]


def _rule(
    space: Space,
    scenarios: Sequence[Scenario],
    outcomes: Sequence[Outcome],
    members: _Members,
    names: Sequence[Policy],
) -> Rule:
    states = {scenario.name: each.states for scenario, each in zip(scenarios, outcomes, strict=True)}
    left_open = {name for name, found in states.items() if len(found) > 1 or Status.UNDECIDED in found}
    like, changes = min(members.changes.items(), key=lambda pair: len(pair[1]))
    changed = space.policy(dict(changes), like)
    keys = dict.fromkeys(choice.key for choice, _ in changes)
    return Rule(
        broken=frozenset(name for name, found in states.items() if found == {Status.BROKEN}),
        left_open=frozenset(left_open),
        combinations=members.count,
        names=tuple(policy.name for policy in names),
        like=like.name,
        changes=tuple((key, getattr(changed, key)) for key in keys),
    )
