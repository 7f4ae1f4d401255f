# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel does otherwise than a policy that it follows in all else.

Where no known policy explains everything that was played, one may explain everything in which a certain kind
of operation does not occur, while each trace that it rules out has such an operation up to the step that
shows it. Then the kernel behaves as that policy but for these operations.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from kvmharness.model.judge import Judgement, Possibility, judge
from kvmharness.model.policy import Policy
from kvmharness.model.state import Host
from kvmharness.script import Operation
from kvmharness.trace import Trace

# How many kinds of operations may be at fault at once, and what part of the traces has to be left. Where more
# policies than so many explain the rest, that says too little to be worth a name.
_MOST_KINDS = 2
_LEFT_OF = 3
_MOST_POLICIES = 3


@dataclass(frozen=True, slots=True)
class Divergence:
    """The policies, by name, that explain every trace but those with operations of these kinds.

    `first` is where it shows first, as a script and a step; `left` how many traces have none of them.
    """

    policies: tuple[str, ...]
    kinds: tuple[str, ...]
    first: str
    left: int

    @property
    def text(self) -> str:
        """It in words that may follow "behaves as"."""
        kinds = [f'"{kind}"' if " " in kind else kind for kind in self.kinds]
        return f"{' or '.join(self.policies)} but for {' and '.join(kinds)} ({self.first})"


def kind_of(operation: Operation) -> str:
    """An operation in words, of whichever vCPU."""
    return re.sub(r" (of|to) vCPUs? \d+(, \d+)*|vCPUs? \d+(, \d+)* ", "", operation.describe())


def diverging(pairs: Sequence[tuple[Trace, Host]], policies: Iterable[Policy]) -> Divergence | None:
    """What the traces, each with its host, show of a kernel that no policy explains; None if that is nothing.

    Of several answers that which leaves the most traces, so that what is known is as much as can be.
    """
    found: dict[tuple[str, ...], list[tuple[Policy, str, int]]] = {}
    for policy in policies:
        judged = [(trace, judge(trace, policy, host)) for trace, host in pairs]
        kinds = _fewest_kinds(judged)
        if kinds:
            ruled_out = [each for each in judged if each[1].possibility is Possibility.IMPOSSIBLE]
            left = sum(not {*kinds} & _kinds(trace) for trace, _ in pairs)
            trace, judgement = min(ruled_out, key=lambda each: each[1].step)
            found.setdefault(kinds, []).append((policy, f"{trace.scenario}, step {judgement.step}", left))
    if not found:
        return None
    kinds, explained = max(found.items(), key=lambda each: (each[1][0][2], -len(each[0])))
    if len(explained) > _MOST_POLICIES:
        return None
    return Divergence(tuple(each[0].name for each in explained), kinds, *explained[0][1:])


def _fewest_kinds(judged: Sequence[tuple[Trace, Judgement]]) -> tuple[str, ...]:
    """The kinds of operations without which nothing is ruled out; () where there are none of that sort.

    One kind if one will do, and of those the one in the fewest traces. At least a third of the traces has to
    be without, and has to say something.
    """
    ruled_out = [each for each in judged if each[1].possibility is Possibility.IMPOSSIBLE]
    suspects = [_kinds(trace, judgement.step) for trace, judgement in ruled_out]
    others = [(_kinds(trace), judgement.possibility) for trace, judgement in judged]
    shows = {kind_of(trace.events[judgement.step - 1].operation) for trace, judgement in ruled_out}
    every = sorted(frozenset[str]().union(*suspects), key=lambda kind: (kind not in shows, kind))
    for count in range(1, _MOST_KINDS + 1):
        best: tuple[str, ...] = ()
        most = len(judged) // _LEFT_OF
        for kinds in combinations(every, count):
            if not all({*kinds} & each for each in suspects):
                continue
            left = [said for has, said in others if not {*kinds} & has]
            if len(left) > most and Possibility.POSSIBLE in left:
                best, most = kinds, len(left)
        if best:
            return best
    return ()


def _kinds(trace: Trace, until: int | None = None) -> frozenset[str]:
    """The kinds of operations of a trace, up to and with a step (from 1)."""
    return frozenset(kind_of(event.operation) for event in trace.events[:until])
