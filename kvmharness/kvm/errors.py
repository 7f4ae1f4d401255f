# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong between this process and KVM, each with what usually causes it."""

import errno
import os

from kvmharness.kvm import ioctls
from kvmharness.kvm.ioctls import Ioctl

_NO_ATTRIBUTE = (
    "the kernel does not know this attribute (KVM_VCPU_TSC_OFFSET came in 5.16, no release has "
    "KVM_VCPU_TSC_SCALE), or has no TSC scaling to tell of"
)
_NO_MASTERCLOCK = "the VM has no masterclock"
_NO_CLOCK_GUEST = f"the kernel does not know this ioctl (no release does), or {_NO_MASTERCLOCK}"

# Sources: Documentation/virt/kvm/api.rst, and arch/x86/kvm/x86.c where the documentation is silent.
_CAUSES = {
    (ioctls.CREATE_VM, errno.ENOMEM): "the system is out of memory or of VMs",
    (ioctls.CREATE_VCPU, errno.EEXIST): "the VM has a vCPU with this number already",
    (ioctls.CREATE_VCPU, errno.EINVAL): "the number is beyond KVM_CAP_MAX_VCPU_ID, or the VM is full",
    (ioctls.SET_USER_MEMORY_REGION, errno.EEXIST): "the region overlaps another slot of the VM",
    (ioctls.SET_USER_MEMORY_REGION, errno.EINVAL): "address and size have to be multiples of a page",
    (ioctls.CREATE_IRQCHIP, errno.EEXIST): "the VM has an interrupt chip already",
    (ioctls.CREATE_IRQCHIP, errno.EINVAL): "the interrupt chip has to come before the first vCPU",
    (ioctls.VM_SET_TSC_KHZ, errno.EINVAL): (
        "the VM has a vCPU already, or the frequency is beyond what this host can scale to"
    ),
    (ioctls.VM_SET_TSC_KHZ, errno.ENOTTY): "the kernel is older than KVM_CAP_VM_TSC_CONTROL",
    (ioctls.VCPU_SET_TSC_KHZ, errno.EINVAL): (
        "slower than the host without TSC scaling, or the TSC is protected"
    ),
    (ioctls.VCPU_SET_TSC_KHZ, errno.EIO): "the TSC of this host is unstable",
    (ioctls.VCPU_GET_TSC_KHZ, errno.EIO): "the TSC of this host is unstable",
    (ioctls.GET_SUPPORTED_HV_CPUID, errno.EINVAL): "the kernel was built without CONFIG_KVM_HYPERV",
    (ioctls.XEN_HVM_CONFIG, errno.EINVAL): "the kernel was built without CONFIG_KVM_XEN",
    (ioctls.XEN_VCPU_SET_ATTR, errno.EINVAL): "the kernel was built without CONFIG_KVM_XEN, or a runstate's "
    "times are ahead of the VM's clock",
    (ioctls.SET_CPUID2, errno.E2BIG): "more CPUID entries than KVM takes",
    (ioctls.SET_CPUID2, errno.EINVAL): "the vCPU has run already, or an entry is inconsistent",
    (ioctls.RUN, errno.EFAULT): "the guest touched memory that is not mapped on the host",
    (ioctls.RUN, errno.ENOEXEC): "the vCPU is not initialized",
    (ioctls.GET_LAPIC, errno.EINVAL): "the VM has no interrupt chip in the kernel",
    (ioctls.SET_LAPIC, errno.EINVAL): "the VM has no interrupt chip in the kernel",
    (ioctls.SET_MP_STATE, errno.EINVAL): "this state needs an interrupt chip in the kernel",
    (ioctls.KVMCLOCK_CTRL, errno.EINVAL): "the guest has not registered a kvmclock page",
    (ioctls.SET_DEVICE_ATTR, errno.ENXIO): _NO_ATTRIBUTE,
    (ioctls.GET_DEVICE_ATTR, errno.ENXIO): _NO_ATTRIBUTE,
    (ioctls.HAS_DEVICE_ATTR, errno.ENXIO): _NO_ATTRIBUTE,
    (ioctls.GET_CLOCK_GUEST, errno.EINVAL): _NO_CLOCK_GUEST,
    (ioctls.SET_CLOCK_GUEST, errno.EINVAL): _NO_CLOCK_GUEST,
    (ioctls.GET_CLOCK_GUEST, errno.ENODATA): _NO_MASTERCLOCK,
    (ioctls.SET_CLOCK_GUEST, errno.ENODATA): _NO_MASTERCLOCK,
    (ioctls.SET_CLOCK_GUEST, errno.ERANGE): "the page is of a TSC of another rate than the vCPU's",
}
_COMMON_CAUSES = {
    errno.EBADF: "it is closed",
    errno.EIO: "it belongs to another process: KVM allows only the one that created the VM",
    errno.ENOTTY: "the kernel does not know this ioctl",
    errno.ENOMEM: "the system is out of memory",
}


class KvmError(OSError):
    """An ioctl failed: `ioctl` is its name, `errno` why, `cause` its usual cause, or ""."""

    def __init__(self, ioctl: Ioctl, number: int, detail: str = "") -> None:
        self.ioctl = ioctl.name
        self.cause = _CAUSES.get((ioctl, number)) or _COMMON_CAUSES.get(number, "")
        if number == errno.ENOTTY and ioctl.available:
            self.cause = f"the kernel does not know this ioctl (it comes with {ioctl.available})"
        name = errno.errorcode.get(number, str(number))
        text = f"{ioctl.name}{detail}: {name}, {os.strerror(number)}"
        super().__init__(number, f"{text} ({self.cause})" if self.cause else text)

    def __str__(self) -> str:
        return str(self.strerror)


class MsrError(KvmError):
    """KVM took or gave fewer MSRs than asked for; `msr` is the first one it refused."""

    def __init__(self, ioctl: Ioctl, msr: int, done: int, asked: int) -> None:
        self.msr = msr
        super().__init__(ioctl, errno.EINVAL, f": stopped at MSR {msr:#x}, after {done} of {asked}")


class KvmUnavailableError(OSError):
    """There is no /dev/kvm, or it does not open, or it is not the KVM these bindings are for."""

    def __str__(self) -> str:
        return str(self.strerror)
