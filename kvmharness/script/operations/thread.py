# SPDX-License-Identifier: GPL-2.0-or-later
"""The playing thread moves, or waits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvmharness.script.codec import CpuNumber, Duration
from kvmharness.script.operations.base import Operation, Resolver

__all__ = ["MoveThread", "Sleep"]


@dataclass(frozen=True, kw_only=True)
class MoveThread(Operation):
    """Move the playing thread to one of the CPUs it may use, and keep it there; reads CPU before and after.

    Number 0 is the CPU that the script began on, the others follow in the order of the system's numbers.
    EINVAL when there are fewer.
    """

    name = "move_thread"
    phrase = "move the thread"
    value_names = ("cpu_before", "cpu_after")
    to: CpuNumber

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """With fewer CPUs."""
        return self.to >= cpus

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """Where it was and where it then was, if it moved."""
        return () if error else values

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """Where it is and where it then will be."""
        return (resolver.here, resolver.cpu(self.to))

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """Both."""
        return written

    def in_words(self) -> str:
        """With the CPU."""
        return f"{self.describe()} to CPU {self.to}"


@dataclass(frozen=True, kw_only=True)
class Sleep(Operation):
    """Wait `ns` ns, or a little longer."""

    name = "sleep"
    phrase = "wait"
    only_waits = True
    ns: Duration

    @property
    def waits_ns(self) -> int:
        """All of it."""
        return self.ns

    def in_words(self) -> str:
        """With the time."""
        return f"{self.describe()} {self.ns / 1e6:g} ms"
