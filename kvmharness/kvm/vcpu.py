# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU: its registers, its TSC, running it."""

from __future__ import annotations

import errno
import time

from kvmharness.kvm import ioctls
from kvmharness.kvm._kvm import ffi, lib
from kvmharness.kvm.descriptor import Descriptor
from kvmharness.kvm.errors import KvmError, MsrError
from kvmharness.kvm.memory import Memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# Looked up once: cffi parses a type's name anew in each ffi.new().
_MSRS = ffi.typeof("struct kvm_msrs *")
_DEVICE_ATTR = ffi.typeof("struct kvm_device_attr *")
_TIME_INFO = ffi.typeof("struct pvclock_vcpu_time_info *")

RUN_TIMEOUT_NS = 10_000_000_000


class Exit:
    """Why KVM_RUN came back. INTR is also what a guest stopped by its deadline gets."""

    UNKNOWN: int = lib.KVM_EXIT_UNKNOWN
    EXCEPTION: int = lib.KVM_EXIT_EXCEPTION
    IO: int = lib.KVM_EXIT_IO
    HYPERCALL: int = lib.KVM_EXIT_HYPERCALL
    DEBUG: int = lib.KVM_EXIT_DEBUG
    HLT: int = lib.KVM_EXIT_HLT
    MMIO: int = lib.KVM_EXIT_MMIO
    IRQ_WINDOW_OPEN: int = lib.KVM_EXIT_IRQ_WINDOW_OPEN
    SHUTDOWN: int = lib.KVM_EXIT_SHUTDOWN
    FAIL_ENTRY: int = lib.KVM_EXIT_FAIL_ENTRY
    INTR: int = lib.KVM_EXIT_INTR
    INTERNAL_ERROR: int = lib.KVM_EXIT_INTERNAL_ERROR
    SYSTEM_EVENT: int = lib.KVM_EXIT_SYSTEM_EVENT


class Vcpu(Descriptor):
    """A vCPU. KVM expects its ioctls from one thread at a time, best from the same one always."""

    def __init__(self, fd: int, number: int, mmap_size: int) -> None:
        super().__init__(fd)
        self.number = number
        self._shared: Memory | None = None
        try:
            self._shared = Memory(mmap_size, fd)
        except OSError:
            self.close()
            raise
        self._run: Any = ffi.cast("struct kvm_run *", self._shared.address)

    # Running

    def run(self, timeout_ns: int = RUN_TIMEOUT_NS) -> int:
        """KVM_RUN until the guest exits, or for `timeout_ns`: the exit reason, as in `Exit`.

        Signals that arrive meanwhile are handled and the guest goes on; a guest that has not exited
        in time is made to leave (Exit.INTR).
        """
        if self._shared is None:
            raise KvmError(ioctls.RUN, errno.EBADF)
        bracket = ffi.NULL if self._bracket_buffer is None else self._bracket_buffer.pointer
        deadline = time.monotonic_ns() + timeout_ns
        result = lib.run_vcpu(self._fd, self._run, deadline, 0, bracket)
        while result == -errno.EINTR:
            result = lib.run_vcpu(self._fd, self._run, deadline, 1, bracket)
        if result < 0:
            raise KvmError(ioctls.RUN, -result)
        return Exit.INTR if result else self._run.exit_reason

    @property
    def shared(self) -> Any:
        """The `struct kvm_run *` with the newest exit's details; ValueError once closed."""
        if self._shared is None:
            raise ValueError("the vcpu is closed")
        return self._run

    # Time

    def tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ: the rate of this vCPU's TSC, in kHz (virtual_tsc_khz)."""
        return self._ioctl(ioctls.VCPU_GET_TSC_KHZ)

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ, in kHz."""
        self._ioctl(ioctls.VCPU_SET_TSC_KHZ, khz)

    def has_tsc_offset(self) -> bool:
        """KVM_HAS_DEVICE_ATTR: whether the kernel knows KVM_VCPU_TSC_OFFSET (5.16 and later)."""
        try:
            self._ioctl_pointer(ioctls.HAS_DEVICE_ATTR, _tsc_attribute(lib.KVM_VCPU_TSC_OFFSET, ffi.NULL))
        except KvmError as error:
            # Before 5.16 a vCPU knows no attributes at all, and answers EINVAL (kvm_arch_vcpu_ioctl).
            if error.errno in (errno.ENXIO, errno.ENOTTY, errno.EINVAL):
                return False
            raise
        return True

    def tsc_offset(self) -> int:
        """KVM_GET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET: guest minus host TSC, in cycles, modulo 2**64."""
        offset: Any = ffi.new("uint64_t *")
        self._ioctl_pointer(ioctls.GET_DEVICE_ATTR, _tsc_attribute(lib.KVM_VCPU_TSC_OFFSET, offset))
        return int(offset[0])

    def set_tsc_offset(self, offset: int) -> None:
        """KVM_SET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET, in cycles, taken modulo 2**64."""
        value = ffi.new("uint64_t *", offset % 2**64)
        self._ioctl_pointer(ioctls.SET_DEVICE_ATTR, _tsc_attribute(lib.KVM_VCPU_TSC_OFFSET, value))

    def tsc_scale(self) -> tuple[int, int]:
        """KVM_GET_DEVICE_ATTR of KVM_VCPU_TSC_SCALE: the ratio of guest to host TSC, and its fraction bits.

        The guest's TSC is (host's * ratio >> bits) + offset. ENXIO without TSC scaling, and in every release.
        """
        scale: Any = ffi.new("uint64_t[2]")
        self._ioctl_pointer(ioctls.GET_DEVICE_ATTR, _tsc_attribute(lib.KVM_VCPU_TSC_SCALE, scale))
        return int(scale[0]), int(scale[1])

    def clock_guest(self) -> list[int]:
        """KVM_GET_CLOCK_GUEST: the VM's clock as a function of this vCPU's TSC, as its kvmclock page has it.

        Version, tsc_timestamp (cycles), system_time (ns), tsc_to_system_mul, tsc_shift (a signed byte, as 0
        to 255), flags. EINVAL, or ENODATA, without a masterclock; EINVAL in every release.
        """
        page: Any = ffi.new(_TIME_INFO)
        self._ioctl_pointer(ioctls.GET_CLOCK_GUEST, page)
        return [
            page.version,
            page.tsc_timestamp,
            page.system_time,
            page.tsc_to_system_mul,
            page.tsc_shift % 256,
            page.flags,
        ]

    def set_clock_guest(self, tsc_timestamp: int, system_time: int, multiplier: int, shift: int) -> None:
        """KVM_SET_CLOCK_GUEST: the VM's clock goes on as this function of this vCPU's TSC.

        Takes cycles, ns, 32 bits and a byte, each modulo that many bits; all else in the page is 0. ERANGE if
        the function is of a TSC whose rate is more than 1 kHz off the vCPU's; else as clock_guest().
        """
        page: Any = ffi.new(_TIME_INFO)
        page.tsc_timestamp, page.system_time = tsc_timestamp % 2**64, system_time % 2**64
        page.tsc_to_system_mul = multiplier % 2**32
        page.tsc_shift = (shift + 128) % 256 - 128
        self._ioctl_pointer(ioctls.SET_CLOCK_GUEST, page)

    def set_xen_vcpu_info(self, address: int) -> None:
        """KVM_XEN_VCPU_SET_ATTR: where a Xen's vCPU has its part of the page it shares, with its time."""
        self._set_xen(lib.KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, address)

    def set_xen_time_info(self, address: int) -> None:
        """KVM_XEN_VCPU_SET_ATTR: where a Xen's vCPU has its time once more."""
        self._set_xen(lib.KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO, address)

    def set_xen_runstate(self, address: int) -> None:
        """KVM_XEN_VCPU_SET_ATTR: where a Xen's vCPU finds its runstate, which KVM then writes."""
        self._set_xen(lib.KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR, address)

    def enter_xen_runstate(self, state: int) -> None:
        """KVM_XEN_VCPU_SET_ATTR: a Xen's vCPU is in this runstate from now on."""
        attribute: Any = ffi.new("struct kvm_xen_vcpu_attr *")
        attribute.type = lib.KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT
        attribute.u.runstate.state = state
        self._ioctl_pointer(ioctls.XEN_VCPU_SET_ATTR, attribute)

    def set_xen_runstate_times(self, state: int, entered: int, times: Sequence[int]) -> None:
        """KVM_XEN_VCPU_SET_ATTR: the runstate of a Xen's vCPU, the VM's clock (ns) when it entered that, and
        how long (ns) it was running, runnable, blocked and offline."""
        attribute: Any = ffi.new("struct kvm_xen_vcpu_attr *")
        attribute.type = lib.KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA
        attribute.u.runstate = (state, entered, *times)
        self._ioctl_pointer(ioctls.XEN_VCPU_SET_ATTR, attribute)

    def _set_xen(self, kind: int, address: int) -> None:
        attribute: Any = ffi.new("struct kvm_xen_vcpu_attr *")
        attribute.type, attribute.u.gpa = kind, address
        self._ioctl_pointer(ioctls.XEN_VCPU_SET_ATTR, attribute)

    def kvmclock_ctrl(self) -> None:
        """KVM_KVMCLOCK_CTRL: tell the guest that it was stopped."""
        self._ioctl(ioctls.KVMCLOCK_CTRL)

    # MSRs

    def msrs(self, indices: Sequence[int]) -> list[int]:
        """KVM_GET_MSRS: their values, in the order asked for. MsrError names one that KVM refuses."""
        msrs = _msrs([(index, 0) for index in indices])
        done = self._ioctl_pointer(ioctls.GET_MSRS, msrs)
        if done != len(indices):
            raise MsrError(ioctls.GET_MSRS, indices[done], done, len(indices))
        return [msrs.entries[place].data for place in range(done)]

    def set_msrs(self, values: Sequence[tuple[int, int]]) -> None:
        """KVM_SET_MSRS: index and value of each, in this order, in one ioctl. MsrError names one refused."""
        done = self._ioctl_pointer(ioctls.SET_MSRS, _msrs(values))
        if done != len(values):
            raise MsrError(ioctls.SET_MSRS, values[done][0], done, len(values))

    # Registers and state

    def _get(self, ioctl: ioctls.Ioctl, kind: str) -> Any:
        data = ffi.new(f"struct {kind} *")
        self._ioctl_pointer(ioctl, data)
        return data

    def regs(self) -> Any:
        """KVM_GET_REGS: a `struct kvm_regs *`."""
        return self._get(ioctls.GET_REGS, "kvm_regs")

    def set_regs(self, values: dict[str, int] | Any) -> None:
        """KVM_SET_REGS, of a `struct kvm_regs *` or of names and values (the others become 0)."""
        regs = ffi.new("struct kvm_regs *", values) if isinstance(values, dict) else values
        self._ioctl_pointer(ioctls.SET_REGS, regs)

    def sregs(self) -> Any:
        """KVM_GET_SREGS: a `struct kvm_sregs *`."""
        return self._get(ioctls.GET_SREGS, "kvm_sregs")

    def set_sregs(self, sregs: Any) -> None:
        """KVM_SET_SREGS, of a `struct kvm_sregs *`, usually a changed one of sregs()."""
        self._ioctl_pointer(ioctls.SET_SREGS, sregs)

    def set_cpuid2(self, cpuid: Any) -> None:
        """KVM_SET_CPUID2, of a `struct kvm_cpuid2 *`; before the vCPU first runs."""
        self._ioctl_pointer(ioctls.SET_CPUID2, cpuid)

    def supported_hv_cpuid(self) -> Any:
        """KVM_GET_SUPPORTED_HV_CPUID: a `struct kvm_cpuid2 *` with the leaves of a Hyper-V.

        They lie at 0x40000000, where those of supported_cpuid() say that this is KVM: a guest that is to take
        its hypervisor for a Hyper-V gets these instead. ENOTTY or EINVAL where the kernel has no Hyper-V.
        """
        return self._cpuid(ioctls.GET_SUPPORTED_HV_CPUID)

    def mp_state(self) -> int:
        """KVM_GET_MP_STATE: one of KVM_MP_STATE_*."""
        return int(self._get(ioctls.GET_MP_STATE, "kvm_mp_state").mp_state)

    def set_mp_state(self, state: int) -> None:
        """KVM_SET_MP_STATE."""
        self._ioctl_pointer(ioctls.SET_MP_STATE, ffi.new("struct kvm_mp_state *", [state]))

    def lapic(self) -> Any:
        """KVM_GET_LAPIC: a `struct kvm_lapic_state *`; needs the interrupt chip."""
        return self._get(ioctls.GET_LAPIC, "kvm_lapic_state")

    def set_lapic(self, lapic: Any) -> None:
        """KVM_SET_LAPIC, of a `struct kvm_lapic_state *`."""
        self._ioctl_pointer(ioctls.SET_LAPIC, lapic)

    def events(self) -> Any:
        """KVM_GET_VCPU_EVENTS: a `struct kvm_vcpu_events *`."""
        return self._get(ioctls.GET_VCPU_EVENTS, "kvm_vcpu_events")

    def set_events(self, events: Any) -> None:
        """KVM_SET_VCPU_EVENTS, of a `struct kvm_vcpu_events *`."""
        self._ioctl_pointer(ioctls.SET_VCPU_EVENTS, events)

    def enable_cap(self, capability: int, *args: int) -> None:
        """KVM_ENABLE_CAP on the vCPU, with up to four arguments."""
        self._ioctl_pointer(
            ioctls.VCPU_ENABLE_CAP,
            ffi.new("struct kvm_enable_cap *", {"cap": capability, "args": list(args)}),
        )

    def close(self) -> None:
        """Give the shared page and the file descriptor back; again is harmless."""
        shared, self._shared = self._shared, None
        if shared is not None:
            self._run = ffi.NULL
            shared.close()
        super().close()


def _tsc_attribute(number: int, pointer: Any) -> Any:
    attribute = ffi.new(_DEVICE_ATTR)
    attribute.group = lib.KVM_VCPU_TSC_CTRL
    attribute.attr = number
    attribute.addr = int(ffi.cast("uintptr_t", pointer))
    return attribute


def _msrs(values: Sequence[tuple[int, int]]) -> Any:
    msrs = ffi.new(_MSRS, (len(values), 0, len(values)))
    for place, (index, value) in enumerate(values):
        entry = msrs.entries[place]
        entry.index = index
        entry.data = value % 2**64
    return msrs
