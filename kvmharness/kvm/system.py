# SPDX-License-Identifier: GPL-2.0-or-later
"""/dev/kvm: what this kernel's KVM offers, and where VMs come from."""

from __future__ import annotations

import errno
import os

from kvmharness.kvm import ioctls
from kvmharness.kvm._kvm import ffi, lib
from kvmharness.kvm.descriptor import Descriptor
from kvmharness.kvm.errors import KvmError, KvmUnavailableError
from kvmharness.kvm.vm import Vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OPEN_CAUSES = {
    errno.ENOENT: "there is no {path}: load kvm_amd or kvm_intel, or use the lab (kvmharness lab run)",
    errno.EACCES: "no permission to open {path}: join its group, usually kvm",
    errno.EPERM: "no permission to open {path}: the system forbids it, even to this user",
    errno.ENODEV: "{path} has no driver: load kvm_amd or kvm_intel",
    errno.ENXIO: "{path} has no driver: load kvm_amd or kvm_intel",
}


class System(Descriptor):
    """An open /dev/kvm.

        with System() as system, system.create_vm() as vm:
            vcpu = vm.create_vcpu(0)
            print(vcpu.tsc_khz())

    KvmUnavailableError when it does not open, or speaks another API than version 12, the only one since
    Linux 2.6.22.
    """

    def __init__(self, path: str = "/dev/kvm") -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            number = error.errno or 0
            cause = _OPEN_CAUSES.get(number, "{path} does not open: " + os.strerror(number))
            raise KvmUnavailableError(number, cause.format(path=path)) from None
        super().__init__(fd)
        try:
            version = self.api_version()
        except KvmError:
            version = None
        if version != lib.KVM_API_VERSION:
            self.close()
            raise KvmUnavailableError(
                errno.ENOTTY, f"{path} is not a KVM of API version {lib.KVM_API_VERSION}"
            )

    def api_version(self) -> int:
        """KVM_GET_API_VERSION: 12."""
        return self._ioctl(ioctls.GET_API_VERSION)

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION: 0 when KVM lacks the capability, else 1 or its extent."""
        return self._ioctl(ioctls.CHECK_EXTENSION, capability)

    def vcpu_mmap_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE: bytes a vCPU shares with userspace."""
        return self._ioctl(ioctls.GET_VCPU_MMAP_SIZE)

    def supported_cpuid(self) -> Any:
        """KVM_GET_SUPPORTED_CPUID: a `struct kvm_cpuid2 *` fit for Vcpu.set_cpuid2()."""
        return self._cpuid(ioctls.GET_SUPPORTED_CPUID)

    def msr_indices(self) -> list[int]:
        """KVM_GET_MSR_INDEX_LIST: the MSRs that a VMM saves and restores."""
        count = 0
        while True:
            msr_list = ffi.new("struct kvm_msr_list *", {"nmsrs": count, "indices": count})
            try:
                self._ioctl_pointer(ioctls.GET_MSR_INDEX_LIST, msr_list)
            except KvmError as error:
                if error.errno != errno.E2BIG:
                    raise
                count = msr_list.nmsrs
            else:
                return list(msr_list.indices[0 : msr_list.nmsrs])

    def create_vm(self) -> Vm:
        """KVM_CREATE_VM: a VM without memory and vCPUs."""
        mmap_size = self.vcpu_mmap_size()
        while True:
            try:
                return Vm(self._ioctl(ioctls.CREATE_VM), mmap_size)
            except KvmError as error:
                # The timer of an earlier run is left armed (cdefs/run.c), and may go off meanwhile.
                if error.errno != errno.EINTR:
                    raise
