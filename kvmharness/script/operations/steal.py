# SPDX-License-Identifier: GPL-2.0-or-later
"""Steal time: for how long a vCPU had to wait for a CPU, as KVM reports it to its guest.

KVM takes it from the thread that runs the vCPU: its run_delay, in ns since the thread's creation.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.script.codec import Duration
from kvmharness.script.operations.base import OfVcpu, Operation, Resolver, failed

__all__ = ["ReadStealTime", "WaitForCpu"]

_RUN_NS = 10_000_000_000


@dataclass(frozen=True, kw_only=True)
class ReadStealTime(OfVcpu):
    """Let the guest of `vcpu` read its steal time, where `layout.steal_time_address` has it.

    KVM_RUN until the guest exits, or for `ns`. Reads the time (ns), version, flags, whether the vCPU is
    preempted, and the bits that are set in the padding; the run_delay of the playing thread before and after
    (ns); and the guest's TSC. Nothing where the guest did not come so far. All of the page are 0 unless MSR
    STEAL_TIME was written to that address plus 1. EINVAL, and nothing runs, with another guest than
    "steal-16".
    """

    name = "read_steal_time"
    phrase = "let the guest read its steal time"
    value_names = (
        *("steal", "steal_version", "steal_flags", "preempted", "steal_padding"),
        *("run_delay_before", "run_delay_after", "tsc"),
    )
    enters_guest = True
    ns: Duration = _RUN_NS

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """With a guest that does not read it."""
        return not PROGRAMS[guests[self.vcpu]].reads_steal_time

    def value_counts(self, error: str) -> Container[int]:
        """All, or none where the guest did not come so far."""
        return (0, len(self.value_names))

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """The thread's run_delay, before and after."""
        return values[5:7]

    def samples(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """The last one."""
        return values[7:]

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """EINVAL is the player's own: nothing ran."""
        return failed(error) if error != "EINVAL" else ""

    def guest_tsc(self, values: tuple[int, ...]) -> int | None:
        """The last value."""
        return values[7] if values else None

    def only_reads_tsc(self, values: tuple[int, ...], error: str) -> bool:
        """If the guest came to it."""
        return bool(values) and not error

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The thread does not wait."""
        return (resolver.run_delay, resolver.run_delay)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What the guest reads is predicted."""
        return (*read[:5], *written, *read[7:])

    def form(self, place: int) -> str:
        """With the value's name."""
        return f"{self.value_names[place].removeprefix('steal_').replace('_', ' ')} {{}}"

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """The page, and what the thread had waited."""
        if not values:
            return []
        page = [self.form(place).format(values[place]) for place in (0, 1)]
        page += [self.form(place).format(values[place]) for place in (2, 3, 4) if values[place]]
        return [*page, f"run delay {values[5]} to {values[6]}"]

    def effect(self, values: tuple[int, ...]) -> str:
        """Whether there is any page."""
        return f"{values[0]} ns stolen" if values and values[1] else "no steal time"


@dataclass(frozen=True, kw_only=True)
class WaitForCpu(Operation):
    """Let another thread compete for the CPU until the playing one has waited for it for `ns` ns or longer.

    It gives up a second later. Records the playing thread's run_delay before and after.
    """

    name = "wait_for_cpu"
    phrase = "wait for the CPU"
    value_names = ("run_delay_before", "run_delay_after")
    ns: Duration

    @property
    def waits_ns(self) -> int:
        """At the least."""
        return self.ns

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """It can always be done where the run_delay can be read."""
        return failed(error)

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """As long as is asked for."""
        return (resolver.run_delay, resolver.run_delay + self.ns)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """Both."""
        return written

    def in_words(self) -> str:
        """With the time."""
        return f"{self.describe()} for {self.ns / 1e6:g} ms"

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """How long it was."""
        return [f"run delay {values[0]} to {values[1]}"] if values else []

    def effect(self, values: tuple[int, ...]) -> str:
        """How long it was."""
        return f"{values[1] - values[0]} ns"
