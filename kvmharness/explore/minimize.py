# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts made smaller as long as a predicate holds. Knows no kernel.

The predicate is asked of many scripts at once, because a boot costs more than a script. It has to be
deterministic: where time is real, it says what holds most of the time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from kvmharness.script import CreateVcpu, Operation, Read, Run, Script, Time, Value

T = TypeVar("T")

Predicate = Callable[[Sequence[Script]], Sequence[bool]]

_MOST_AT_ONCE = 24
_SMALL_NS = 1_000_000
_PLAIN_GUEST = "rdtsc-16"


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
        if new and self.left > 0:
            self.left -= 1
            self.tried += len(new)
            self._known.update(zip(new, self._holds(new), strict=True))
        return [self._known.get(each, False) for each in scripts]


def minimize(script: Script, holds: Predicate, most_rounds: int = 40) -> Minimized:
    """A script as small as can be of which `holds` is still true, as it has to be of `script`.

    First with fewer steps and vCPUs, then with plainer guests and values and rounder waits. At most
    `most_rounds` times something is asked, each time of up to 24 scripts.
    """
    ask = _Asked(holds, most_rounds)
    before: Script = ()
    while script != before and ask.left > 0:
        before = script
        script = _fewer_steps(script, ask)
        script = _plain_guests(script, ask)
        script = _plainer(script, ask)
    return Minimized(script, ask.tried, most_rounds - ask.left)


def _fewer_steps(script: Script, ask: _Asked) -> Script:
    """Without whole vCPUs, then without ever smaller parts."""
    numbers = sorted({number for step in script for number in step.vcpu_numbers}, reverse=True)
    script = _without(script, [_steps_of(script, number) for number in numbers], ask)
    size = max(1, len(script) // 2)
    while ask.left > 0:
        parts = [set(range(first, first + size)) for first in range(0, len(script), size)]
        smaller = _without(script, parts, ask)
        if smaller == script and size == 1:
            break
        size = size if smaller != script and size == 1 else max(1, size // 2)
        script = smaller
    return script


def _halves(things: Sequence[T]) -> list[Sequence[T]]:
    """All of them, the first half, the first quarter, down to the first alone."""
    return [things[: max(1, len(things) >> shift)] for shift in range(len(things).bit_length())]


def _steps_of(script: Script, number: int) -> set[int]:
    return {place for place, step in enumerate(script) if number in step.vcpu_numbers}


def _without(script: Script, parts: Sequence[set[int]], ask: _Asked) -> Script:
    """Without each of the parts that can be spared, all of them at once if that can be."""
    for first in range(0, len(parts), _MOST_AT_ONCE):
        some = parts[first : first + _MOST_AT_ONCE]
        each_alone = [_cut(script, part) for part in some]
        good = [part for part, fine in zip(some, ask(each_alone), strict=True) if fine]
        if good:
            # As many at once as can be: all, the first half, a quarter, or the first alone.
            tries = [_cut(script, set[int]().union(*some)) for some in _halves(good)]
            smaller = next((each for each, fine in zip(tries, ask(tries), strict=True) if fine), None)
            return _cut(script, good[0]) if smaller is None else smaller
    return script


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


def _plain_guests(script: Script, ask: _Asked) -> Script:
    """With vCPUs whose guests do nothing but read their TSC, and that simply run."""
    numbers = {number for step in script for number in step.vcpu_numbers}
    numbers = {number for number in numbers if _with_plain_guests(script, {number}) != script}
    alone = [_with_plain_guests(script, {number}) for number in sorted(numbers)]
    good = [number for number, fine in zip(sorted(numbers), ask(alone), strict=True) if fine]
    tries = [_with_plain_guests(script, set(some)) for some in _halves(good)]
    return next((each for each, fine in zip(tries, ask(tries), strict=True) if fine), script)


def _with_plain_guests(script: Script, numbers: set[int]) -> Script:
    return tuple(_with_plain_guest(step) if set(step.vcpu_numbers) & numbers else step for step in script)


def _with_plain_guest(step: Operation) -> Operation:
    if step.creates_vcpu:
        return CreateVcpu(vcpu=step.vcpu_numbers[0], guest=_PLAIN_GUEST, label=step.label)
    if step.enters_guest and len(step.vcpu_numbers) == 1:
        return Run(vcpu=step.vcpu_numbers[0], label=step.label)
    return step


def _plainer(script: Script, ask: _Asked) -> Script:
    """With plainer values, one step after the other, each as plain as it can be."""
    while ask.left > 0:
        offers = [(place, offer) for place, step in enumerate(script) for offer in _plainer_steps(step)][
            : 4 * _MOST_AT_ONCE
        ]
        tries = [(*script[:place], offer, *script[place + 1 :]) for place, offer in offers]
        fine: list[bool] = []
        for first in range(0, len(tries), _MOST_AT_ONCE):
            fine += ask(tries[first : first + _MOST_AT_ONCE])
        chosen: dict[int, Operation] = {}
        for (place, offer), good in zip(offers, fine, strict=True):
            if good:
                chosen.setdefault(place, offer)
        if not chosen:
            return script
        tries = [_with(script, dict(some)) for some in _halves(list(chosen.items()))]
        script = next((each for each, good in zip(tries, ask(tries), strict=True) if good), tries[-1])
    return script


def _with(script: Script, steps: dict[int, Operation]) -> Script:
    return tuple(steps.get(place, step) for place, step in enumerate(script))


def _plainer_steps(step: Operation) -> Iterator[Operation]:
    """The step with something plainer in it, the plainest first; of what it does to several vCPUs, one."""
    yield from step.one_after_the_other if len(step.one_after_the_other) > 1 else ()
    for field in fields(step):
        value = getattr(step, field.name)
        for plainer in _plainer_fields(field.name, value):
            yield replace(step, **{field.name: plainer})


def _plainer_fields(name: str, value: Any) -> Iterator[Any]:
    if name == "guest" and value != _PLAIN_GUEST:
        yield _PLAIN_GUEST
    elif name == "ns" and isinstance(value, int):
        yield from _rounder(value)
    elif name == "msrs":
        if len(value) > 1:
            yield from ((pair,) for pair in value)
            yield from (value[:place] + value[place + 1 :] for place in range(len(value)))
        for place, (msr, each) in enumerate(value):
            for plainer in _plainer_values(each):
                yield (*value[:place], (msr, plainer), *value[place + 1 :])
    elif name == "indices" and len(value) > 1:
        yield from ((each,) for each in dict.fromkeys(value))
    elif name in ("offset", "value", "clock", "realtime", "rate_ppm") and value is not None:
        if name in ("realtime", "rate_ppm"):
            yield None
        # A plain offset means something else on a host that was up for another time.
        relative = name == "offset" and isinstance(value, Read)
        yield from (each for each in _plainer_values(value) if isinstance(each, Read) or not relative)


def _plainer_values(value: Value) -> Iterator[Value]:
    if isinstance(value, Read):
        yield Time(value.plus.ns) if isinstance(value.plus, Time) else value.plus
        if value.plus != 0:
            yield replace(value, plus=0)
        if isinstance(value.plus, Time):
            yield from (replace(value, plus=Time(ns)) for ns in _rounder(value.plus.ns))
    elif isinstance(value, Time):
        yield from (Time(ns) for ns in _rounder(value.ns))
    elif value > 1_000_000:
        yield from (1 << bits for bits in (value.bit_length() - 1,) if 1 << bits != value)


def _rounder(ns: int) -> Iterator[int]:
    """Rounder times near a time, the roundest first."""
    size, sign = abs(ns), -1 if ns < 0 else 1
    for digits in (1, 2):
        unit = 10 ** max(0, len(str(size)) - digits)
        rounded = (size + unit // 2) // unit * unit
        if rounded != size and size >= _SMALL_NS:
            yield sign * rounded


def _reads(step: Operation) -> Iterator[Read]:
    for field in fields(step):
        value = getattr(step, field.name)
        each: Any
        for each in value if isinstance(value, tuple) else (value,):
            inner = each[1] if isinstance(each, tuple) and len(each) == 2 else each
            if isinstance(inner, Read):
                yield inner
