# SPDX-License-Identifier: GPL-2.0-or-later
"""Values to write, and frequencies (`kvmharness.player.values` says what they stand for)."""

from dataclasses import dataclass


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
