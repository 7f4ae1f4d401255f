# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the host's KVM lets its guests have guests of their own, found by what it offers them."""

from kvmharness.kvm import KvmError, KvmUnavailableError, System

# What a vendor module needs of its CPU: its name in /proc/cpuinfo, then leaf, register and bit of CPUID
# (AMD APM vol. 3, CPUID Fn8000_0001_ECX; Intel SDM vol. 2, CPUID.01H).
_NEEDS = {"kvm_amd": ("svm", 0x80000001, "ecx", 2), "kvm_intel": ("vmx", 1, "ecx", 5)}


def missing(vendor_module: str) -> str:
    """What the host's KVM lacks to run this module in a guest, as a noun; "" if nothing."""
    flag, leaf, register, bit = _NEEDS[vendor_module]
    try:
        with System() as system:
            cpuid = system.supported_cpuid()
    except (KvmUnavailableError, KvmError) as error:
        return f"the host's KVM: {error}"
    entries = [cpuid.entries[index] for index in range(cpuid.nent)]
    if any(each.function == leaf and getattr(each, register) >> bit & 1 for each in entries):
        return ""
    return f"nested virtualization: the host's KVM offers its guests no {flag} (KVM_GET_SUPPORTED_CPUID)"
