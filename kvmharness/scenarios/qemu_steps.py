# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU does to its vCPUs' TSCs, recorded from QEMU 7.2: the order of its ioctls, and the time between.

QEMU puts a vCPU's state in one KVM_SET_MSRS, with TSC_ADJUST before TSC and the old kvmclock MSRs after
it (kvm_put_msrs), one vCPU after the other. Where the whole state is put, at the start and after loadvm,
KVM_SET_TSC_KHZ with the rate there is comes before it (KVM_PUT_FULL_STATE). A reset puts a TSC of 1, because
a 0 would be a request to synchronize (QEMU commit 5286c3662294).
"""

from kvmharness.scenarios.steps import MS
from kvmharness.script import CreateVcpu, GetMsrs, Ppm, Run, Script, SetMsrs, SetTscKhz, Sleep, Time, Value

# How far the value saved of vCPU 1 is behind what vCPU 0 has by the time it is written (median of 12).
SKEW = Time(-144_000)


def put(vcpu: int, tsc: Value, label: str) -> SetMsrs:
    """A vCPU's time: kvm_put_msrs()."""
    msrs = (("TSC_ADJUST", 0), ("TSC", tsc), ("SYSTEM_TIME_OLD", 0), ("WALL_CLOCK_OLD", 0))
    return SetMsrs(vcpu=vcpu, msrs=msrs, label=label)


def put_full(vcpu: int, tsc: Value, label: str, ppm: int = 0) -> Script:
    """The same after the vCPU's rate is set; `ppm` is how far that is from the rate at its creation."""
    return (SetTscKhz(vcpu=vcpu, khz=Ppm(ppm)), put(vcpu, tsc, label))


def reset(vcpus: int, label: str) -> Script:
    """cpu_synchronize_all_post_reset(): the label of vCPU n ends in -n."""
    return tuple(put(vcpu, 1, f"{label}-{vcpu}") for vcpu in range(vcpus))


def start(vcpus: int) -> Script:
    """From the first vCPU's creation to where the VM could run: a TSC of 0 to each, 4 ms later 1 to each."""
    return (
        *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(vcpus)),
        Sleep(ns=17 * MS),
        *(step for vcpu in range(vcpus) for step in put_full(vcpu, 0, f"zero-{vcpu}")),
        Sleep(ns=3 * MS),
        *(GetMsrs(vcpu=vcpu, indices=("TSC",), label=f"tsc-new-{vcpu}") for vcpu in range(vcpus)),
        *reset(vcpus, "one"),
    )


def load(first: Value, second: Value) -> Script:
    """cpu_synchronize_all_post_init(): the saved TSCs of two vCPUs."""
    return (*put_full(0, first, "load-0"), *put_full(1, second, "load-1"))


def run(vcpus: int, label: str = "ran") -> Script:
    """Every vCPU runs for a moment; the label of vCPU n ends in -n."""
    return tuple(Run(vcpu=vcpu, label=f"{label}-{vcpu}") for vcpu in range(vcpus))
