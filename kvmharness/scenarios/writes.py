# SPDX-License-Identifier: GPL-2.0-or-later
"""Several writes to one vCPU: which of them are requests to synchronize, and with what."""

from kvmharness.contract import Claim, OffsetClaim, SameClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import READ_ONE
from kvmharness.script import CreateVcpu, GetMsrs, GetTscOffset, Read, Run, SetMsrs, SetTscOffset, Sleep, Time

MS = 1_000_000

_BUG = "kernel bug 217423"
_ON_PURPOSE = "KVM overrides it on purpose: the UAPI baggage that kvm_synchronize_tsc() speaks of"
_CONSEQUENCE = "The TSC that a VMM writes last is dropped for an earlier one: the guest's clock is wrong."


def _write(ms: int, label: str) -> SetMsrs:
    return SetMsrs(vcpu=0, msrs=(("TSC", Time(ms * MS)),), label=label)


def _last_write_counts(last: str, instead: str, together: tuple[str, ...] = ()) -> tuple[Claim, ...]:
    return (
        OffsetClaim(
            text="the vCPU continues from the TSC that was written last",
            seen=("offset", "tsc", "guest"),
            expected=(last,),
            instead=instead,
            otherwise="the write was overridden, the vCPU still counts as before it",
            together=together,
        ),
    )


SCENARIOS = (
    Scenario(
        name="young-restore-twice",
        contract="A young vCPU that is restored twice in a row continues from the second value.",
        source=f"{_BUG}; a VMM's reset followed by its restore. {_ON_PURPOSE}",
        consequence=_CONSEQUENCE,
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            Sleep(ns=50 * MS),
            _write(900, "first"),
            _write(1600, "second"),
            *READ_ONE,
        ),
        claims=_last_write_counts("second", "first", ("create", "second")),
    ),
    Scenario(
        name="offset-then-write",
        contract=(
            "A vCPU whose offset was set by the attribute, and whose TSC is then written, continues from the "
            "value written."
        ),
        source=(
            f"commit bf328e22e472, by which the attribute counts as a TSC set by userspace ({_ON_PURPOSE}); "
            "in Oliver Upton's version of 30 June 2023 it does not"
        ),
        consequence=_CONSEQUENCE,
        needs=("tsc-write", "tsc-offset"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetTscOffset(vcpu=0, label="offset-new"),
            Sleep(ns=50 * MS),
            SetTscOffset(vcpu=0, offset=Read("offset-new", Time(100_000 * MS)), label="set"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-set"),
            SetMsrs(vcpu=0, msrs=(("TSC", Read("tsc-set", Time(300 * MS))),), label="write"),
            *READ_ONE,
        ),
        claims=_last_write_counts("write", "set", ("set", "write")),
    ),
    Scenario(
        name="three-writes",
        contract=(
            "A vCPU whose TSC is written three times, the last two half a second apart, continues from the "
            "third."
        ),
        source=f"QEMU's loadvm and gVisor's loop of writes count on it; {_ON_PURPOSE}",
        consequence=_CONSEQUENCE,
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            Sleep(ns=50 * MS),
            _write(100_000, "first"),
            _write(200_000, "second"),
            _write(200_500, "third"),
            *READ_ONE,
        ),
        claims=_last_write_counts("third", "second", ("second", "third")),
    ),
    Scenario(
        name="write-after-run-near",
        contract=(
            "A vCPU that has run, and whose TSC userspace then writes for the first time, continues from the "
            "value written, also when it is half a second off."
        ),
        source="Sean Christopherson's proposal of 29 June 2023, which asks whether the vCPU has run",
        consequence=_CONSEQUENCE,
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            Run(vcpu=0, label="guest-before"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            SetMsrs(vcpu=0, msrs=(("TSC", Read("tsc-new", Time(500 * MS))),), label="write"),
            *READ_ONE,
        ),
        claims=_last_write_counts("write", "tsc-new", ("create", "write")),
    ),
    Scenario(
        name="write-after-run-far",
        contract=(
            "A vCPU that has run, and whose TSC userspace then writes for the first time, continues from the "
            "value written when that is 100 s off."
        ),
        source="Documentation/virt/kvm/api.rst, KVM_SET_MSRS",
        consequence=_CONSEQUENCE,
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            Run(vcpu=0, label="guest-before"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            SetMsrs(vcpu=0, msrs=(("TSC", Read("tsc-new", Time(100_000 * MS))),), label="write"),
            *READ_ONE,
        ),
        claims=_last_write_counts("write", "tsc-new"),
    ),
    Scenario(
        name="rewrite-after-run-near",
        contract="A restored vCPU that has run continues from a TSC that is written half a second off.",
        source=f"QEMU's loadvm into a running VM; {_ON_PURPOSE}",
        consequence=_CONSEQUENCE,
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            _write(100_000, "restore"),
            Run(vcpu=0, label="guest-before"),
            _write(100_500, "write"),
            *READ_ONE,
        ),
        claims=_last_write_counts("write", "restore", ("restore", "write")),
    ),
    Scenario(
        name="rewrite-after-run-far",
        contract="A restored vCPU that has run continues from a TSC that is written 100 s off.",
        source="QEMU's loadvm into a running VM",
        consequence=_CONSEQUENCE,
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            _write(100_000, "restore"),
            Run(vcpu=0, label="guest-before"),
            _write(200_000, "write"),
            *READ_ONE,
        ),
        claims=_last_write_counts("write", "restore"),
    ),
    Scenario(
        name="write-zero",
        contract=(
            "A write of 0, by which VMMs have always had a vCPU synchronized, leaves a VM's only vCPU "
            "counting as before."
        ),
        source=(
            "kvm_synchronize_tsc(), whose comment calls 0 a special case; QEMU and kvmtool write it at the "
            "start. OpenVMM wrote it to reset a VM, and found that it does not (pull request 4253)"
        ),
        consequence=(
            "0 is a request to synchronize and no value: a VMM that writes it at its start would have vCPUs "
            "that do not count together. A VMM that wants a reset writes 1."
        ),
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            Sleep(ns=300 * MS),
            SetMsrs(vcpu=0, msrs=(("TSC", 0),), label="write"),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the vCPU counts as it did before the write of 0",
                seen=("offset", "tsc", "guest"),
                expected=("tsc-new",),
                instead="write",
                otherwise="it counts from 0 again",
            ),
        ),
    ),
    Scenario(
        name="write-one",
        contract="A vCPU whose TSC is written to be 1 continues from there.",
        source="QEMU writes 1 to each vCPU 4 ms after its start, and at each reset",
        consequence="A reset vCPU keeps its old TSC.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            Sleep(ns=300 * MS),
            SetMsrs(vcpu=0, msrs=(("TSC", 1),), label="write"),
            *READ_ONE,
        ),
        claims=_last_write_counts("write", "tsc-new", ("create", "write")),
    ),
    Scenario(
        name="adjust-by-host",
        contract="A write of IA32_TSC_ADJUST by userspace is kept, and leaves the vCPU's TSC alone.",
        source=(
            "KVM selftest tsc_msrs_test: host writes to MSR_IA32_TSC_ADJUST do not affect MSR_IA32_TSC, nor "
            "the other way round"
        ),
        consequence="The order in which a VMM restores the two MSRs decides which TSC a guest has.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            _write(100_000, "write"),
            SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", Time(50 * MS)),), label="adjust"),
            GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust-after"),
            *READ_ONE,
        ),
        claims=(
            SameClaim(text="TSC_ADJUST is what was written", seen="adjust-after", expected="adjust"),
            *_last_write_counts("write", "create"),
        ),
    ),
    Scenario(
        name="zero-then-young-restore",
        contract="A vCPU whose VMM wrote 0 before it restored a young snapshot continues from the saved TSC.",
        source=(
            f"{_BUG} once more: QEMU's own restore writes 0 and 1 before the saved value; Like Xu's v6 does "
            "not count a write of 0"
        ),
        consequence="A young snapshot comes back with the wrong TSC in VMMs that write 0 at their start.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            Sleep(ns=50 * MS),
            SetMsrs(vcpu=0, msrs=(("TSC", 0),), label="reset"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            Sleep(ns=100 * MS),
            _write(900, "restore"),
            *READ_ONE,
        ),
        claims=_last_write_counts("restore", "tsc-new", ("reset", "restore")),
    ),
)
