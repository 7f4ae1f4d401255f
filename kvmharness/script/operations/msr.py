# SPDX-License-Identifier: GPL-2.0-or-later
"""MSRs, written and read from outside the guest."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvmharness.script.codec import MsrNames, MsrsToWrite, SeveralToWrite
from kvmharness.script.operations.base import OfVcpu, OfVcpus, Resolver, failed, unknown_write
from kvmharness.script.value import value_in_words

__all__ = ["GetMsrs", "SetMsrs", "WriteTogether"]


class _Msrs(OfVcpu):
    def guest_tsc(self, values: tuple[int, ...]) -> int | None:
        """The first TSC among its values."""
        names = self.value_names
        return values[names.index("TSC")] if values and "TSC" in names else None


@dataclass(frozen=True, kw_only=True)
class SetMsrs(_Msrs):
    """Write MSRs of `vcpu`, in this order, with one KVM_SET_MSRS; records what it wrote, by their names."""

    name = "set_msrs"
    value_form = "wrote {}"
    sets_tsc = True
    msrs: MsrsToWrite

    @property
    def value_names(self) -> tuple[str, ...]:
        """The MSRs."""
        return tuple(name for name, _ in self.msrs)

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """What it was to write has to be known."""
        return unknown_write(values, error)

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The MSRs' values."""
        return tuple(resolver.cycles(self.vcpu, value) for _, value in self.msrs)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What it wrote."""
        return written

    def describe(self) -> str:
        """With the MSRs' names."""
        return f"write {', '.join(self.value_names)} of vCPU {self.vcpu}"

    def in_words(self) -> str:
        """With each MSR's value."""
        values = ", ".join(f"{name} = {value_in_words(value)}" for name, value in self.msrs)
        return f"write {values} to vCPU {self.vcpu}"


@dataclass(frozen=True, kw_only=True)
class WriteTogether(OfVcpus):
    """Write MSR_IA32_TSC of several vCPUs at once, to as many `values`, each from a thread of its own.

    The threads are on CPUs 0, 1 and so on, as MoveThread counts them, over and over, and wait for each other
    before their KVM_SET_MSRS. Records for each vCPU the CPU's number in the system, and the value written.
    """

    name = "write_together"
    phrase = "write TSC of vCPUs"
    sets_tsc = True
    values: SeveralToWrite

    @property
    def value_names(self) -> tuple[str, ...]:
        """Two for each vCPU."""
        return tuple(f"{what}-{vcpu}" for vcpu in self.vcpus for what in ("cpu", "TSC"))

    @property
    def one_after_the_other(self) -> tuple[SetMsrs, ...]:
        """A write of each TSC."""
        return tuple(
            SetMsrs(vcpu=vcpu, msrs=(("TSC", value),))
            for vcpu, value in zip(self.vcpus, self.values, strict=True)
        )

    def complaint(self) -> str:
        """There has to be a value for each vCPU."""
        alike = len(self.values) == len(self.vcpus)
        return "" if alike else f"{len(self.values)} values for {len(self.vcpus)} vCPUs"

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """Some of them may have been written."""
        return failed(error)

    def guest_tsc(self, values: tuple[int, ...]) -> int | None:
        """What was written, if that is the same for all."""
        written = {*values[1::2]}
        return written.pop() if len(written) == 1 else None

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """Two for each vCPU."""
        return tuple(
            each
            for number, (vcpu, value) in enumerate(zip(self.vcpus, self.values, strict=True))
            for each in (resolver.cpu(number), resolver.cycles(vcpu, value))
        )

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What it wrote, and from where."""
        return written

    def in_words(self) -> str:
        """With the values."""
        return f"{self.describe()}: {', '.join(map(value_in_words, self.values))}"


@dataclass(frozen=True, kw_only=True)
class GetMsrs(_Msrs):
    """Read MSRs of `vcpu` with one KVM_GET_MSRS; its values are named for them."""

    name = "get_msrs"
    indices: MsrNames

    @property
    def value_names(self) -> tuple[str, ...]:
        """The MSRs."""
        return self.indices

    def form(self, place: int) -> str:
        """With the MSR's name."""
        return f"{self.indices[place]} {{}}"

    def only_reads_tsc(self, values: tuple[int, ...], error: str) -> bool:
        """As it says."""
        return True

    def describe(self) -> str:
        """With the MSRs' names."""
        return f"read {', '.join(self.indices)} of vCPU {self.vcpu}"
