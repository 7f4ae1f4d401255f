# SPDX-License-Identifier: GPL-2.0-or-later
"""Values to write, as a script's JSON has them, and the cycles they stand for.

123                                     123 cycles
{"ns": 50}                              50 ns of the vCPU's own cycles
{"read": "tsc", "plus": {"ns": 50}}     what the step labelled tsc read first, plus a value of the
                                        other two kinds; with "place": 2 what it read third

A frequency to write is kHz, or {"ppm": 200}: what it was to begin with, and 200 millionths more.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


class NothingReadError(Exception):
    """A value rests on a step that read nothing."""


def cycles(ns: int, khz: int) -> int:
    """How many cycles a TSC of `khz` kHz counts in `ns` ns, rounded down."""
    return ns * khz // 1_000_000


def resolve(value: Any, khz: int, read: Mapping[str, Sequence[int]]) -> int:
    """The cycles a value stands for on a vCPU of `khz` kHz, modulo 2**64; `read` is what each label read.

    NothingReadError when its label read nothing there.
    """
    if isinstance(value, int):
        return value % 2**64
    if "ns" in value:
        return cycles(value["ns"], khz) % 2**64
    found = read.get(value["read"], ())
    place: int = value.get("place", 0)
    if place >= len(found):
        raise NothingReadError(value["read"])
    plus = resolve(value["plus"], khz, read)
    return (found[place] + plus) % 2**64


def frequency(value: Any, khz: int) -> int:
    """The kHz a frequency stands for where it was `khz` to begin with, modulo 2**32 as KVM takes it."""
    written: int = value if isinstance(value, int) else khz * (1_000_000 + value["ppm"]) // 1_000_000
    return written % 2**32
