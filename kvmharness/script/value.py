# SPDX-License-Identifier: GPL-2.0-or-later
"""Values to write, and frequencies (`kvmharness.player.values` says what they stand for)."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Time:
    """`ns` nanoseconds, of the cycles of the vCPU it is used for."""

    ns: int


@dataclass(frozen=True, slots=True)
class Read:
    """What the step labelled `label` read, its value number `place` (from 0), plus `plus`."""

    label: str
    plus: "int | Time" = 0
    place: int = 0


Value = int | Time | Read


@dataclass(frozen=True, slots=True)
class Ppm:
    """The kHz there were to begin with times (1_000_000 + ppm) / 1_000_000, rounded down.

    To begin with: of a vCPU when it was created, of a VM when the step is played. From -1_000_000, which
    is 0 kHz, to a hundredfold more.
    """

    ppm: int


Khz = int | Ppm


def value_to_json(value: Value) -> Any:
    """A value to write as JSON data, which `kvmharness.player.values` resolves."""
    if isinstance(value, Time):
        return {"ns": value.ns}
    if isinstance(value, Read):
        place = {"place": value.place} if value.place else {}
        return {"read": value.label, "plus": value_to_json(value.plus), **place}
    return value


def value_in_words(value: Value) -> str:
    """A value to write, as reports say it: "5 ms", "what tsc read + 5 ms"."""
    if isinstance(value, Time):
        return f"{value.ns / 1e9:g} s" if abs(value.ns) >= 10**9 else f"{value.ns / 1e6:g} ms"
    if isinstance(value, Read):
        plus = "" if value.plus == 0 else f" + {value_in_words(value.plus)}"
        return f"what {value.label} read{f' (value {value.place + 1})' if value.place else ''}{plus}"
    return str(value)
