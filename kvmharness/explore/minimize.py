# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts made smaller as long as a predicate holds. Knows no kernel.

The predicate is asked of many scripts at once, because a boot costs more than a script. It has to be
deterministic: where time is real, it says what holds most of the time.
"""

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, combinations, pairwise
from typing import Any, TypeVar

from kvmharness.explore.plainer import Steps, plainer
from kvmharness.script import Operation, Read, Script, Sleep

T = TypeVar("T")

Predicate = Callable[[Sequence[Script]], Sequence[bool]]
Places = frozenset[int]

# In one round, unless a single script has more steps. A boot from a snapshot costs as much as 700 steps, a VM
# as much as 15 (6.12 on `amd`).
MOST_SCRIPTS, MOST_STEPS = 100, 1500
_MOST_UNIONS = 8
_MOST_OFFERS = 200
# Of so many steps any two are left out together: 66 scripts.
_MOST_IN_PAIRS = 12


@dataclass(frozen=True, slots=True)
class Minimized:
    """The smallest script found, and what that took: how many scripts were tried in how many rounds."""

    script: Script
    tried: int
    rounds: int


class _Asked:
    """A predicate that is asked no more often than it may be, and never twice the same."""

    def __init__(self, holds: Predicate, most_rounds: int) -> None:
        self._holds = holds
        self._known: dict[Script, bool] = {}
        self.left = most_rounds
        self.tried = 0

    def __call__(self, scripts: Sequence[Script]) -> list[bool]:
        new = [each for each in dict.fromkeys(scripts) if each and each not in self._known]
        while new and self.left > 0:
            steps = accumulate(len(each) for each in new[:MOST_SCRIPTS])
            count = max(1, sum(each <= MOST_STEPS for each in steps))
            now, new = new[:count], new[count:]
            self.left -= 1
            self.tried += count
            self._known.update(zip(now, self._holds(now), strict=True))
        return [self._known.get(each, False) for each in scripts]

    def those(self, things: Sequence[T], scripts: Sequence[Script]) -> list[T]:
        """Of these things those whose scripts hold."""
        return [thing for thing, fine in zip(things, self(scripts), strict=True) if fine]

    def smallest(self, scripts: Iterable[Script]) -> Script | None:
        """The script with the fewest steps that holds, the first of several."""
        tries = list(scripts)
        return min(self.those(tries, tries), key=len, default=None)


def minimize(script: Script, holds: Predicate, most_rounds: int = 40) -> Minimized:
    """A script as small as can be of which `holds` is still true, as it has to be of `script`.

    First with fewer steps and vCPUs, then with plainer guests and values and rounder waits. At most
    `most_rounds` times something is asked, each time of up to MOST_SCRIPTS scripts.
    """
    ask = _Asked(holds, most_rounds)
    before: Script = ()
    while script != before and ask.left > 0:
        before = script
        script = _fewer_steps(script, ask)
        script = _plainer(script, ask)
    return Minimized(script, ask.tried, most_rounds - ask.left)


def _fewer_steps(script: Script, ask: _Asked) -> Script:
    """Without vCPUs and steps that can be spared, each alone or any two together, and with fewer sleeps."""
    while ask.left > 0:
        parts = _parts(script)
        good = ask.those(parts, [_cut(script, part) for part in parts])
        smaller = _without_most(script, good, ask) if good else _without_two(script, ask)
        if smaller is None:
            break
        script = smaller
    return script


def _parts(script: Script) -> list[Places]:
    """What may be spared: the steps of each vCPU, each half, quarter, ... each step; the largest first."""
    numbers = {number for step in script for number in step.vcpu_numbers}
    parts = [
        frozenset(place for place, step in enumerate(script) if number in step.vcpu_numbers)
        for number in numbers
    ]
    size = len(script) // 2
    while size > 0:
        parts += [frozenset(range(first, first + size)) for first in range(0, len(script), size)]
        size //= 2
    return sorted(dict.fromkeys(parts), key=len, reverse=True)


def _without_most(script: Script, good: Sequence[Places], ask: _Asked) -> Script | None:
    """Without as many as possible of the parts that can be spared one by one."""
    tries = [_cut(script, good[0])]
    for order in (good, sorted(good, key=min), sorted(good, key=max, reverse=True)):
        unions = list(dict.fromkeys(accumulate(order, _union)))
        tries += [_cut(script, each) for each in _spread(unions, _MOST_UNIONS)]
    return ask.smallest(tries)


def _union(one: Places, other: Places) -> Places:
    return one | other


def _without_two(script: Script, ask: _Asked) -> Script | None:
    """Without two of a few steps, or with one sleep for two; None if neither does."""
    tries = [_with_one_sleep(script, *two) for two in pairwise(_sleeps(script))]
    if len(script) <= _MOST_IN_PAIRS:
        tries += [_cut(script, two) for two in combinations(range(len(script)), 2)]
    return ask.smallest(tries)


def _sleeps(script: Script) -> list[int]:
    return [place for place, step in enumerate(script) if step.only_waits]


def _with_one_sleep(script: Script, gone: int, longer: int) -> Script:
    ns = script[gone].waits_ns + script[longer].waits_ns
    return _cut((*script[:longer], Sleep(ns=ns), *script[longer + 1 :]), (gone,))


def _spread(things: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly spread, the last among them."""
    step = max(1, -(-len(things) // most))
    return [things[place] for place in range(len(things) - 1, -1, -step)]


def _halves(things: Sequence[T]) -> list[Sequence[T]]:
    """All of them, the first half, the first quarter, down to the first alone."""
    return [things[: max(1, len(things) >> shift)] for shift in range(len(things).bit_length())]


def _cut(script: Script, places: Iterable[int]) -> Script:
    """The script without the steps at these places, nor those that cannot be played without them."""
    gone = set(places)
    created: set[int] = set()
    labels: set[str] = set()
    left: list[Operation] = []
    for place, step in enumerate(script):
        numbers = step.vcpu_numbers
        there = step.creates_vcpu or set(numbers) <= created
        if place in gone or not there or not {read.label for read in _reads(step)} <= labels:
            continue
        left.append(step)
        labels.add(step.label)
        if step.creates_vcpu:
            created |= set(numbers)
    return tuple(left)


def _plainer(script: Script, ask: _Asked) -> Script:
    """With plainer guests and values, each step as plain as it can be."""
    while ask.left > 0:
        offers = plainer(script)[:_MOST_OFFERS]
        chosen: dict[int, Operation] = {}
        good: list[Steps] = []
        for offer in ask.those(offers, [_with(script, each) for each in offers]):
            if not chosen.keys() & offer.keys():
                good.append(offer)
                chosen |= offer
        if not good:
            return script
        tries = [_with(script, dict(ChainMap(*some))) for some in _halves(good)]
        script = next((each for each, fine in zip(tries, ask(tries), strict=True) if fine), tries[-1])
    return script


def _with(script: Script, steps: Steps) -> Script:
    return tuple(steps.get(place, step) for place, step in enumerate(script))


def _reads(step: Operation) -> Iterator[Read]:
    for field in fields(step):
        value = getattr(step, field.name)
        each: Any
        for each in value if isinstance(value, tuple) else (value,):
            inner = each[1] if isinstance(each, tuple) and len(each) == 2 else each
            if isinstance(inner, Read):
                yield inner
