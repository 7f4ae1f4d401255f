# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest sees of its TSC, what it writes itself, and what the host then reads."""

from kvmharness.contract import ForwardClaim, OffsetClaim, RateClaim, SameClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import READ_BOTH, READ_ONE
from kvmharness.script import CreateVcpu, GetMsrs, GuestWrite, Ppm, Read, Run, SetMsrs, SetTscKhz, Sleep, Time

MS = 1_000_000

_ADJUST = "Intel SDM vol. 3, IA32_TSC_ADJUST"

_JUMP = "A guest whose firmware or kernel sets its TSCs itself is left with others than it set."

SCENARIOS = (
    Scenario(
        name="guest-rdtscp",
        contract="A guest reads the same TSC by RDTSCP as by RDTSC, and as the host reads.",
        source="Intel SDM vol. 2, RDTSCP; VMX and SVM apply the TSC offset to both instructions",
        consequence="Two clocks in the same guest are a restore apart.",
        needs=("tsc-write", "rdtscp"),
        script=(
            CreateVcpu(vcpu=0, guest="rdtscp-16", label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            SetMsrs(vcpu=0, msrs=(("TSC", Time(100_000 * MS)),), label="write"),
            *READ_ONE,
            Sleep(ns=20 * MS),
            Run(vcpu=0, label="guest-later"),
        ),
        claims=(
            OffsetClaim(
                text="RDTSCP continues from the TSC that was written",
                seen=("offset", "tsc", "guest", "guest-later"),
                expected=("write",),
                instead="tsc-new",
            ),
        ),
    ),
    Scenario(
        name="guest-rdmsr",
        contract=(
            "A guest reads the same TSC by RDMSR as by RDTSC before and after it: the one that was written."
        ),
        source=(
            "Intel SDM vol. 3, IA32_TIME_STAMP_COUNTER; kvm_get_msr_common(), where RDMSR is not left to the "
            "CPU"
        ),
        consequence="A guest that reads its TSC as an MSR finds another one.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, guest="rdmsr-16", label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            SetMsrs(vcpu=0, msrs=(("TSC", Time(100_000 * MS)),), label="write"),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the guest continues from the TSC that was written",
                seen=("offset", "tsc", "guest"),
                expected=("write",),
                instead="tsc-new",
            ),
            ForwardClaim(text="RDTSC, RDMSR and RDTSC read one TSC after the other", seen=("guest",)),
        ),
    ),
    Scenario(
        name="guest-rdmsr-half",
        contract="A guest that counts at half the host's rate does so by RDMSR as by RDTSC.",
        source=(
            "kvm_get_msr_common(): what KVM reads for the guest it scales itself; RDTSC is scaled by the CPU"
        ),
        consequence="A guest that reads its TSC both ways sees it jump.",
        needs=("tsc-write", "tsc-scaling"),
        script=(
            CreateVcpu(vcpu=0, guest="rdmsr-16", label="create"),
            SetTscKhz(vcpu=0, khz=Ppm(-500_000), label="khz"),
            SetMsrs(vcpu=0, msrs=(("TSC", Time(100_000 * MS)),), label="write"),
            Sleep(ns=50 * MS),
            Run(vcpu=0, label="guest"),
        ),
        claims=(
            RateClaim(
                text="it counts on at half the rate", first="write", last="guest", khz="khz", instead="create"
            ),
            ForwardClaim(text="RDTSC, RDMSR and RDTSC read one TSC after the other", seen=("guest",)),
        ),
    ),
    Scenario(
        name="guest-64-bit",
        contract="A guest in long mode reads the TSC that the host set.",
        source="Intel SDM vol. 2, RDTSC; real guests run so",
        consequence="The guest's clock is not what the VMM restored.",
        needs=("tsc-write", "guest-64"),
        script=(
            CreateVcpu(vcpu=0, guest="rdtsc-64", label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            SetMsrs(vcpu=0, msrs=(("TSC", Time(100_000 * MS)),), label="write"),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the guest continues from the TSC that was written",
                seen=("offset", "tsc", "guest"),
                expected=("write",),
                instead="tsc-new",
            ),
        ),
    ),
    Scenario(
        name="guest-never-runs-back",
        contract=(
            "A guest that reads its TSC over and over, and is stopped and continues, never sees it run "
            "backwards."
        ),
        source="Intel SDM vol. 3, 'Time-Stamp Counter', of RDTSC; Documentation/virt/kvm/x86/timekeeping.rst",
        consequence="Time runs backwards in the guest.",
        needs=("guest-16",),
        script=(
            CreateVcpu(vcpu=0, guest="ring-16", label="create"),
            Run(vcpu=0, ns=30 * MS, label="guest-1"),
            Run(vcpu=0, ns=30 * MS, label="guest-2"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
            Run(vcpu=0, ns=30 * MS, label="guest-3"),
        ),
        claims=(ForwardClaim(text="the TSC goes forward", seen=("guest-1", "guest-2", "tsc", "guest-3")),),
    ),
    Scenario(
        name="guest-writes-tsc",
        contract=(
            "A TSC that the guest writes is what it reads from then on, however near to what it was, and no "
            "other vCPU's moves."
        ),
        source=f"kvm_set_msr_common(), MSR_IA32_TSC not written by the host; {_ADJUST}",
        consequence=_JUMP,
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, guest="wrmsr-16", label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            GetMsrs(vcpu=1, indices=("TSC",), label="tsc-new"),
            # Half a second off: of a host's write KVM might make an attempt to synchronize.
            GuestWrite(vcpu=0, msr="TSC", value=Read("tsc-new", Time(500 * MS)), label="guest-writes"),
            GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust"),
            *READ_BOTH,
        ),
        claims=(
            OffsetClaim(
                text="the vCPU continues from what its guest wrote",
                seen=("offset-0", "tsc-0", "guest-0"),
                expected=("guest-writes",),
                instead="tsc-new",
                otherwise="the guest's write was overridden",
            ),
            OffsetClaim(
                text="the other vCPU counts as before",
                seen=("offset-1", "tsc-1", "guest-1"),
                expected=("tsc-new",),
            ),
        ),
    ),
    Scenario(
        name="guest-writes-adjust",
        contract=(
            "A guest that sets its TSC forward, and then its TSC_ADJUST back to 0, counts as before, and the "
            "host reads that 0."
        ),
        source=f"kvm_set_msr_common(), MSR_IA32_TSC_ADJUST not written by the host; {_ADJUST}",
        consequence=_JUMP,
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, guest="wrmsr-16", label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            GuestWrite(vcpu=0, msr="TSC", value=Read("tsc-new", Time(10_000 * MS)), label="forth"),
            GetMsrs(vcpu=0, indices=("TSC_ADJUST", "TSC"), label="adjust"),
            GuestWrite(vcpu=0, msr="TSC_ADJUST", value=0, label="back"),
            GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust-back"),
            *READ_ONE,
        ),
        claims=(
            SameClaim(
                text="the host reads the TSC_ADJUST that the guest wrote", seen="adjust-back", expected="back"
            ),
            OffsetClaim(
                text="with TSC_ADJUST back at 0 the vCPU counts as before",
                seen=("offset", "tsc", "guest"),
                expected=("tsc-new",),
                instead="forth",
                otherwise="TSC_ADJUST moved nothing",
            ),
        ),
    ),
    Scenario(
        name="host-restores-adjust",
        contract=(
            "A host that restores TSC_ADJUST and then TSC, in one ioctl, moves the TSC once and not twice."
        ),
        source=(
            "kvm_set_msr_common(): TSC_ADJUST written by the host moves nothing; QEMU restores both so in "
            "one ioctl (kvm_put_msrs)"
        ),
        consequence="Each restore moves the TSC of a guest that had adjusted it once more.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            SetMsrs(
                vcpu=0,
                msrs=(("TSC_ADJUST", Time(50_000 * MS)), ("TSC", Time(100_000 * MS))),
                label="restore",
            ),
            GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust"),
            SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", Time(70_000 * MS)),), label="adjust-again"),
            GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust-after"),
            *READ_ONE,
        ),
        claims=(
            SameClaim(text="TSC_ADJUST reads back as written", seen="adjust-after", expected="adjust-again"),
            OffsetClaim(
                text="the vCPU continues from the TSC that was written",
                seen=("offset", "tsc", "guest"),
                expected=("restore",),
                instead="tsc-new",
            ),
        ),
    ),
)
