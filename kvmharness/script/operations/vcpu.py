# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU comes to be; its TSC offset is set and read."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvmharness.script.codec import Guest, ToWrite
from kvmharness.script.operations.base import OfVcpu, Resolver, failed, no_rate, unknown_write
from kvmharness.script.value import value_in_words

__all__ = ["CreateVcpu", "GetTscOffset", "SetTscOffset"]


@dataclass(frozen=True, kw_only=True)
class CreateVcpu(OfVcpu):
    """Create vCPU `vcpu` with `guest` loaded; reads its kHz."""

    name = "create_vcpu"
    phrase = "creation"
    value_names = ("khz",)
    value_form = "{} kHz"
    creates_vcpu = True
    sets_tsc = True
    guest: Guest = "rdtsc-16"

    @property
    def new_guest(self) -> str:
        """Its guest."""
        return self.guest

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """A vCPU that is there already is a rule of KVM; anything else leaves no vCPU."""
        return failed(error) if error not in ("", "EEXIST") else no_rate(values, 1)

    def guest_tsc(self, values: tuple[int, ...]) -> int:
        """0, which kvm_arch_vcpu_postcreate() writes."""
        return 0

    def new_khz(self, values: tuple[int, ...]) -> int:
        """Those that it was created with."""
        return values[0]


class _Offset(OfVcpu):
    value_names = ("offset",)
    value_form = "offset {}"

    def tsc_offset(self, values: tuple[int, ...]) -> int | None:
        """Its only value."""
        return values[0] if values else None

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """The offset as a signed number."""
        return [self.value_form.format(value - 2**64 if value >= 2**63 else value) for value in values]


@dataclass(frozen=True, kw_only=True)
class SetTscOffset(_Offset):
    """Set KVM_VCPU_TSC_OFFSET of `vcpu`; records the offset in cycles, modulo 2**64."""

    name = "set_tsc_offset"
    phrase = "set the TSC offset"
    sets_tsc = True
    offset: ToWrite

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """What it was to write has to be known."""
        return unknown_write(values, error)

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The offset."""
        return (resolver.cycles(self.vcpu, self.offset),)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What it wrote."""
        return written

    def in_words(self) -> str:
        """With the offset."""
        return f"{self.describe()} to {value_in_words(self.offset)}"


@dataclass(frozen=True, kw_only=True)
class GetTscOffset(_Offset):
    """Read KVM_VCPU_TSC_OFFSET of `vcpu`: cycles, modulo 2**64."""

    name = "get_tsc_offset"
    phrase = "read the TSC offset"

    def only_reads_tsc(self, values: tuple[int, ...], error: str) -> bool:
        """As it says."""
        return True
