# SPDX-License-Identifier: GPL-2.0-or-later
"""Frequencies: the rate a guest's TSC counts at, of a vCPU and of the VM, and what it does to writes.

A rate within kvm.tsc_tolerance_ppm (250) of the host's is left alone. Another one the hardware scales, if it
can; if not, KVM advances a faster one in software, and a slower one is refused.
"""

from kvmharness.contract import Claim, EndClaim, OffsetClaim, Promptly, RateClaim, SameClaim
from kvmharness.scenarios.qemu_steps import put_full, reset
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, READ_ONE, count_together, look_at, write
from kvmharness.script import (
    CreateVcpu,
    GetMsrs,
    GetTscKhz,
    Ppm,
    Read,
    Run,
    Script,
    SetTscKhz,
    SetTscOffset,
    SetVmTscKhz,
    Sleep,
    Time,
)

_API = "Documentation/virt/kvm/api.rst, KVM_SET_TSC_KHZ"
_WRONG_RATE = (
    "A guest that was migrated from a host with another TSC finds its own running at the wrong rate."
)
_APART = "The vCPUs of a VM with a rate of its own have TSCs that are apart."

_TOLERATED = Ppm(200)
_QEMU_PPM = 63
_HALF = Ppm(-500_000)
_DOUBLE = Ppm(1_000_000)


def _rate_set(ppm: Ppm) -> Script:
    """A vCPU gets a rate, then a TSC, and its guest runs twice, 100 ms apart."""
    return (
        CreateVcpu(vcpu=0, label="create"),
        SetTscKhz(vcpu=0, khz=ppm, label="set"),
        GetTscKhz(vcpu=0, label="khz"),
        write(0, Time(100_000 * MS), "write"),
        Run(vcpu=0, label="guest"),
        Sleep(ns=100 * MS),
        Run(vcpu=0, label="guest-later"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-later"),
    )


def _counts_at_it(guest: str) -> Claim:
    text = f"from the write to {guest} the TSC counts at the rate that was set"
    return RateClaim(text=text, first="write", last=guest, khz="set", instead="create")


_SAYS_SO = SameClaim(text="KVM_GET_TSC_KHZ says the rate that was set", seen="khz", expected="set")

SCENARIOS = (
    Scenario(
        name="khz-tolerated",
        contract="A rate 200 ppm above the host's is accepted, and the vCPU's TSC continues as before.",
        source="kvm_set_tsc_khz() and the module's parameter tsc_tolerance_ppm, 250",
        consequence="VMs cannot move between hosts of one model, whose rates differ by some millionths.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            SetTscKhz(vcpu=0, khz=_TOLERATED, label="set"),
            GetTscKhz(vcpu=0, label="khz"),
            *READ_ONE,
        ),
        claims=(
            EndClaim(text="the rate is accepted", seen="set"),
            _SAYS_SO,
            OffsetClaim(
                text="the TSC continues as before", seen=("offset", "tsc", "guest"), expected=("tsc-new",)
            ),
        ),
    ),
    Scenario(
        name="khz-half",
        contract="A guest that is to count half as fast as the host does so from the TSC that was written.",
        source=f"{_API}; TSC scaling (KVM_CAP_TSC_CONTROL)",
        consequence=_WRONG_RATE,
        needs=("tsc-scaling",),
        script=_rate_set(_HALF),
        claims=(_SAYS_SO, _counts_at_it("guest-later"), _counts_at_it("tsc-later")),
    ),
    Scenario(
        name="khz-double",
        contract=(
            "A guest that is to count twice as fast as the host does so from the TSC that was written, "
            "whether the hardware scales it or KVM catches up at each run."
        ),
        source=(
            f"{_API}; set_tsc_khz(). With a masterclock KVM advances it too little: 'KVM: x86: Fix software "
            "TSC upscaling in kvm_update_guest_time()', David Woodhouse, May 2024, unmerged"
        ),
        consequence=_WRONG_RATE,
        needs=("tsc-write",),
        script=_rate_set(_DOUBLE),
        claims=(_SAYS_SO, _counts_at_it("guest-later")),
    ),
    Scenario(
        name="khz-double-parted",
        contract=(
            "A guest that is to count twice as fast as the host does so beside a vCPU that does not, without "
            "a masterclock."
        ),
        source=(
            f"{_API}; set_tsc_khz() and vcpu_enter_guest(): tsc_always_catchup has it advanced at each run"
        ),
        consequence=_WRONG_RATE,
        needs=("tsc-write",),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            SetTscKhz(vcpu=1, khz=_DOUBLE, label="set"),
            write(1, Time(100_000 * MS), "write"),
            Run(vcpu=0, label="guest-0"),
            Run(vcpu=1, label="guest"),
            Sleep(ns=100 * MS),
            Run(vcpu=1, label="guest-later"),
        ),
        claims=(
            RateClaim(
                text="it counts at the rate that was set",
                first="write",
                last="guest-later",
                khz="set",
                instead="create-1",
            ),
        ),
    ),
    Scenario(
        name="khz-double-read-by-host",
        contract="Without TSC scaling, too, userspace reads the TSC of a faster guest as it is by now.",
        source=(
            f"{_API}; KVM moves such a guest's TSC only when it runs (kvm_guest_time_update), and reads it "
            "as it was"
        ),
        consequence="A VM that is saved while it is stopped loses the time since it last ran.",
        needs=("tsc-write",),
        script=(*_rate_set(_DOUBLE)[:-2], GetMsrs(vcpu=0, indices=("TSC",), label="tsc-later")),
        claims=(_counts_at_it("tsc-later"),),
        lacks=("tsc-scaling",),
    ),
    Scenario(
        name="khz-refused",
        contract="A rate that KVM refuses changes nothing: KVM_GET_TSC_KHZ says what it said before.",
        source="kvm_set_tsc_khz() stores the rate before it finds that it cannot have it",
        consequence=(
            "A VMM that asked in vain reads a rate that its guest does not have, and saves it; and the "
            "vCPU's TSC no longer matches the others'."
        ),
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetTscKhz(vcpu=0, label="khz-before"),
            SetTscKhz(vcpu=0, khz=_HALF, label="set"),
            GetTscKhz(vcpu=0, label="khz-after"),
            *READ_ONE,
        ),
        claims=(
            EndClaim(text="a slower rate is refused", seen="set", errors=("EINVAL",)),
            SameClaim(
                text="KVM_GET_TSC_KHZ says what it said before", seen="khz-after", expected="khz-before"
            ),
        ),
        lacks=("tsc-scaling",),
    ),
    Scenario(
        name="khz-change-then-write",
        contract=(
            "A vCPU that got another rate, and then a TSC 0.3 s ahead of another vCPU's, continues from that."
        ),
        source="kvm_synchronize_tsc(): only vCPUs of the same virtual_tsc_khz are synchronized",
        consequence="A vCPU would be given the offset of one that counts at another rate.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            SetTscKhz(vcpu=1, khz=_TOLERATED, label="set"),
            write(0, Time(100_000 * MS), "write-0"),
            write(1, Time(100_300 * MS), "write-1"),
            *look_at(2),
        ),
        claims=(
            EndClaim(text="the rate is accepted", seen="set"),
            OffsetClaim(
                text="vCPU 1 continues from the TSC that was written to it",
                seen=("offset-1", "guest-1"),
                expected=("write-1",),
                instead="write-0",
                otherwise="it was given the offset of vCPU 0",
            ),
        ),
    ),
    Scenario(
        name="khz-restore-pair",
        contract=(
            "Two vCPUs that are restored from a host of half the rate, 0.6 s apart, continue from the first "
            "one's saved TSC, at their own rate, and together."
        ),
        source=(
            f"{_API}; QEMU, Firecracker and Cloud Hypervisor set the rate of the source before they write "
            "TSCs"
        ),
        consequence=_WRONG_RATE,
        needs=("tsc-write", "tsc-offset", "tsc-scaling"),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            *(SetTscKhz(vcpu=vcpu, khz=_HALF, label=f"set-{vcpu}") for vcpu in range(2)),
            write(0, Time(100_000 * MS), "write-0"),
            Sleep(ns=600 * MS),
            write(1, Time(100_000 * MS), "write-1"),
            *look_at(2),
        ),
        claims=(
            RateClaim(
                text="vCPU 0 continues at its rate",
                first="write-0",
                last="guest-0",
                khz="set-0",
                instead="create-0",
            ),
            RateClaim(
                text="vCPU 1 continues together with vCPU 0",
                first="write-0",
                last="guest-1",
                khz="set-1",
                instead="create-0",
            ),
            SameClaim(text="both have one offset", seen="offset-1", expected="offset-0"),
        ),
        promptly=Promptly("write-0", "write-1", 900 * MS),
    ),
    Scenario(
        name="khz-window",
        contract=(
            "A vCPU of half the host's rate that is written 1.9 s of its own cycles ahead of another "
            "continues from its own value."
        ),
        source=(
            "kvm_synchronize_tsc(): the second within which a write synchronizes is one of virtual_tsc_khz"
        ),
        consequence="Which writes are overridden depends on the host that a guest happens to run on.",
        needs=("tsc-write", "tsc-offset", "tsc-scaling"),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            *(SetTscKhz(vcpu=vcpu, khz=_HALF, label=f"set-{vcpu}") for vcpu in range(2)),
            write(0, Time(100_000 * MS), "write-0"),
            write(1, Time(101_900 * MS), "write-1"),
            Sleep(ns=50 * MS),
            *look_at(2),
        ),
        claims=(
            RateClaim(
                text="vCPU 0 continues at its rate",
                first="write-0",
                last="guest-0",
                khz="set-0",
                instead="create-0",
            ),
            RateClaim(
                text="vCPU 1 continues at its rate",
                first="write-1",
                last="guest-1",
                khz="set-1",
                instead="create-0",
            ),
        ),
        promptly=Promptly("write-0", "write-1"),
    ),
    Scenario(
        name="khz-offset-then-write",
        contract=(
            "A vCPU of half the host's rate that is written the TSC of another one, whose offset was set, "
            "counts together with it."
        ),
        source=(
            "kvm_arch_tsc_set_attr(): what a write is compared with is the guest's TSC, at the guest's rate"
        ),
        consequence=_APART,
        needs=("tsc-write", "tsc-offset", "tsc-scaling"),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            *(SetTscKhz(vcpu=vcpu, khz=_HALF, label=f"set-{vcpu}") for vcpu in range(2)),
            SetTscOffset(vcpu=0, offset=Time(100_000 * MS), label="offset-set"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
            write(1, Read("tsc"), "write-1"),
            *look_at(2),
        ),
        claims=(SameClaim(text="both have one offset", seen="offset-1", expected="offset-0"),),
    ),
    Scenario(
        name="khz-too-fast",
        contract="A rate beyond all that the hardware can scale to is refused, and changes nothing.",
        source=f"{_API}; kvm_arch_vcpu_ioctl() and max_guest_tsc_khz",
        consequence="A guest gets a rate that nobody asked for.",
        needs=("tsc-write", "tsc-scaling"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetTscKhz(vcpu=0, label="khz-before"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            SetTscKhz(vcpu=0, khz=2**32 - 1, label="set"),
            GetTscKhz(vcpu=0, label="khz-after"),
            *READ_ONE,
        ),
        claims=(
            EndClaim(text="the rate is refused", seen="set", errors=("EINVAL",)),
            SameClaim(text="the vCPU keeps its rate", seen="khz-after", expected="khz-before"),
            OffsetClaim(
                text="its TSC continues as before", seen=("offset", "tsc", "guest"), expected=("tsc-new",)
            ),
        ),
    ),
    Scenario(
        name="vm-khz",
        contract=(
            "vCPUs that are created after a KVM_SET_TSC_KHZ of the VM have that rate, and count together "
            "once they are restored."
        ),
        source=f"{_API}, as a VM ioctl; KVM selftest tsc_scaling_sync",
        consequence=_APART,
        needs=("tsc-write", "vm-tsc-khz"),
        script=(
            SetVmTscKhz(khz=_TOLERATED, label="vm-khz"),
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            *(GetTscKhz(vcpu=vcpu, label=f"khz-{vcpu}") for vcpu in range(2)),
            write(0, Time(100_000 * MS), "write-0"),
            write(1, Time(99_990 * MS), "write-1"),
            *look_at(2),
        ),
        claims=(
            *(
                SameClaim(text=f"vCPU {vcpu} has the VM's rate", seen=f"khz-{vcpu}", expected="vm-khz")
                for vcpu in range(2)
            ),
            *count_together(2, "write", first="write-0"),
        ),
    ),
    Scenario(
        name="vm-khz-after-vcpu",
        contract=(
            "A KVM_SET_TSC_KHZ of the VM does not change a vCPU that is already there, whether it is "
            "accepted or refused."
        ),
        source=f"{_API}: for vCPUs created later; since Linux 6.17 only before the first",
        consequence=(
            "A running guest's TSC changes its rate, or its value, when somebody prepares for another vCPU."
        ),
        needs=("tsc-write", "vm-tsc-khz"),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            GetTscKhz(vcpu=0, label="khz-before"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            SetVmTscKhz(khz=_TOLERATED, label="vm-khz"),
            GetTscKhz(vcpu=0, label="khz-after"),
            *READ_ONE,
        ),
        claims=(
            EndClaim(text="it is accepted for later vCPUs, or refused", seen="vm-khz", errors=("", "EINVAL")),
            SameClaim(text="the vCPU keeps its rate", seen="khz-after", expected="khz-before"),
            OffsetClaim(
                text="its TSC continues as before", seen=("offset", "tsc", "guest"), expected=("tsc-new",)
            ),
        ),
    ),
    Scenario(
        name="vm-khz-unservable",
        contract=(
            "A vCPU of a VM whose rate KVM cannot provide counts from its creation, if it is created at all."
        ),
        source=(
            f"{_API}, as a VM ioctl; kvm_arch_vcpu_create() ignores that kvm_set_tsc_khz() fails, and from "
            "then on counts as if the host's TSC were 0"
        ),
        consequence=(
            "A guest on a host too fast for it starts with the host's own TSC, and at the host's rate."
        ),
        needs=("tsc-write", "vm-tsc-khz"),
        script=(
            SetVmTscKhz(khz=_HALF, label="vm-khz"),
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
            Run(vcpu=0, label="guest"),
        ),
        claims=(
            OffsetClaim(
                text="the vCPU counts from its creation", seen=("tsc", "guest"), expected=("create",)
            ),
        ),
        lacks=("tsc-scaling",),
    ),
    Scenario(
        name="qemu-tsc-frequency",
        contract="The vCPUs of a VM that QEMU starts with a tsc-frequency of its own count together.",
        source=(
            "recorded from QEMU 7.2 with tsc-frequency 63 ppm above the host's: the rate is set "
            "after each KVM_CREATE_VCPU"
        ),
        consequence=_APART,
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            SetTscKhz(vcpu=0, khz=Ppm(_QEMU_PPM), label="set-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            SetTscKhz(vcpu=1, khz=Ppm(_QEMU_PPM), label="set-1"),
            Sleep(ns=16 * MS),
            *(step for vcpu in range(2) for step in put_full(vcpu, 0, f"zero-{vcpu}", _QEMU_PPM)),
            Sleep(ns=4 * MS),
            *reset(2, "one"),
            *look_at(2),
        ),
        claims=count_together(2, "one", first="zero-0"),
    ),
)
