# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations of a script."""

from dataclasses import dataclass
from typing import ClassVar

from kvmharness.script.value import Khz, Value

# Of the flags that GetClock reads second: KVM_CLOCK_TSC_STABLE, KVM_CLOCK_REALTIME, KVM_CLOCK_HOST_TSC.
TSC_STABLE, REALTIME, HOST_TSC = 2, 4, 8
# Of those that ReadKvmclock reads last.
PVCLOCK_TSC_STABLE_BIT, PVCLOCK_GUEST_STOPPED = 1, 2


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of a script."""

    name: ClassVar[str]
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class CreateVcpu(Operation):
    """Create vCPU `vcpu` with `guest` loaded; reads its kHz."""

    name = "create_vcpu"
    vcpu: int
    guest: str = "rdtsc-16"


@dataclass(frozen=True, kw_only=True)
class SetMsrs(Operation):
    """Write MSRs of `vcpu`, in this order, with one KVM_SET_MSRS."""

    name = "set_msrs"
    vcpu: int
    msrs: tuple[tuple[str, Value], ...]


@dataclass(frozen=True, kw_only=True)
class WriteTogether(Operation):
    """Write MSR_IA32_TSC of several vCPUs at once, to as many `values`, each from a thread of its own.

    The threads are on CPUs 0, 1 and so on, as MoveThread counts them, over and over, and wait for each other
    before their KVM_SET_MSRS. Reads for each vCPU the CPU's number in the system, and the value written.
    """

    name = "write_together"
    vcpus: tuple[int, ...]
    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class GetMsrs(Operation):
    """Read MSRs of `vcpu` with one KVM_GET_MSRS."""

    name = "get_msrs"
    vcpu: int
    indices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SetTscOffset(Operation):
    """Set KVM_VCPU_TSC_OFFSET of `vcpu`."""

    name = "set_tsc_offset"
    vcpu: int
    offset: Value


@dataclass(frozen=True, kw_only=True)
class GetTscOffset(Operation):
    """Read KVM_VCPU_TSC_OFFSET of `vcpu`."""

    name = "get_tsc_offset"
    vcpu: int


@dataclass(frozen=True, kw_only=True)
class SetTscKhz(Operation):
    """KVM_SET_TSC_KHZ of `vcpu` (kHz); once it succeeded, a Time of this vCPU is in the new kHz.

    0 stands for the host's own kHz (kvm_arch_vcpu_ioctl). KVM may remember kHz that it refuses, and say
    them when asked (kvm_set_tsc_khz stores them before it finds that it cannot scale).
    """

    name = "set_tsc_khz"
    vcpu: int
    khz: Khz


@dataclass(frozen=True, kw_only=True)
class GetTscKhz(Operation):
    """KVM_GET_TSC_KHZ of `vcpu`; reads its kHz.

    2**31 kHz and more cannot be told from an errno (kvm_vcpu_ioctl keeps the result in an int).
    """

    name = "get_tsc_khz"
    vcpu: int


@dataclass(frozen=True, kw_only=True)
class SetVmTscKhz(Operation):
    """KVM_SET_TSC_KHZ of the VM (kHz): what vCPUs to come start with.

    A Ppm is of what KVM_GET_TSC_KHZ says of the VM, which kernels before 5.18 do not know: the step then
    fails with what that answers. 0 stands for the host's own kHz (kvm_arch_vm_ioctl).
    """

    name = "set_vm_tsc_khz"
    khz: Khz


@dataclass(frozen=True, kw_only=True)
class MoveThread(Operation):
    """Move the playing thread to one of the CPUs it may use, and keep it there; reads CPU before and after.

    Number 0 is the CPU that the script began on, the others follow in the order of the system's numbers.
    EINVAL when there are fewer.
    """

    name = "move_thread"
    to: int


@dataclass(frozen=True, kw_only=True)
class Run(Operation):
    """KVM_RUN of `vcpu` until its guest exits, or for `ns`; reads the guest's samples, newest last."""

    name = "run"
    vcpu: int
    ns: int = 10_000_000_000


@dataclass(frozen=True, kw_only=True)
class RunTogether(Operation):
    """KVM_RUN of several vCPUs at once for `ns`, each in a thread of its own on a CPU of its own.

    The first on CPU 0 as MoveThread counts them, the next on CPU 1 and so on. Their guests, "warp-64", hold
    their TSCs against each other's. Reads for each vCPU: its CPU's number in the system, how often it read
    its TSC right after another of them had, how often that was less (a warp), by how many cycles at most.
    EINVAL, and nothing runs, with fewer CPUs than vCPUs, or another guest.
    """

    name = "run_together"
    vcpus: tuple[int, ...]
    ns: int = 100_000_000


@dataclass(frozen=True, kw_only=True)
class GuestWrite(Operation):
    """Have the guest of `vcpu` execute WRMSR of `msr`; reads its TSC just before and just after.

    KVM_RUN until the guest exits, or for `ns`.
    EINVAL, and nothing runs, unless the vCPU was created with the guest "wrmsr-16".
    """

    name = "guest_write"
    vcpu: int
    msr: str
    value: Value
    ns: int = Run.ns


@dataclass(frozen=True, kw_only=True)
class GetClock(Operation):
    """KVM_GET_CLOCK of the VM; reads clock (ns) and flags.

    With both KVM_CLOCK_REALTIME and KVM_CLOCK_HOST_TSC (5.16 and later, as long as there is a masterclock)
    also the host's real time (ns) and TSC of that moment.
    """

    name = "get_clock"


@dataclass(frozen=True, kw_only=True)
class SetClock(Operation):
    """KVM_SET_CLOCK of the VM to `clock` (ns).

    With a `realtime` (ns) also KVM_CLOCK_REALTIME: the time that has passed since then is added. A Time is
    its ns.
    """

    name = "set_clock"
    clock: Value
    realtime: Value | None = None


@dataclass(frozen=True, kw_only=True)
class KvmclockCtrl(Operation):
    """KVM_KVMCLOCK_CTRL of `vcpu`: its guest is to learn that it was stopped."""

    name = "kvmclock_ctrl"
    vcpu: int


@dataclass(frozen=True, kw_only=True)
class ReadKvmclock(Operation):
    """Read the kvmclock page of `vcpu` out of the guest's memory, where `layout.kvmclock_address` has it.

    Reads version, tsc_timestamp (cycles), system_time (ns), tsc_to_system_mul, tsc_shift (a signed byte, as
    0 to 255) and flags. All are 0 unless MSR SYSTEM_TIME was written to that address plus 1, by whomever,
    and the vCPU has run since.
    """

    name = "read_kvmclock"
    vcpu: int


@dataclass(frozen=True, kw_only=True)
class Sleep(Operation):
    """Wait `ns` ns, or a little longer."""

    name = "sleep"
    ns: int


OPERATIONS: dict[str, type[Operation]] = {
    operation.name: operation
    for operation in (
        CreateVcpu,
        SetMsrs,
        WriteTogether,
        GetMsrs,
        SetTscOffset,
        GetTscOffset,
        SetTscKhz,
        GetTscKhz,
        SetVmTscKhz,
        MoveThread,
        Run,
        RunTogether,
        GuestWrite,
        GetClock,
        SetClock,
        KvmclockCtrl,
        ReadKvmclock,
        Sleep,
    )
}

Script = tuple[Operation, ...]


def vcpus_of(operation: Operation) -> tuple[int, ...]:
    """The vCPUs that an operation is about."""
    if isinstance(operation, RunTogether | WriteTogether):
        return operation.vcpus
    vcpu: int | None = getattr(operation, "vcpu", None)
    return () if vcpu is None else (vcpu,)
