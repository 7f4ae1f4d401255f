# SPDX-License-Identifier: GPL-2.0-or-later
"""What could be plainer in a step: its guest, its values, its waits. Knows no kernel."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from kvmharness.script import CreateVcpu, Operation, Read, Run, Script, Time, Value

_SMALL_NS = 1_000_000
_PLAIN_GUEST = "rdtsc-16"

# A change of a script: what comes at these places instead.
Steps = dict[int, Operation]


def plainer(script: Script) -> list[Steps]:
    """What can be plainer in a script, each alone: a vCPU's guest, a reading of what was written, a step."""
    numbers = sorted({number for step in script for number in step.vcpu_numbers})
    guests = [_plain_guest(script, number) for number in numbers]
    steps = [{place: offer} for place, step in enumerate(script) for offer in _plainer_steps(step)]
    return [each for each in guests if each] + list(_unread(script)) + steps


def _plain_guest(script: Script, number: int) -> Steps:
    """A guest that only reads its TSC, and a vCPU that simply runs."""
    steps = {
        place: _with_plain_guest(step) for place, step in enumerate(script) if number in step.vcpu_numbers
    }
    return {place: step for place, step in steps.items() if step != script[place]}


def _with_plain_guest(step: Operation) -> Operation:
    if step.creates_vcpu:
        return CreateVcpu(vcpu=step.vcpu_numbers[0], guest=_PLAIN_GUEST, label=step.label)
    if step.enters_guest and len(step.vcpu_numbers) == 1:
        return Run(vcpu=step.vcpu_numbers[0], label=step.label)
    return step


def _unread(script: Script) -> Iterator[Steps]:
    """What a step wrote in place of what a later one reads of it, which then does without that step."""
    written = {step.label: [value for _, value in getattr(step, "msrs", ())] for step in script}
    for place, step in enumerate(script):
        for field in fields(step):
            value = getattr(step, field.name)
            new: Any = value
            if isinstance(value, Read):
                new = _as_written(value, written)
            elif field.name == "msrs":
                new = tuple((msr, _as_written(each, written)) for msr, each in value)
            if new != value:
                yield {place: replace(step, **{field.name: new})}


def _as_written(value: Value, written: dict[str, list[Value]]) -> Value:
    if not isinstance(value, Read) or value.place >= len(written.get(value.label, ())):
        return value
    base = written[value.label][value.place]
    if isinstance(base, Read):
        plus = _sum(base.plus, value.plus)
        return value if plus is None else replace(base, plus=plus)
    found = _sum(base, value.plus)
    return value if found is None else found


def _sum(one: int | Time, other: int | Time) -> int | Time | None:
    """The sum of two values to write; None if it is neither a time nor a number of cycles."""
    if isinstance(one, Time) and isinstance(other, Time):
        return Time(one.ns + other.ns)
    if not isinstance(one, Time) and not isinstance(other, Time):
        return one + other
    return one if other == 0 else other if one == 0 else None


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
