# SPDX-License-Identifier: GPL-2.0-or-later
"""Restoring a snapshot: its TSC is written once, by MSR_IA32_TSC, into a VM that is young itself."""

from dataclasses import replace

from kvmharness.contract import OffsetClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.script import CreateVcpu, GetMsrs, GetTscOffset, Run, Script, SetMsrs, Sleep, Time

MS = 1_000_000

GOES_ON = OffsetClaim(
    text="the restored vCPU continues from the TSC that was written",
    seen=("offset", "tsc", "guest", "tsc-later"),
    expected=("restore",),
    instead="tsc-new",
    otherwise="the write was overridden, the vCPU still counts from its creation",
)

# A player that was held up restores into a VM that is young no longer, where every kernel keeps the value.
GOES_ON_WHILE_YOUNG = replace(GOES_ON, together=("create", "restore"))


def _restore(value: Time) -> Script:
    return (
        CreateVcpu(vcpu=0, label="create"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
        Sleep(ns=50 * MS),
        SetMsrs(vcpu=0, msrs=(("TSC", value),), label="restore"),
        GetTscOffset(vcpu=0, label="offset"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
        Run(vcpu=0, label="guest"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-later"),
    )


SCENARIOS = (
    Scenario(
        name="young-restore",
        contract=(
            "A vCPU restored from a snapshot that was taken within a second of its creation continues from "
            "the saved TSC."
        ),
        source=(
            "kernel bug 217423; 'KVM: x86/tsc: Update guest tsc_offset again before vcpu first runs', Like "
            "Xu, June 2023, and the replies; fixed by commit bf328e22e472 (Linux 6.7)"
        ),
        consequence=(
            "A snapshot taken within a second of a VM's creation comes back with the wrong TSC: KVM treats "
            "the restore as a request to synchronize with its own start-up value, and drops the saved one "
            "(kernel bug 217423)."
        ),
        needs=("tsc-write",),
        script=_restore(Time(900 * MS)),
        claims=(GOES_ON_WHILE_YOUNG,),
    ),
    Scenario(
        name="old-restore",
        contract="A vCPU restored from a snapshot that is older than a second continues from the saved TSC.",
        source="Documentation/virt/kvm/api.rst, KVM_SET_MSRS; every VMM's restore relies on it",
        consequence="Restored VMs do not get their saved TSC back: the guest's clock jumps.",
        needs=("tsc-write",),
        script=_restore(Time(100_000 * MS)),
        claims=(GOES_ON,),
    ),
)
