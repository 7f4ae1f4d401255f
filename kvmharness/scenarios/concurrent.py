# SPDX-License-Identifier: GPL-2.0-or-later
"""At once: vCPUs that are written, or run, from threads of their own at the same time.

Those that run compare their TSCs, each on a CPU of its own. Of those that are written, KVM
synchronizes the others with whichever comes first.
"""

from kvmharness.contract import LineClaim, NoWarpClaim, OffsetClaim, PageClaim, Promptly
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import goes_on, look_at, look_at_page, page_on
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetTscOffset,
    Read,
    ReadKvmclock,
    Run,
    RunTogether,
    Script,
    SetClockDuringRun,
    SetMsrs,
    SetTscOffset,
    Sleep,
    Time,
    WriteTogether,
)

MS = 1_000_000

_CONSEQUENCE = (
    "The guest's kernel finds its TSCs unsynchronized, gives them up and uses a slow clock, or time runs "
    "backwards in it when a thread moves to another vCPU."
)
_MEET = RunTogether(vcpus=(0, 1), label="meet")
_NO_WARP = (NoWarpClaim(text="neither vCPU reads less than the other had before", seen="meet"),)


def _two(guest: str = "warp-64") -> Script:
    return tuple(CreateVcpu(vcpu=vcpu, guest=guest, label=f"create-{vcpu}") for vcpu in (0, 1))


def _write(vcpu: int, ms: int) -> SetMsrs:
    return SetMsrs(vcpu=vcpu, msrs=(("TSC", Time(ms * MS)),), label=f"restore-{vcpu}")


def _restored_at_once(vcpus: int, *ms: int) -> Script:
    """vCPUs that are 50 ms old are written at the same time."""
    numbers = tuple(range(vcpus))
    values = tuple(Time(each * MS) for each in ms)
    return (
        *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in numbers),
        Sleep(ns=50 * MS),
        WriteTogether(vcpus=numbers, values=values, label="restore"),
        *look_at(vcpus),
    )


def _same_tsc(vcpus: int) -> tuple[OffsetClaim, ...]:
    return tuple(
        OffsetClaim(
            text=f"vCPU {vcpu} counts together with vCPU 0",
            seen=(f"offset-{vcpu}", f"guest-{vcpu}"),
            expected=("offset-0", "guest-0"),
        )
        for vcpu in range(1, vcpus)
    )


def _from_what_was_written(vcpu: int, together: tuple[str, ...] = ()) -> OffsetClaim:
    return goes_on(
        f"vCPU {vcpu} continues from its saved TSC", "restore", "create-0", vcpu=vcpu, together=together
    )


_CROSVM = "crosvm, restore: each vCPU's thread restores its MSRs by itself, all at the same time"
_APART = "After a restore the guest's vCPUs disagree about the time, depending on which thread was first."

SCENARIOS = (
    Scenario(
        name="restored-at-once",
        contract="Two vCPUs whose threads write them one saved TSC at the same time continue from it, "
        "together.",
        source=_CROSVM,
        consequence=_APART,
        needs=("tsc-write",),
        script=_restored_at_once(2, 100_000, 100_000),
        claims=(_from_what_was_written(0), *_same_tsc(2)),
    ),
    Scenario(
        name="restored-at-once-young",
        contract=(
            "Two vCPUs whose threads write them one saved TSC at the same time, within a second of their "
            "creation and of what that gave them, continue from it, together."
        ),
        source=f"{_CROSVM}; kernel bug 217423",
        consequence="Restored VMs do not get their saved TSC back when the snapshot is young.",
        needs=("tsc-write",),
        script=_restored_at_once(2, 500, 500),
        claims=(_from_what_was_written(0, together=("create-0", "restore")), *_same_tsc(2)),
    ),
    Scenario(
        name="restored-at-once-apart",
        contract=(
            "Three vCPUs whose threads write them what was saved, 1 ms apart each, at the same time count "
            "together, whichever comes first."
        ),
        source=f"{_CROSVM}; what was saved of one vCPU after the other is apart by as much",
        consequence=_APART,
        needs=("tsc-write",),
        script=_restored_at_once(3, 100_000, 99_999, 99_998),
        claims=_same_tsc(3),
    ),
    Scenario(
        name="new-pair-at-once",
        contract=(
            "Two vCPUs of a new VM that run at once have one TSC: neither reads less than the other has "
            "before."
        ),
        source=(
            "check_tsc_warp() (arch/x86/kernel/tsc_sync.c), which a guest's kernel runs when it brings up a "
            "CPU"
        ),
        consequence=_CONSEQUENCE,
        needs=("stable-tsc", "two-cpus"),
        script=(*_two(), _MEET),
        claims=_NO_WARP,
    ),
    Scenario(
        name="restored-pair-at-once",
        contract=(
            "Two vCPUs that were restored one after the other, as QEMU does it, and run at once have one TSC."
        ),
        source="check_tsc_warp() (arch/x86/kernel/tsc_sync.c); QEMU, cpu_synchronize_all_post_init()",
        consequence=_CONSEQUENCE,
        needs=("tsc-write", "two-cpus"),
        script=(*_two(), Sleep(ns=50 * MS), _write(0, 100_000), Sleep(ns=5 * MS), _write(1, 100_002), _MEET),
        claims=_NO_WARP,
        promptly=Promptly("restore-0", "restore-1"),
    ),
    Scenario(
        name="offset-pair-at-once",
        contract="Two vCPUs with one offset, set by the attribute, that run at once have one TSC.",
        source="check_tsc_warp() (arch/x86/kernel/tsc_sync.c); OpenVMM and gVisor set one offset everywhere",
        consequence=_CONSEQUENCE,
        needs=("tsc-offset", "two-cpus"),
        script=(
            *_two(),
            GetTscOffset(vcpu=0, label="offset-new"),
            *(
                SetTscOffset(vcpu=vcpu, offset=Read("offset-new", Time(700 * MS)), label=f"set-{vcpu}")
                for vcpu in (0, 1)
            ),
            _MEET,
        ),
        claims=_NO_WARP,
    ),
    Scenario(
        name="hotplugged-at-once",
        contract=(
            "A vCPU that is added to a restored VM, and one that was there, have one TSC when they run at "
            "once."
        ),
        source="check_tsc_warp() (arch/x86/kernel/tsc_sync.c); QEMU's device_add of a vCPU",
        consequence=_CONSEQUENCE,
        needs=("tsc-write", "two-cpus"),
        script=(_two()[0], _write(0, 100_000), Sleep(ns=50 * MS), _two()[1], _MEET),
        claims=_NO_WARP,
    ),
    Scenario(
        name="clock-set-during-run",
        contract=(
            "When the clock is set while a vCPU runs, each vCPU's page is the clock that was set, from its "
            "next run on."
        ),
        source="kvm_start_pvclock_update(), which has all vCPUs leave their guests for KVM_SET_CLOCK",
        consequence="Part of the guest goes by the time of before, and its clock jumps between vCPUs.",
        needs=("stable-tsc", "masterclock", "clock-realtime", "two-cpus"),
        script=(
            CreateVcpu(vcpu=0, guest="warp-64", label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            GetTscOffset(vcpu=0, label="offset-0"),
            page_on(0),
            page_on(1),
            Run(vcpu=0, ns=5 * MS, label="guest-0-before"),
            *look_at_page(1, "before"),
            ReadKvmclock(vcpu=0, label="page-0-before"),
            SetClockDuringRun(vcpu=0, clock=Time(100_000 * MS), label="set"),
            ReadKvmclock(vcpu=0, label="page-0-at-once"),
            Run(vcpu=0, ns=5 * MS, label="guest-0-after"),
            ReadKvmclock(vcpu=0, label="page-0-after"),
            *look_at_page(1, "after"),
            GetClock(label="clock-after"),
        ),
        claims=(
            PageClaim(text="the page is stable", seen="page-0-after", stable=True),
            LineClaim(
                text="pages and clock are on one line",
                seen=("page-1-after", "clock-after"),
                expected="page-0-after",
            ),
        ),
    ),
)
