# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM: memory, vCPUs, interrupt chip, clock."""

from __future__ import annotations

import os

from kvmharness.kvm import ioctls
from kvmharness.kvm._kvm import ffi, lib
from kvmharness.kvm.descriptor import Descriptor
from kvmharness.kvm.memory import Memory
from kvmharness.kvm.vcpu import Vcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _hold_number(fd: int) -> None:
    """Close the file of a descriptor, which stays taken by another until that has been given back.

    KVM names a VM's folder in debugfs by the number (kvm_create_vm_debugfs). close() frees the number before
    the VM is gone, so another thread's new VM would get it, have no folder, and the kernel would warn of a
    "duplicate directory". dup2() frees nothing, and returns when the VM is gone.
    """
    try:
        holder = os.eventfd(0, os.EFD_CLOEXEC)
    except OSError:  # too many files, for one: then only the folder may be missing
        return
    try:
        os.dup2(holder, fd, inheritable=False)
    finally:
        os.close(holder)


class ClockData:
    """A VM's clock (struct kvm_clock_data).

    `clock` and `realtime` in ns, `host_tsc` in cycles; `flags` says what holds: KVM_CLOCK_TSC_STABLE
    (the masterclock is in use), KVM_CLOCK_REALTIME and KVM_CLOCK_HOST_TSC (those fields are valid).
    """

    def __init__(self, data: Any) -> None:
        self.clock: int = data.clock
        self.flags: int = data.flags
        self.realtime: int = data.realtime
        self.host_tsc: int = data.host_tsc


class Vm(Descriptor):
    """A VM; closing it closes its vCPUs and gives its memory back."""

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        super().__init__(fd)
        self._vcpu_mmap_size = vcpu_mmap_size
        self.vcpus: list[Vcpu] = []
        self.memory: list[Memory] = []

    def create_vcpu(self, number: int) -> Vcpu:
        """KVM_CREATE_VCPU: the vCPU, whose TSC KVM has then set to 0 (kvm_arch_vcpu_postcreate)."""
        vcpu = Vcpu(self._ioctl(ioctls.CREATE_VCPU, number), number, self._vcpu_mmap_size)
        self.vcpus.append(vcpu)
        if self._bracket_buffer is not None:
            vcpu.use_brackets(self._bracket_buffer)
        return vcpu

    def add_memory(self, size: int, guest_address: int = 0) -> Memory:
        """KVM_SET_USER_MEMORY_REGION: `size` zeroed bytes at a guest physical address, in the next slot."""
        memory = Memory(size)
        region = ffi.new("struct kvm_userspace_memory_region *")
        region.slot = len(self.memory)
        region.guest_phys_addr = guest_address
        region.memory_size = size
        region.userspace_addr = int(ffi.cast("uintptr_t", memory.address))
        try:
            self._ioctl_pointer(ioctls.SET_USER_MEMORY_REGION, region)
        except OSError:
            memory.close()
            raise
        self.memory.append(memory)
        return memory

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION on the VM (KVM_CAP_CHECK_EXTENSION_VM): 0 when it lacks the capability."""
        return self._ioctl(ioctls.CHECK_EXTENSION, capability)

    def enable_cap(self, capability: int, *args: int) -> None:
        """KVM_ENABLE_CAP on the VM, with up to four arguments."""
        self._ioctl_pointer(
            ioctls.VM_ENABLE_CAP, ffi.new("struct kvm_enable_cap *", {"cap": capability, "args": list(args)})
        )

    def set_tss_address(self, address: int) -> None:
        """KVM_SET_TSS_ADDR: three pages that kvm_intel needs for real mode without unrestricted guest."""
        self._ioctl(ioctls.SET_TSS_ADDR, address)

    def set_identity_map_address(self, address: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR: one page for the same purpose; before the first vCPU."""
        self._ioctl_pointer(ioctls.SET_IDENTITY_MAP_ADDR, ffi.new("uint64_t *", address))

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP: PIC, IOAPIC and local APICs in the kernel; before the first vCPU."""
        self._ioctl(ioctls.CREATE_IRQCHIP)

    def tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ on the VM: what its vCPUs start with, in kHz."""
        return self._ioctl(ioctls.VM_GET_TSC_KHZ)

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ on the VM, for the vCPUs to come, in kHz."""
        self._ioctl(ioctls.VM_SET_TSC_KHZ, khz)

    def clock(self) -> ClockData:
        """KVM_GET_CLOCK. Its flags lag behind the vCPUs' TSCs until one of them runs."""
        data = ffi.new("struct kvm_clock_data *")
        self._ioctl_pointer(ioctls.GET_CLOCK, data)
        return ClockData(data)

    def set_clock(self, clock: int, flags: int = 0, realtime: int = 0) -> None:
        """KVM_SET_CLOCK: `clock` in ns; with KVM_CLOCK_REALTIME the time since `realtime` (ns) is added."""
        self._ioctl_pointer(
            ioctls.SET_CLOCK,
            ffi.new("struct kvm_clock_data *", {"clock": clock, "flags": flags, "realtime": realtime}),
        )

    def set_xen_config(self, msr: int) -> None:
        """KVM_XEN_HVM_CONFIG: the VM is a Xen's, whose guest asks for hypercalls by a write of `msr`."""
        config = {"flags": lib.KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL, "msr": msr}
        self._ioctl_pointer(ioctls.XEN_HVM_CONFIG, ffi.new("struct kvm_xen_hvm_config *", config))

    def set_xen_shared_info(self, address: int) -> None:
        """KVM_XEN_HVM_SET_ATTR: where the page is that a Xen shares; KVM writes its wall clock."""
        attribute = ffi.new("struct kvm_xen_hvm_attr *")
        attribute.type = lib.KVM_XEN_ATTR_TYPE_SHARED_INFO
        attribute.u.shared_info.gfn = address >> 12
        self._ioctl_pointer(ioctls.XEN_HVM_SET_ATTR, attribute)

    def close(self) -> None:
        """Give back vCPUs, VM and memory, in this order; again is harmless."""
        for vcpu in self.vcpus:
            vcpu.close()
        if not self.closed:
            _hold_number(self.fileno())
        super().close()
        for memory in self.memory:
            memory.close()
