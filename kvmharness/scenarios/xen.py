# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of a guest whose VM is a Xen's: a page as the kvmclock's, twice, and a wall clock.

A guest of Xen that was moved to KVM keeps its time by these pages.
"""

from kvmharness.contract import LineClaim, PageClaim, TimeClaim, WallClockClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import SECOND, page_on, write
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscOffset,
    KvmclockCtrl,
    Ppm,
    Read,
    ReadKvmclock,
    ReadXenTime,
    ReadXenVcpuInfo,
    ReadXenWallClock,
    Run,
    Script,
    SetClock,
    SetTscKhz,
    SetXen,
    SetXenTime,
    Sleep,
    Time,
)

_FAR = Time(100 * SECOND)
_SELFTEST = "KVM selftest xen_shinfo_test"
_JUMP = "The clock of a guest that was moved from Xen to KVM jumps, or its vCPUs disagree about the time."
_BY = "kvm_guest_time_update(), which writes kvmclock page, vcpu_info and time info in turn"


def _guest(vcpu: int = 0) -> Script:
    """A vCPU with Xen's time, and with a kvmclock page to compare."""
    return (
        CreateVcpu(vcpu=vcpu, guest="rdtsc-16", label=f"create-{vcpu}"),
        page_on(vcpu),
        SetXenTime(vcpu=vcpu, label=f"xen-on-{vcpu}"),
    )


def _look(when: str, vcpu: int = 0) -> Script:
    """A run, and what is in the three pages then."""
    return (
        Run(vcpu=vcpu, label=f"guest-{vcpu}-{when}"),
        ReadKvmclock(vcpu=vcpu, label=f"page-{vcpu}-{when}"),
        ReadXenTime(vcpu=vcpu, label=f"time-{vcpu}-{when}"),
        ReadXenVcpuInfo(vcpu=vcpu, label=f"info-{vcpu}-{when}"),
    )


def _both(when: str, vcpu: int = 0) -> tuple[str, str]:
    """The labels of Xen's two pages."""
    return f"time-{vcpu}-{when}", f"info-{vcpu}-{when}"


def _is_clock(when: str, *others: str, vcpu: int = 0) -> LineClaim:
    """What _look() read of Xen's pages is the kvmclock, and so is what `others` read."""
    return LineClaim(
        text="Xen's time is the kvmclock at each TSC",
        seen=(*_both(when, vcpu), *others),
        expected=f"page-{vcpu}-{when}",
    )


def _whole(*labels: str) -> tuple[PageClaim, ...]:
    """Each page is written, whole and called stable."""
    return tuple(PageClaim(text="the page is whole and stable", seen=label, stable=True) for label in labels)


SCENARIOS = (
    Scenario(
        name="xen-time",
        contract="The time that a Xen tells a vCPU, in both places, is the kvmclock at each TSC.",
        source=f"{_SELFTEST} (versions of ti and ti2); {_BY}",
        consequence=_JUMP,
        needs=("xen-time", "masterclock"),
        script=(SetXen(label="xen"), *_guest(), *_look("before"), Sleep(ns=SECOND), *_look("after")),
        claims=(
            *_whole(*_both("before"), *_both("after")),
            _is_clock("before", *_both("after")),
            _is_clock("after"),
        ),
    ),
    Scenario(
        name="xen-time-alone",
        contract="A guest of Xen without a kvmclock page has the VM's clock all the same.",
        source="kvm_xen_vcpu_set_attr(), which asks for the vCPU's time to be written",
        consequence=_JUMP,
        needs=("xen-time", "masterclock", "clock-realtime", "tsc-offset"),
        script=(
            SetXen(label="xen"),
            CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-0"),
            SetXenTime(vcpu=0, label="xen-on-0"),
            Run(vcpu=0, label="guest"),
            ReadXenTime(vcpu=0, label="time"),
            GetTscOffset(vcpu=0, label="offset"),
            GetClock(label="clock"),
            SetClock(clock=_FAR, label="set"),
            Run(vcpu=0, label="guest-set"),
            ReadXenTime(vcpu=0, label="time-set"),
            ReadXenVcpuInfo(vcpu=0, label="info-set"),
            GetClock(label="clock-set"),
        ),
        claims=(
            *_whole("time", "time-set", "info-set"),
            LineClaim(text="KVM_GET_CLOCK tells Xen's time", seen=("clock",), expected="time"),
            LineClaim(text="and again", seen=("clock-set", "info-set"), expected="time-set"),
            TimeClaim(text="the clock continues from what was set", seen=("time-set",), expected="set"),
        ),
    ),
    Scenario(
        name="xen-wall-clock",
        contract="The wall clock that a Xen shares is the real time at which the VM's clock was 0.",
        source=f"{_SELFTEST} (wc, between min_ts and max_ts); kvm_xen_shared_info_init()",
        consequence="A guest that was moved from Xen to KVM has the wrong date.",
        needs=("xen-time", "clock-realtime"),
        script=(
            CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-0"),
            Run(vcpu=0, label="guest"),
            GetClock(label="clock"),
            ReadXenWallClock(label="wall-none"),
            SetXen(label="xen"),
            ReadXenWallClock(label="wall"),
            SetClock(clock=_FAR, label="set"),
            Run(vcpu=0, label="guest-set"),
            GetClock(label="clock-set"),
            SetXen(label="xen-again"),
            ReadXenWallClock(label="wall-again"),
        ),
        claims=(
            WallClockClaim(text="it is real time less clock", seen="wall", by="xen", expected="clock"),
            WallClockClaim(
                text="and again after the clock was set",
                seen="wall-again",
                by="xen-again",
                expected="clock-set",
            ),
        ),
    ),
    Scenario(
        name="xen-set-clock",
        contract="After KVM_SET_CLOCK Xen's time continues from what was set, and is the kvmclock.",
        source="kvm_vm_ioctl_set_clock(), which asks for all pages",
        consequence=_JUMP,
        needs=("xen-time", "masterclock"),
        script=(
            SetXen(label="xen"),
            *_guest(),
            *_look("before"),
            SetClock(clock=_FAR, label="set"),
            *_look("after"),
        ),
        claims=(
            TimeClaim(text="it continues from what was set", seen=_both("after"), expected="set"),
            _is_clock("before"),
            _is_clock("after"),
        ),
    ),
    Scenario(
        name="xen-hotplug",
        contract="A vCPU that is plugged in leaves Xen's time where it was, and has the same.",
        source="kvm_end_pvclock_update(), which asks for the pages of all vCPUs",
        consequence=_JUMP,
        needs=("xen-time", "masterclock"),
        script=(
            SetXen(label="xen"),
            *_guest(),
            *_look("before"),
            Sleep(ns=SECOND),
            *_guest(1),
            *_look("new", vcpu=1),
            *_look("after"),
        ),
        claims=(_is_clock("before", *_both("after"), *_both("new", vcpu=1)), _is_clock("new", vcpu=1)),
    ),
    Scenario(
        name="xen-shared-again",
        contract="Naming the page that a Xen shares once more leaves all clocks on their line.",
        source="kvm_xen_shared_info_init(), which up to 7.2 asks all vCPUs to look at the masterclock again",
        consequence=_JUMP,
        needs=("xen-time", "masterclock", "clock-realtime", "tsc-offset"),
        script=(
            SetXen(label="xen"),
            *_guest(),
            *_guest(1),
            *_look("before"),
            *_look("before", vcpu=1),
            GetTscOffset(vcpu=0, label="offset"),
            # By now it was looked at for the second vCPU, too.
            *_look("then"),
            Sleep(ns=SECOND),
            SetXen(label="xen-again"),
            *_look("after"),
            *_look("after", vcpu=1),
            GetClock(label="clock"),
        ),
        claims=(
            LineClaim(
                text="Xen's time and the kvmclock stay on their line",
                seen=(*_both("after"), "page-0-after", *_both("after", vcpu=1), "page-1-after", "clock"),
                expected="page-0-then",
            ),
        ),
    ),
    Scenario(
        name="xen-restore",
        contract="A guest of Xen that is restored with its TSC and its clock has one time in all its pages.",
        source="QEMU restores TSC and clock, and sets KVM_XEN_VCPU_SET_ATTR again (kvm_put_xen_state())",
        consequence=_JUMP,
        needs=("xen-time", "masterclock", "tsc-write"),
        script=(
            SetXen(label="xen"),
            *_guest(),
            *_look("before"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-saved"),
            GetClock(label="clock-saved"),
            Sleep(ns=SECOND // 10),
            write(0, Read("tsc-saved", _FAR), "tsc-restored"),
            SetXen(label="xen-again"),
            SetXenTime(vcpu=0, label="xen-on-again"),
            SetClock(clock=Read("clock-saved", _FAR), label="clock-restored"),
            *_look("after"),
        ),
        claims=(
            TimeClaim(
                text="the clock continues from what was set", seen=_both("after"), expected="clock-restored"
            ),
            _is_clock("before"),
            _is_clock("after"),
        ),
    ),
    Scenario(
        name="xen-scaled",
        contract="Xen's time of a vCPU with a TSC of its own rate is its kvmclock at each TSC.",
        source="kvm_guest_time_update(), which takes the rate of the vCPU's TSC",
        consequence=_JUMP,
        needs=("xen-time", "masterclock", "tsc-scaling"),
        script=(
            SetXen(label="xen"),
            *_guest(),
            SetTscKhz(vcpu=0, khz=Ppm(-333_337), label="set-khz"),
            *_look("before"),
            Sleep(ns=SECOND),
            *_look("after"),
        ),
        claims=(_is_clock("before", *_both("after")), _is_clock("after")),
    ),
    Scenario(
        name="xen-stopped",
        contract="KVM_KVMCLOCK_CTRL marks the kvmclock page, and none of Xen's, which have no such mark.",
        source="kvm_set_guest_paused(); kvm_guest_time_update(), which in older kernels marks all pages",
        consequence="A guest of Xen finds a bit set that its pages' protocol does not have.",
        needs=("xen-time", "masterclock"),
        script=(
            SetXen(label="xen"),
            *_guest(),
            *_look("before"),
            KvmclockCtrl(vcpu=0, label="ctrl"),
            *_look("after"),
        ),
        claims=(
            PageClaim(text="the kvmclock page is marked", seen="page-0-after", stopped=True),
            PageClaim(text="Xen's time info is not", seen="time-0-after", stopped=False),
            PageClaim(text="nor is its vcpu_info", seen="info-0-after", stopped=False),
            _is_clock("after"),
        ),
    ),
)
