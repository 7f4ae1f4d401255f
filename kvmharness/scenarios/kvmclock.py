# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's kvmclock page and the VM's clock: what they say of synchronized TSCs and of the time."""

from kvmharness.contract import ClockClaim, EndClaim, PageClaim, Promptly, RealtimeClaim, TimeClaim
from kvmharness.guests.layout import kvmclock_address
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import look_at_page, page_on
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GuestWrite,
    KvmclockCtrl,
    Ppm,
    Read,
    ReadKvmclock,
    Run,
    Script,
    SetClock,
    SetMsrs,
    SetTscKhz,
    Sleep,
    Time,
)

MS = 1_000_000

_MSR = "Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW"
_API = "Documentation/virt/kvm/api.rst"
_JUMP = "The guest's clock jumps, or its vCPUs disagree about the time."


def _write(vcpu: int, ms: int, label: str) -> SetMsrs:
    return SetMsrs(vcpu=vcpu, msrs=(("TSC", Time(ms * MS)),), label=label)


_TWO: Script = (
    CreateVcpu(vcpu=0, label="create-0"),
    CreateVcpu(vcpu=1, label="create-1"),
    page_on(0),
    page_on(1),
    *look_at_page(1, "before"),
    *look_at_page(0, "before"),
)
_STABLE_BEFORE = tuple(
    PageClaim(
        text=f"vCPU {vcpu}'s page says that the vCPUs count together", seen=f"page-{vcpu}-before", stable=True
    )
    for vcpu in (0, 1)
)

SCENARIOS = (
    Scenario(
        name="page-after-run",
        contract=(
            "The guest's kvmclock page is there once the vCPU has run, and with its TSC the guest computes "
            "the time that KVM_GET_CLOCK reports."
        ),
        source=f"{_MSR}; kvm_guest_time_update() and pvclock_clocksource_read()",
        consequence=_JUMP,
        needs=("masterclock",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            Sleep(ns=20 * MS),
            page_on(0),
            *look_at_page(0, "first"),
            GetClock(label="clock"),
            Sleep(ns=20 * MS),
            *look_at_page(0, "later"),
            GetClock(label="clock-later"),
        ),
        claims=(
            PageClaim(text="the page is there, and stable", seen="page-0-first", stable=True, stopped=False),
            TimeClaim(
                text="the guest's time is that of KVM_GET_CLOCK",
                seen=("page-0-first", "clock", "clock-later"),
                expected="page-0-later",
            ),
        ),
    ),
    Scenario(
        name="page-by-guest",
        contract="A guest that switches its kvmclock page on by WRMSR finds it written when it continues.",
        source=f"{_MSR}; kvm_write_system_time()",
        consequence="The guest reads an empty page, and its clock stands still.",
        needs=("masterclock",),
        script=(
            CreateVcpu(vcpu=0, guest="wrmsr-16", label="create"),
            ReadKvmclock(vcpu=0, label="page-empty"),
            GuestWrite(vcpu=0, msr="SYSTEM_TIME", value=kvmclock_address(0) + 1, label="guest-page-on"),
            ReadKvmclock(vcpu=0, label="page"),
            GetClock(label="clock"),
        ),
        claims=(
            PageClaim(text="the page is there, and stable", seen="page", stable=True, stopped=False),
            TimeClaim(text="the guest's time is that of KVM_GET_CLOCK", seen=("page",), expected="clock"),
        ),
    ),
    Scenario(
        name="page-unstable-when-parted",
        contract=(
            "Once a vCPU's TSC is written apart from the other's, and both have run, no kvmclock page calls "
            "the clock stable."
        ),
        source=f"{_MSR}, flags; kvm_track_tsc_matching()",
        consequence=(
            "The guest considers its vCPUs' TSCs synchronized, reads them without care, and sees time run "
            "back."
        ),
        needs=("tsc-write", "masterclock"),
        script=(
            *_TWO,
            _write(1, 100_000, "part"),
            *look_at_page(1, "parted"),
            *look_at_page(0, "parted"),
            GetClock(label="clock-parted"),
        ),
        claims=(
            *_STABLE_BEFORE,
            PageClaim(text="vCPU 1's page is not stable any more", seen="page-1-parted", stable=False),
            PageClaim(text="vCPU 0's page is not stable any more", seen="page-0-parted", stable=False),
            TimeClaim(
                text="the guest's time continues, whichever vCPU reads it",
                seen=("page-1-parted", "page-0-parted", "clock-parted"),
                expected="page-0-before",
            ),
        ),
    ),
    Scenario(
        name="page-stable-again",
        contract=(
            "vCPUs that were set apart, and are then written together, have stable kvmclock pages again once "
            "they have run."
        ),
        source=f"{_MSR}, flags; kvm_track_tsc_matching(); a restore into a VM whose vCPUs had been set apart",
        consequence="The guest's clock stays slow and unstable after every restore.",
        needs=("tsc-write", "masterclock"),
        script=(
            *_TWO,
            _write(1, 100_000, "part"),
            *look_at_page(1, "parted"),
            _write(0, 200_000, "together-0"),
            _write(1, 200_000, "together-1"),
            *look_at_page(0, "again-first"),
            *look_at_page(1, "again"),
            *look_at_page(0, "again"),
            GetClock(label="clock-again"),
        ),
        claims=(
            PageClaim(text="vCPU 1's page is stable again", seen="page-1-again", stable=True),
            PageClaim(text="vCPU 0's page is stable again", seen="page-0-again", stable=True),
            ClockClaim(text="KVM_GET_CLOCK agrees", seen="clock-again", stable=True),
            TimeClaim(
                text="the guest's time continues, whichever vCPU reads it",
                seen=("page-1-again", "page-0-again", "clock-again"),
                expected="page-0-before",
            ),
        ),
        promptly=Promptly("together-0", "together-1"),
    ),
    Scenario(
        name="old-kvmclock-is-not-stable",
        contract=(
            "When the first vCPU's guest switches its page on by the old MSR, no page calls the clock stable."
        ),
        source=f"{_MSR.replace('_NEW', '')}; kvm_write_system_time(), boot_vcpu_runs_old_kvmclock",
        consequence="An old guest, which cannot make use of the masterclock, gets a clock that jumps.",
        needs=("masterclock",),
        script=(
            CreateVcpu(vcpu=0, guest="wrmsr-16", label="create"),
            Run(vcpu=0, label="guest-before"),
            GetClock(label="clock-before"),
            GuestWrite(vcpu=0, msr="SYSTEM_TIME_OLD", value=kvmclock_address(0) + 1, label="guest-page-on"),
            ReadKvmclock(vcpu=0, label="page"),
            GetClock(label="clock"),
        ),
        claims=(
            ClockClaim(text="the clock is stable before", seen="clock-before", stable=True),
            PageClaim(text="the page is there, and not stable", seen="page", stable=False),
            ClockClaim(text="KVM_GET_CLOCK agrees", seen="clock", stable=False),
            TimeClaim(text="the guest's time continues", seen=("page", "clock"), expected="clock-before"),
        ),
    ),
    Scenario(
        name="page-follows-write",
        contract=(
            "The guest's time continues as before when its host writes the TSC: its page moves with its TSC."
        ),
        source=f"{_MSR}; kvm_track_tsc_matching(), which has the pages written again for a new generation",
        consequence=_JUMP,
        needs=("tsc-write", "masterclock"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            _write(0, 100_000, "write"),
            *look_at_page(0, "after"),
            GetClock(label="clock"),
        ),
        claims=(
            PageClaim(text="the page is stable", seen="page-0-after", stable=True),
            TimeClaim(
                text="the guest's time continues", seen=("page-0-after", "clock"), expected="page-0-before"
            ),
        ),
    ),
    Scenario(
        name="page-follows-adjust",
        contract=(
            "The guest's time continues as before when its guest writes TSC_ADJUST: its page moves with its "
            "TSC."
        ),
        source=(
            "commit d9130a2dfdd4: tsc_timestamp must be adjusted as well, or the guest's pvclock time jumps"
        ),
        consequence=_JUMP,
        needs=("tsc-write", "masterclock"),
        script=(
            CreateVcpu(vcpu=0, guest="wrmsr-16", label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            GuestWrite(vcpu=0, msr="TSC_ADJUST", value=Time(10_000 * MS), label="forth"),
            ReadKvmclock(vcpu=0, label="page-after"),
            GetClock(label="clock"),
        ),
        claims=(
            PageClaim(text="the page is stable", seen="page-after", stable=True),
            TimeClaim(
                text="the guest's time continues", seen=("page-after", "clock"), expected="page-0-before"
            ),
        ),
    ),
    Scenario(
        name="page-at-half-rate",
        contract=(
            "The kvmclock page of a vCPU that gets half its rate, and then a TSC, gives the time by that "
            "rate."
        ),
        source=f"{_MSR}, tsc_to_system_mul; kvm_guest_time_update() and hw_tsc_khz",
        consequence=(
            "The clock of a guest that was migrated from a host with another TSC runs at a wrong rate."
        ),
        needs=("tsc-scaling", "masterclock"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            SetTscKhz(vcpu=0, khz=Ppm(-500_000), label="set"),
            _write(0, 100_000, "write"),
            *look_at_page(0, "first"),
            Sleep(ns=100 * MS),
            *look_at_page(0, "later"),
            GetClock(label="clock"),
        ),
        claims=(
            PageClaim(text="the page is stable", seen="page-0-later", stable=True),
            TimeClaim(
                text="the guest's time continues",
                seen=("page-0-first", "page-0-later", "clock"),
                expected="page-0-before",
            ),
        ),
    ),
    Scenario(
        name="set-clock",
        contract=(
            "The VM's clock continues from what KVM_SET_CLOCK says, in KVM_GET_CLOCK and in the guest's page."
        ),
        source=f"{_API}, KVM_SET_CLOCK; QEMU's and Firecracker's restore",
        consequence="A restored guest's clock is wrong.",
        needs=("masterclock",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            GetClock(label="clock-before"),
            SetClock(clock=Time(100_000 * MS), label="set"),
            GetClock(label="clock-set"),
            Sleep(ns=20 * MS),
            *look_at_page(0, "after"),
            GetClock(label="clock-after"),
        ),
        claims=(
            TimeClaim(
                text="the clock continues from what was set",
                seen=("clock-set", "page-0-after", "clock-after"),
                expected="set",
            ),
            PageClaim(text="the page is stable", seen="page-0-after", stable=True),
        ),
    ),
    Scenario(
        name="set-clock-with-realtime",
        contract=(
            "A clock that is saved with KVM_GET_CLOCK, and is later set with the real time of then, has "
            "advanced with real time."
        ),
        source=(
            f"{_API}, KVM_SET_CLOCK and KVM_CLOCK_REALTIME (Linux 5.16); "
            "Documentation/virt/kvm/devices/vcpu.rst"
        ),
        consequence="The guest's clock falls back by as long as the migration took.",
        needs=("clock-realtime",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            GetClock(label="saved"),
            Sleep(ns=1000 * MS),
            # As if the VM were another one, whose clock has counted from its own creation.
            SetClock(clock=0, label="reset"),
            SetClock(clock=Read("saved"), realtime=Read("saved", place=2), label="restored"),
            GetClock(label="clock-after"),
            *look_at_page(0, "after"),
        ),
        claims=(
            RealtimeClaim(
                text="the clock has advanced with real time",
                before="saved",
                by="restored",
                after="clock-after",
            ),
            TimeClaim(
                text="the guest's time is that of KVM_GET_CLOCK",
                seen=("page-0-after",),
                expected="clock-after",
            ),
        ),
    ),
    Scenario(
        name="set-clock-ahead-of-realtime",
        contract=(
            "A clock that is set with a real time that is yet to come continues from what was set, not from "
            "less."
        ),
        source=(
            f"{_API}, KVM_SET_CLOCK and KVM_CLOCK_REALTIME; kvm_vm_ioctl_set_clock() never steps it backwards"
        ),
        consequence="A guest that comes from a host whose real time is ahead finds its clock set back.",
        needs=("clock-realtime",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            GetClock(label="saved"),
            SetClock(
                clock=Time(100_000 * MS), realtime=Read("saved", Time(50_000 * MS), place=2), label="set"
            ),
            GetClock(label="clock-set"),
            *look_at_page(0, "after"),
        ),
        claims=(
            TimeClaim(
                text="the clock continues from what was set",
                seen=("clock-set", "page-0-after"),
                expected="set",
            ),
            PageClaim(text="the page is stable", seen="page-0-after", stable=True),
        ),
    ),
    Scenario(
        name="stopped-is-told",
        contract=(
            "After KVM_KVMCLOCK_CTRL, once it runs again, the guest's kvmclock page says that it was stopped."
        ),
        source=f"{_API}, KVM_KVMCLOCK_CTRL; QEMU calls it on every vCPU whenever it continues",
        consequence=("A guest that was paused for long reports a lockup of its own, or panics."),
        needs=("masterclock",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            KvmclockCtrl(vcpu=0, label="too-early"),
            page_on(0),
            *look_at_page(0, "before"),
            KvmclockCtrl(vcpu=0, label="stopped"),
            *look_at_page(0, "after"),
        ),
        claims=(
            EndClaim(text="without a page it is refused", seen="too-early", errors=("EINVAL",)),
            PageClaim(text="before, the page does not say so", seen="page-0-before", stopped=False),
            PageClaim(text="then it says so", seen="page-0-after", stopped=True, stable=True),
        ),
    ),
    Scenario(
        name="stopped-stays-told",
        contract=(
            "A kvmclock page that says that the guest was stopped still says so when it is written again, "
            "until the guest clears the flag."
        ),
        source=f"{_API}, KVM_KVMCLOCK_CTRL; kvm_setup_guest_pvclock()",
        consequence=("A guest that was paused for long reports a lockup of its own, or panics."),
        needs=("masterclock",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            KvmclockCtrl(vcpu=0, label="stopped"),
            *look_at_page(0, "stopped"),
            SetClock(clock=Time(100_000 * MS), label="set"),
            *look_at_page(0, "after"),
        ),
        claims=(
            PageClaim(text="the page says that the guest was stopped", seen="page-0-stopped", stopped=True),
            PageClaim(text="written again, it still does", seen="page-0-after", stopped=True),
        ),
    ),
)
