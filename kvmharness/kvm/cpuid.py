# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPUID that a vCPU is given."""

from __future__ import annotations

from kvmharness.kvm._kvm import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Where the leaves begin by which a hypervisor says what it is, and how many there are to each.
_HYPERVISOR, _LEAVES = 0x40000000, 0x100


_EXTENDED, _SVM = 0x80000001, 1 << 2  # AMD's manual vol. 3, "Function 8000_0001h", ECX
_FEATURES, _VMX = 1, 1 << 5  # Intel SDM vol. 2, CPUID, leaf 1, ECX


def offers_svm(cpuid: Any) -> bool:
    """Whether a `struct kvm_cpuid2 *` offers a vCPU SVM, to have guests of its own."""
    return any(each.function == _EXTENDED and each.ecx & _SVM for each in cpuid.entries[0 : cpuid.nent])


def offers_vmx(cpuid: Any) -> bool:
    """Whether a `struct kvm_cpuid2 *` offers a vCPU VMX, to have guests of its own."""
    return any(each.function == _FEATURES and each.ecx & _VMX for each in cpuid.entries[0 : cpuid.nent])


def of_hyperv(own: Any, hyperv: Any) -> Any:
    """A `struct kvm_cpuid2 *` by which the hypervisor is a Hyper-V.

    `own` is what System.supported_cpuid() has, whose leaves at 0x40000000 say that it is KVM, `hyperv` what
    Vcpu.supported_hv_cpuid() has.
    """
    kept = [
        each for each in own.entries[0 : own.nent] if not _HYPERVISOR <= each.function < _HYPERVISOR + _LEAVES
    ]
    entries = kept + list(hyperv.entries[0 : hyperv.nent])
    cpuid = ffi.new("struct kvm_cpuid2 *", {"nent": len(entries), "entries": len(entries)})
    for place, entry in enumerate(entries):
        cpuid.entries[place] = entry
    return cpuid
