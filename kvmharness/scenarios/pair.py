# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's restore of two vCPUs: it cannot save both TSCs in one instant, and relies on KVM to match them."""

from dataclasses import replace

from kvmharness.contract import OffsetClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import READ_BOTH
from kvmharness.script import CreateVcpu, GetMsrs, Script, SetMsrs, Sleep, Time

MS = 1_000_000

FIRST_GOES_ON = OffsetClaim(
    text="vCPU 0 continues from the TSC that was written to it",
    seen=("offset-0", "tsc-0", "guest-0"),
    expected=("restore-0",),
    instead="tsc-new",
    otherwise="the write was overridden, the vCPU still counts from its creation",
)
# A player that was held up restores into a VM that is young no longer, where every kernel keeps the value.
FIRST_GOES_ON_WHILE_YOUNG = replace(FIRST_GOES_ON, together=("create-0", "restore-0"))
SECOND_FOLLOWS = OffsetClaim(
    text="vCPU 1, written 5 ms later with a value 2 ms further on, counts together with vCPU 0",
    seen=("offset-1", "tsc-1", "guest-1"),
    expected=("offset-0", "tsc-0", "guest-0"),
    instead="restore-1",
    otherwise="each vCPU was given a TSC of its own, the two are not synchronized",
    together=("restore-0", "restore-1"),
)


def _restore_pair(value_ms: int) -> Script:
    return (
        CreateVcpu(vcpu=0, label="create-0"),
        CreateVcpu(vcpu=1, label="create-1"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
        Sleep(ns=50 * MS),
        SetMsrs(vcpu=0, msrs=(("TSC", Time(value_ms * MS)),), label="restore-0"),
        Sleep(ns=5 * MS),
        SetMsrs(vcpu=1, msrs=(("TSC", Time((value_ms + 2) * MS)),), label="restore-1"),
        *READ_BOTH,
    )


SCENARIOS = (
    Scenario(
        name="qemu-pair-old",
        contract=(
            "Two vCPUs of a snapshot older than a second, restored one after the other, continue from the "
            "first one's saved TSC and count together."
        ),
        source="QEMU, cpu_synchronize_all_post_init(); Oliver Upton's reply of 30 June 2023",
        consequence=(
            "After a restore the guest's vCPUs disagree about the time, and KVM considers its clock unstable."
        ),
        needs=("tsc-write",),
        script=_restore_pair(100_000),
        claims=(FIRST_GOES_ON, SECOND_FOLLOWS),
    ),
    Scenario(
        name="qemu-pair-young",
        contract=(
            "Two vCPUs of a snapshot taken within a second of their creation, restored one after the other, "
            "continue from the first one's saved TSC and count together."
        ),
        source="kernel bug 217423 with more than one vCPU; Oliver Upton's reply of 30 June 2023",
        consequence=(
            "The two vCPUs of such a snapshot come back with the wrong TSC, or disagree about the time."
        ),
        needs=("tsc-write",),
        script=_restore_pair(500),
        claims=(FIRST_GOES_ON_WHILE_YOUNG, SECOND_FOLLOWS),
    ),
    Scenario(
        name="restore-one-by-one",
        contract="vCPUs that are created and restored one after the other count together.",
        source=(
            "Cloud Hypervisor restores so: it lost its masterclock by it (pull request 8383), and since 8437 "
            "copies vCPU 0's offset"
        ),
        consequence=(
            "After a restore the guest's vCPUs disagree about the time, and KVM considers its clock unstable."
        ),
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            SetMsrs(vcpu=0, msrs=(("TSC", Time(100_000 * MS)),), label="restore-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            SetMsrs(vcpu=1, msrs=(("TSC", Time(100_000 * MS)),), label="restore-1"),
            *READ_BOTH,
        ),
        claims=(
            replace(FIRST_GOES_ON, instead="create-0"),
            replace(SECOND_FOLLOWS, text="vCPU 1, restored to the same value, counts together with vCPU 0"),
        ),
    ),
)
