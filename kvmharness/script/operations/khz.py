# SPDX-License-Identifier: GPL-2.0-or-later
"""The rates at which TSCs count."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvmharness.script.codec import KhzToWrite
from kvmharness.script.operations.base import OfVcpu, Operation, Resolver, no_rate, unknown_write
from kvmharness.script.value import Khz, Ppm

__all__ = ["GetTscKhz", "GetTscScale", "SetTscKhz", "SetVmTscKhz"]


@dataclass(frozen=True, kw_only=True)
class _SetsKhz(Operation):
    """A KVM_SET_TSC_KHZ, in kHz."""

    value_names = ("khz",)
    khz: KhzToWrite

    @property
    def rate_off_ppm(self) -> int | None:
        """How far off the first rate it sets the rate, in millionths."""
        return self.khz.ppm if isinstance(self.khz, Ppm) else None

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What it wrote."""
        return written

    def in_words(self) -> str:
        """With the kHz."""
        return f"{self.describe()}{_to(self.khz)}"


@dataclass(frozen=True, kw_only=True)
class SetTscKhz(_SetsKhz, OfVcpu):
    """KVM_SET_TSC_KHZ of `vcpu` (kHz); once it succeeded, a Time of this vCPU is in the new kHz.

    0 stands for the host's own kHz (kvm_arch_vcpu_ioctl). KVM may remember kHz that it refuses, and say
    them when asked (kvm_set_tsc_khz stores them before it finds that it cannot scale).
    """

    name = "set_tsc_khz"
    phrase = "KVM_SET_TSC_KHZ"

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """What it was to write has to be known."""
        return unknown_write(values, error) or no_rate(values, 0)

    def new_khz(self, values: tuple[int, ...]) -> int:
        """What it wrote."""
        return values[0]

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The kHz."""
        return (resolver.vcpu_khz(self.vcpu, self.khz),)


@dataclass(frozen=True, kw_only=True)
class GetTscKhz(OfVcpu):
    """KVM_GET_TSC_KHZ of `vcpu`; reads its kHz.

    2**31 kHz and more cannot be distinguished from an errno (kvm_vcpu_ioctl keeps the result in an int).
    """

    name = "get_tsc_khz"
    phrase = "KVM_GET_TSC_KHZ"
    value_names = ("khz",)
    value_form = "{} kHz"

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """What it read has to be a rate."""
        return no_rate(values, 1)


@dataclass(frozen=True, kw_only=True)
class GetTscScale(OfVcpu):
    """Read KVM_VCPU_TSC_SCALE of `vcpu`: the ratio by which its TSC is the host's, and the ratio's fraction
    bits.

    No release has it ("Cleaning up the KVM clock mess", 2026); ENXIO without TSC scaling.
    """

    name = "get_tsc_scale"
    phrase = "read the TSC scaling ratio"
    value_names = ("ratio", "fraction_bits")

    def form(self, place: int) -> str:
        """Each with its name."""
        return ("ratio {}", "{} fraction bits")[place]


@dataclass(frozen=True, kw_only=True)
class SetVmTscKhz(_SetsKhz):
    """KVM_SET_TSC_KHZ of the VM (kHz): what vCPUs to come start with.

    A Ppm is of what KVM_GET_TSC_KHZ says of the VM, which kernels before 5.18 do not know: the step then
    fails with what that answers. 0 stands for the host's own kHz (kvm_arch_vm_ioctl).
    """

    name = "set_vm_tsc_khz"
    phrase = "KVM_SET_TSC_KHZ of the VM"

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """What it wrote, if that is known, has to be a rate."""
        return no_rate(values, 0)

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The kHz."""
        return (resolver.vm_khz(self.khz),)


def _to(khz: Khz) -> str:
    return f" to {khz} kHz" if isinstance(khz, int) else f", {khz.ppm:+} ppm"
