# SPDX-License-Identifier: GPL-2.0-or-later
"""The time that a guest reads whose VM is a Xen's: that of its vCPUs, and the wall clock."""

from dataclasses import dataclass

from kvmharness.script.operations.base import OfVcpu, Operation
from kvmharness.script.operations.clock import PageReading

__all__ = ["ReadXenTime", "ReadXenVcpuInfo", "ReadXenWallClock", "SetXen", "SetXenTime"]


@dataclass(frozen=True, kw_only=True)
class SetXen(Operation):
    """KVM_XEN_HVM_CONFIG of the VM, and KVM_XEN_HVM_SET_ATTR of the page that it shares with its guest.

    KVM then writes the wall clock. EINVAL or ENOTTY where the kernel has no Xen.
    """

    name = "set_xen"
    phrase = "make the VM a Xen's"


@dataclass(frozen=True, kw_only=True)
class SetXenTime(OfVcpu):
    """KVM_XEN_VCPU_SET_ATTR of `vcpu`: its vcpu_info and its time info, where `layout` has them.

    KVM then writes the vCPU's time into both. EINVAL where the kernel has no Xen.
    """

    name = "set_xen_time"
    phrase = "switch on Xen's time"


@dataclass(frozen=True, kw_only=True)
class ReadXenTime(PageReading):
    """Read the time info of `vcpu` out of the guest's memory: the values that ReadKvmclock has."""

    name = "read_xen_time"
    phrase = "read Xen's time info"


@dataclass(frozen=True, kw_only=True)
class ReadXenVcpuInfo(PageReading):
    """Read the time in the vcpu_info of `vcpu` out of the guest's memory, as ReadXenTime does."""

    name = "read_xen_vcpu_info"
    phrase = "read the time in Xen's vcpu_info"


@dataclass(frozen=True, kw_only=True)
class ReadXenWallClock(Operation):
    """Read the wall clock out of the page that a Xen shares with its guest.

    Reads its version, and the real time (ns) at which the VM's clock was 0. Both are 0 before SetXen.
    """

    name = "read_xen_wall_clock"
    phrase = "read Xen's wall clock"
    value_names = ("wall_version", "wall_clock")

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """Each with its name."""
        return [f"version {values[0]}", f"{values[1]} ns"] if values else []

    def effect(self, values: tuple[int, ...]) -> str:
        """Whether there is one."""
        return "written" if values and values[0] else "empty"
