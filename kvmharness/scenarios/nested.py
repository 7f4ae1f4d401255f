# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested guests: what a guest's own guest (L2) reads, and what a write of L1's TSC does while L2 is current.

KVM keeps L1's TSC, and L2's is that plus what L1 adds. All that userspace sets and reads is L1's, whichever
of the two is current.
"""

from kvmharness.contract import (
    Claim,
    ForwardClaim,
    LineClaim,
    OffsetClaim,
    SameClaim,
)
from kvmharness.guests.layout import kvmclock_address
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, SECOND, page_on, write
from kvmharness.script import (
    CreateVcpu,
    GetMsrs,
    GetTscOffset,
    NestedWrite,
    Read,
    ReadKvmclock,
    Run,
    RunL2,
    Script,
    SetMsrs,
    SetTscOffset,
    Sleep,
    Time,
)

NEEDS = ("nested", "tsc-write")
# As a hypervisor has it that starts a guest at a TSC of 0 a day after its own boot.
A_DAY_BACK = Time(-86_400 * SECOND)
FAR = Time(1000 * SECOND)

_SETS = "kvm_vcpu_write_tsc_offset()"
_READS = "'KVM: x86: fix MSR_IA32_TSC read for nested migration' (2020)"
_MOVED = "A VM is restored, or set back, while its own guest runs: the clocks of one of the two jump."


def _vcpu(number: int = 0) -> CreateVcpu:
    return CreateVcpu(vcpu=number, guest="nested-64", label=f"create-{number}")


def _tsc(label: str, vcpu: int = 0) -> GetMsrs:
    return GetMsrs(vcpu=vcpu, indices=("TSC",), label=label)


# L2 is current from here on.
_ENTER = RunL2(vcpu=0, offset=A_DAY_BACK, label="l2-first")
_START: Script = (_vcpu(), _tsc("tsc-new"), _ENTER)
# Read while L2 is current, then by L2, and by L1 once L2 has left.
_LOOK: Script = (
    GetTscOffset(vcpu=0, label="offset"),
    _tsc("tsc"),
    RunL2(vcpu=0, label="l2"),
    Run(vcpu=0, label="l1"),
    _tsc("tsc-l1"),
)
_SEEN = ("offset", "tsc", "l2", "l1", "tsc-l1")


def _go_on(
    expected: str, text: str, instead: str = "tsc-new", seen: tuple[str, ...] = _SEEN
) -> tuple[Claim, ...]:
    """L1, and L2 less its offset, continue from a step and not from another."""
    return (
        OffsetClaim(
            text=text,
            seen=seen,
            expected=(expected,),
            instead=instead,
            otherwise="it still counts as before",
        ),
    )


SCENARIOS = (
    Scenario(
        name="nested-enter",
        contract="L2 reads L1's TSC and what L1 adds to it, and the host goes on to read L1's.",
        source=(
            "AMD's manual vol. 2, 'TSC_OFFSET'; Intel SDM vol. 3, 'use TSC offsetting'; "
            f"kvm_calc_nested_tsc_offset(); {_READS}"
        ),
        consequence="A VM that is saved while its own guest runs has that guest's TSC when it is restored.",
        needs=NEEDS,
        script=(
            _vcpu(),
            _tsc("tsc-new"),
            write(0, Read("tsc-new", FAR), "write"),
            RunL2(vcpu=0, offset=A_DAY_BACK, label="l2-first"),
            *_LOOK,
        ),
        claims=_go_on("write", "L1 and L2 continue from what was written", seen=("l2-first", *_SEEN)),
    ),
    Scenario(
        name="nested-enter-again",
        contract="Each time that L1 enters L2, what it then adds to its TSC counts, and nothing of before.",
        source="nested_vmcb02_prepare_control(), nested_svm_vmexit(); prepare_vmcs02(), nested_vmx_vmexit()",
        consequence="A hypervisor in a VM gives the next of its guests the TSC of the last one.",
        needs=NEEDS,
        script=(
            *_START,
            Run(vcpu=0, label="l1-between"),
            RunL2(vcpu=0, offset=FAR, label="l2-ahead"),
            RunL2(vcpu=0, offset=0, label="l2-same"),
            RunL2(vcpu=0, offset=A_DAY_BACK, label="l2-back"),
            Run(vcpu=0, label="l1"),
            _tsc("tsc-l1"),
        ),
        claims=(
            OffsetClaim(
                text="L1 stays where it was, and L2 is as far off as L1 said",
                seen=("l2-first", "l1-between", "l2-ahead", "l2-same", "l2-back", "l1", "tsc-l1"),
                expected=("tsc-new",),
            ),
        ),
    ),
    Scenario(
        name="nested-host-write",
        contract="A TSC that is written while L2 is current is L1's, and L2 moves with it.",
        source=f"{_SETS}: l1_tsc_offset is set, and L2's offset is added again",
        consequence=_MOVED,
        needs=NEEDS,
        script=(*_START, write(0, Read("tsc-new", FAR), "write"), *_LOOK),
        claims=_go_on("write", "L1 and L2 continue from what was written"),
    ),
    Scenario(
        name="nested-host-write-then-enter",
        contract="A TSC that is written while L2 is current counts, too, when L1 next enters L2.",
        source=f"{_SETS}, nested_svm_vmexit(), nested_vmx_vmexit()",
        consequence=_MOVED,
        needs=NEEDS,
        script=(
            *_START,
            write(0, Read("tsc-new", FAR), "write"),
            RunL2(vcpu=0, offset=FAR, label="l2-again"),
            *_LOOK,
        ),
        claims=_go_on("write", "L1 and L2 continue from what was written", seen=("l2-again", *_SEEN)),
    ),
    Scenario(
        name="nested-host-offset",
        contract="An offset that is set while L2 is current is L1's, and L2 moves with it.",
        source=f"kvm_arch_tsc_set_attr(), {_SETS}; Documentation/virt/kvm/devices/vcpu.rst",
        consequence=_MOVED,
        needs=("nested", "tsc-offset"),
        script=(
            *_START,
            SetTscOffset(vcpu=0, offset=123_456_789_012_345, label="set-offset"),
            *_LOOK,
        ),
        claims=_go_on("set-offset", "L1 and L2 have the offset that was set"),
    ),
    Scenario(
        name="nested-host-adjust",
        contract="A TSC_ADJUST that is restored while L2 is current moves neither L1's TSC nor L2's.",
        source="kvm_set_msr_common(): host_initiated writes of MSR_IA32_TSC_ADJUST store the value",
        consequence=_MOVED,
        needs=NEEDS,
        script=(
            *_START,
            SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", 2**40),), label="adjust"),
            *_LOOK,
            GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust-read"),
        ),
        claims=(
            OffsetClaim(text="L1 and L2 stay where they were", seen=_SEEN, expected=("tsc-new", "l2-first")),
            SameClaim(text="TSC_ADJUST is what was restored", seen="adjust-read", expected="adjust"),
        ),
    ),
    Scenario(
        name="nested-l1-adjust",
        contract=(
            "An L1 that sets its TSC forward, and then its TSC_ADJUST back to 0, counts as before, and so "
            "does the L2 it then enters."
        ),
        source="Intel SDM vol. 3, IA32_TSC_ADJUST; KVM's selftest nested_tsc_adjust_test",
        consequence="A hypervisor that sets its TSCs right at its boot gives its guests other TSCs.",
        needs=NEEDS,
        script=(
            *_START,
            NestedWrite(vcpu=0, level=1, msr="TSC", value=Read("tsc-new", FAR), label="forth"),
            NestedWrite(vcpu=0, level=1, msr="TSC_ADJUST", value=0, label="back"),
            GetTscOffset(vcpu=0, label="offset-l1"),
            RunL2(vcpu=0, offset=A_DAY_BACK, label="l2-again"),
            *_LOOK,
            GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust-read"),
        ),
        claims=(
            OffsetClaim(
                text="with TSC_ADJUST back at 0 L1 and L2 count as before",
                seen=("offset-l1", "l2-again", *_SEEN),
                expected=("tsc-new",),
                instead="forth",
                otherwise="TSC_ADJUST moved nothing",
            ),
            SameClaim(text="TSC_ADJUST is what L1 wrote", seen="adjust-read", expected="back"),
        ),
    ),
    Scenario(
        name="nested-l2-writes-tsc",
        contract="An L2 that writes its TSC, which L1 does not intercept, sets L1's, and moves with it.",
        source=(
            f"{_SETS}: 'L1 chose not to trap WRMSR to TSC'; Intel SDM vol. 3, 'MSR-write'; KVM's selftest "
            "nested_tsc_adjust_test"
        ),
        consequence="The clocks of L1 and L2 are apart by something else than L1 knows.",
        needs=NEEDS,
        script=(
            *_START,
            NestedWrite(vcpu=0, level=2, msr="TSC", value=Read("tsc-new", FAR), label="l2-write"),
            *_LOOK,
        ),
        claims=_go_on("l2-write", "L1 continues from what L2 wrote, and L2 with its offset to that"),
    ),
    Scenario(
        name="nested-l2-adjust",
        contract="A TSC_ADJUST that L2 writes, which L1 does not intercept, is L1's, and moves both.",
        source="kvm_set_msr_common(), adjust_tsc_offset_guest(); KVM's selftest nested_tsc_adjust_test",
        consequence="The clocks of L1 and L2 are apart by something else than L1 knows.",
        needs=NEEDS,
        script=(
            *_START,
            NestedWrite(vcpu=0, level=1, msr="TSC", value=Read("tsc-new", FAR), label="forth"),
            NestedWrite(vcpu=0, level=2, msr="TSC_ADJUST", value=0, label="back"),
            *_LOOK,
            GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust-read"),
        ),
        claims=(
            OffsetClaim(
                text="with the TSC_ADJUST of L1 back at 0, L1 and L2 count as before",
                seen=_SEEN,
                expected=("tsc-new",),
                instead="forth",
                otherwise="what L2 wrote moved nothing",
            ),
            SameClaim(text="TSC_ADJUST is what L2 wrote", seen="adjust-read", expected="back"),
        ),
    ),
    Scenario(
        name="nested-pair",
        contract="vCPUs that are restored together while their L2s are current count together, as do these.",
        source="QEMU restores TSCs after the nested state (kvm_arch_put_registers)",
        consequence="The guest's TSCs are apart, and so are those of all its guests.",
        needs=NEEDS,
        script=(
            _vcpu(0),
            _vcpu(1),
            _tsc("tsc-new"),
            *(RunL2(vcpu=vcpu, offset=A_DAY_BACK, label=f"l2-first-{vcpu}") for vcpu in range(2)),
            write(0, Read("tsc-new", FAR), "write-0"),
            Sleep(ns=5 * MS),
            write(1, Read("tsc-new", FAR), "write-1"),
            *(RunL2(vcpu=vcpu, label=f"l2-{vcpu}") for vcpu in range(2)),
            *(Run(vcpu=vcpu, label=f"l1-{vcpu}") for vcpu in range(2)),
        ),
        claims=(
            *_go_on("write-0", "vCPU 0 continues from what was written", seen=("l2-0", "l1-0")),
            OffsetClaim(
                text="vCPU 1 counts together with vCPU 0",
                seen=("l2-1", "l1-1"),
                expected=("l1-0",),
                instead="write-1",
                otherwise="it was given a TSC of its own",
                together=("write-0", "write-1"),
            ),
        ),
    ),
    Scenario(
        name="nested-page",
        contract="A vCPU's kvmclock page stays L1's, whichever of the two is current when KVM writes it.",
        source="kvm_guest_time_update() reads L1's TSC (kvm_read_l1_tsc)",
        consequence="L1's clock jumps by what its own guests' TSCs are off.",
        needs=(*NEEDS, "masterclock"),
        script=(
            *_START[:2],
            page_on(0),
            Run(vcpu=0, label="l1-first"),
            ReadKvmclock(vcpu=0, label="page"),
            RunL2(vcpu=0, offset=A_DAY_BACK, label="l2-first"),
            # The next entry, which is L2's, writes the page again.
            SetMsrs(vcpu=0, msrs=(("SYSTEM_TIME", kvmclock_address(0) + 1),), label="page-on-again"),
            RunL2(vcpu=0, label="l2"),
            ReadKvmclock(vcpu=0, label="page-l2"),
        ),
        claims=(LineClaim(text="the page stays on its line", seen=("page-l2",), expected="page"),),
    ),
    Scenario(
        name="nested-unstable",
        contract="On a host with an unstable TSC neither L1's TSC nor L2's runs backwards.",
        source="kvm_arch_vcpu_load(): the vCPU continues from the TSC that L1 last had",
        consequence="A guest's time runs backwards, or that of its guests.",
        needs=("nested",),
        script=(
            _vcpu(),
            RunL2(vcpu=0, offset=A_DAY_BACK, label="l2-first"),
            _tsc("tsc"),
            Sleep(ns=20 * MS),
            RunL2(vcpu=0, label="l2"),
            Run(vcpu=0, label="l1"),
            RunL2(vcpu=0, offset=FAR, label="l2-again"),
        ),
        claims=(
            ForwardClaim(
                text="neither runs backwards, and they are as far apart as L1 said",
                seen=("l2-first", "l2", "l1", "l2-again"),
            ),
        ),
        lacks=("stable-tsc",),
    ),
)
