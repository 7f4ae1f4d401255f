# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest runs, alone or with others, or writes an MSR itself."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from kvmharness.guests.layout import RING_SIZE
from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.script.codec import Duration, MsrName, ToWrite
from kvmharness.script.operations.base import OfVcpu, OfVcpus, Resolver, failed
from kvmharness.script.value import value_in_words

__all__ = ["GuestWrite", "Run", "RunTogether"]

_RUN_NS = 10_000_000_000


@dataclass(frozen=True, kw_only=True)
class Run(OfVcpu):
    """KVM_RUN of `vcpu` until its guest exits, or for `ns`; reads the guest's samples, newest last."""

    name = "run"
    phrase = "run the guest"
    value_form = "TSC {}"
    enters_guest = True
    by_guest = True
    ns: Duration = _RUN_NS

    def value_counts(self, error: str) -> Container[int]:
        """As many as the guest's ring holds."""
        return range(RING_SIZE)

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """Nothing."""
        return ()

    def samples(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """All of them."""
        return values

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """How far the guest got is not known."""
        return failed(error)

    def guest_tsc(self, values: tuple[int, ...]) -> int | None:
        """The newest sample."""
        return values[-1] if values else None

    def only_reads_tsc(self, values: tuple[int, ...], error: str) -> bool:
        """If the guest came to it."""
        return bool(values) and not error

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """The first and the last."""
        return super().values_in_words(values if len(values) < 2 else (values[0], values[-1]))


@dataclass(frozen=True, kw_only=True)
class RunTogether(OfVcpus):
    """KVM_RUN of several vCPUs at once for `ns`, each in a thread of its own on a CPU of its own.

    The first on CPU 0 as MoveThread counts them, the next on CPU 1 and so on. Their guests, "warp-64", hold
    their TSCs against each other's. Reads for each vCPU: its CPU's number in the system, how often it read
    its TSC right after another of them had, how often that was less (a warp), by how many cycles at most.
    EINVAL, and nothing runs, with fewer CPUs than vCPUs, or another guest.
    """

    name = "run_together"
    phrase = "run vCPUs"
    enters_guest = True
    ns: Duration = 100_000_000

    @property
    def value_names(self) -> tuple[str, ...]:
        """Four for each vCPU."""
        names = ("cpu", "handovers", "warps", "largest_warp")
        return tuple(f"{what}-{vcpu}" for vcpu in self.vcpus for what in names)

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """With fewer CPUs than vCPUs, or another guest."""
        return len(self.vcpus) > cpus or any(guests[vcpu] != "warp-64" for vcpu in self.vcpus)

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """EINVAL is the player's own: nothing ran."""
        return failed(error) if error != "EINVAL" else ""

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The CPUs, and that all of them met once."""
        return tuple(
            value for number, _ in enumerate(self.vcpus) for value in (resolver.cpu(number), 1, 0, 0)
        )

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """Whether there were warps is predicted."""
        return tuple(
            each
            for first in range(0, len(written), 4)
            for each in (*written[first : first + 2], *read[first + 2 : first + 4])
        )


@dataclass(frozen=True, kw_only=True)
class GuestWrite(OfVcpu):
    """Have the guest of `vcpu` execute WRMSR of `msr`; reads its TSC just before and just after.

    KVM_RUN until the guest exits, or for `ns`. Records what the guest was to write first, and its samples as
    far as it got. EINVAL, and nothing runs, unless the vCPU was created with a guest that has a mailbox.
    """

    name = "guest_write"
    phrase = "let the guest execute WRMSR"
    value_names = ("written", "tsc_before", "tsc_after")
    enters_guest = True
    sets_tsc = True
    msr: MsrName
    value: ToWrite
    ns: Duration = _RUN_NS

    @property
    def guest_writes(self) -> str:
        """The MSR."""
        return self.msr

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """With a guest that has no mailbox."""
        return not PROGRAMS[guests[self.vcpu]].writes_msrs

    def value_counts(self, error: str) -> Container[int]:
        """As far as the guest got."""
        return range(0 if error else 1, 4)

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """What the guest was to write."""
        return values[:1]

    def samples(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """All the others."""
        return values[1:]

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """Where nothing is known of a write, the player refused it, and nothing ran."""
        return f"it failed with {error}, and how far the guest got is not known" if error and values else ""

    def guest_tsc(self, values: tuple[int, ...]) -> int | None:
        """What the guest wrote, had it then or not; of an MSR other than its TSC the last sample."""
        if not values:
            return None
        return values[0] if self.msr == "TSC" else values[-1]

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """What the guest is to write."""
        return (resolver.cycles(self.vcpu, self.value),)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """The samples are predicted."""
        return (*written, *read[1:])

    def in_words(self) -> str:
        """With the MSR and its value."""
        return f"{self.describe()} of {self.msr} = {value_in_words(self.value)}"
