# SPDX-License-Identifier: GPL-2.0-or-later
"""A Hyper-V's reference time: by its counter and by its TSC page a guest reads the VM's clock.

Windows takes its time from the TSC page, and from the counter where the page says that it is not valid.
"""

from kvmharness.contract import (
    ClockClaim,
    EmptyPageClaim,
    EndClaim,
    PageClaim,
    ReferenceClaim,
    RenewedClaim,
    SameClaim,
    TimeClaim,
)
from kvmharness.guests.layout import TSC_PAGE
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, SECOND, look_at_page, page_on, write
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GuestWrite,
    Ppm,
    Read,
    ReadKvmclock,
    ReadReferenceTime,
    ReadTscPage,
    Script,
    SetClock,
    SetHvCpuid,
    SetMsrs,
    SetTscKhz,
    Sleep,
    Time,
)

_ON = TSC_PAGE + 1
_LINUX = 0x8100 << 48  # HYPERV_LINUX_OS_ID
_FAR = Time(100 * SECOND)
_SELFTEST = "KVM selftest hyperv_clock"
_TLFS = "Hyper-V Top Level Functional Specification, 'Partition Reference Time Enlightenment'"
_JUMP = "The clock of a Windows guest jumps, or its vCPUs disagree about the time."


def _guest(vcpu: int) -> Script:
    """A vCPU whose guest takes its hypervisor for a Hyper-V, with a kvmclock page to compare."""
    return (
        CreateVcpu(vcpu=vcpu, guest="hyperv-16", label=f"create-{vcpu}"),
        SetHvCpuid(vcpu=vcpu, label=f"hv-cpuid-{vcpu}"),
        page_on(vcpu),
    )


def _tsc_page_on(label: str = "on") -> SetMsrs:
    """The host switches the TSC page on, as a VMM does at a restore."""
    msrs = (("HV_GUEST_OS_ID", _LINUX), ("HV_REFERENCE_TSC", _ON))
    return SetMsrs(vcpu=0, msrs=msrs, label=label)


def _look(vcpu: int, when: str) -> Script:
    """The guest reads its reference time, in both ways; then its kvmclock page."""
    return (
        ReadReferenceTime(vcpu=vcpu, label=f"guest-{vcpu}-{when}"),
        ReadKvmclock(vcpu=vcpu, label=f"page-{vcpu}-{when}"),
    )


def _count(label: str) -> GetMsrs:
    """The host reads the counter, between two readings of the TSC."""
    return GetMsrs(vcpu=0, indices=("TSC", "HV_TIME_REF_COUNT", "TSC"), label=label)


def _is_clock(when: str, *others: str, vcpu: int = 0, by_page: bool = True) -> ReferenceClaim:
    """What _look() read is the kvmclock that it read, and so is what `others` read."""
    return ReferenceClaim(
        text="the reference time is the kvmclock at each TSC",
        seen=(f"guest-{vcpu}-{when}", *others),
        expected=f"page-{vcpu}-{when}",
        by_page=by_page,
    )


SCENARIOS = (
    Scenario(
        name="hyperv-counter",
        contract="Without a TSC page the reference counter is the VM's clock, for guest and host.",
        source=f"{_SELFTEST} (check_tsc_msr_rdtsc, in host and guest); get_time_ref_counter()",
        consequence=_JUMP,
        needs=("hyperv-time", "masterclock"),
        script=(
            *_guest(0),
            GetMsrs(vcpu=0, indices=("HV_TSC_FREQUENCY",), label="frequency"),
            *_look(0, "before"),
            _count("host-before"),
            Sleep(ns=SECOND),
            *_look(0, "after"),
            _count("host-after"),
        ),
        claims=(
            _is_clock("before", "host-before", "guest-0-after", "host-after", by_page=False),
            EndClaim(text="there is a frequency", seen="frequency"),
        ),
    ),
    Scenario(
        name="hyperv-page",
        contract=(
            "A TSC page that the guest switches on is the VM's clock at each TSC, and what it was given for "
            "later it leaves alone."
        ),
        source=f"{_SELFTEST} (stages 3 to 5); {_TLFS}; kvm_hv_setup_tsc_page()",
        consequence=_JUMP,
        needs=("hyperv-time", "masterclock"),
        script=(
            *_guest(0),
            GuestWrite(vcpu=0, msr="HV_GUEST_OS_ID", value=_LINUX, label="os-id"),
            GuestWrite(vcpu=0, msr="HV_REFERENCE_TSC", value=TSC_PAGE, label="off"),
            ReadTscPage(label="tsc-page-off"),
            GuestWrite(vcpu=0, msr="HV_REFERENCE_TSC", value=_ON, label="on"),
            GetMsrs(vcpu=0, indices=("HV_REFERENCE_TSC",), label="msr"),
            *_look(0, "before"),
            ReadTscPage(label="tsc-page"),
            _count("host-before"),
            Sleep(ns=SECOND),
            *_look(0, "after"),
            _count("host-after"),
        ),
        claims=(
            EmptyPageClaim(text="a page that is off is not written", seen="tsc-page-off"),
            SameClaim(text="the MSR reads as it was written", seen="msr", expected="on"),
            _is_clock("before", "tsc-page", "host-before", "guest-0-after", "host-after"),
        ),
    ),
    Scenario(
        name="hyperv-far",
        contract="The reference time of a guest whose TSC has counted for long is the VM's clock as well.",
        source="get_time_ref_counter(), which multiplies the whole TSC: a scale that is off shows here most",
        consequence=_JUMP,
        needs=("hyperv-time", "masterclock", "tsc-write"),
        script=(
            *_guest(0),
            write(0, Time(1_000_000 * SECOND), "write"),
            _tsc_page_on(),
            *_look(0, "far"),
            _count("host-far"),
        ),
        claims=(_is_clock("far", "host-far"),),
    ),
    Scenario(
        name="hyperv-set-clock",
        contract=(
            "After KVM_SET_CLOCK the TSC page is another one under another sequence, and it tells the time "
            "that was set."
        ),
        source=f"{_SELFTEST} (stages 6 and 7, where the clock is set to 0); kvm_vm_ioctl_set_clock()",
        consequence=f"{_JUMP} A guest that does not see the page change waits until time catches up.",
        needs=("hyperv-time", "masterclock"),
        script=(
            *_guest(0),
            _tsc_page_on(),
            *_look(0, "before"),
            SetClock(clock=_FAR, label="set"),
            *_look(0, "after"),
            GetClock(label="clock"),
            _count("host-after"),
            SetClock(clock=0, label="set-0"),
            *_look(0, "zero"),
            GetClock(label="clock-0"),
        ),
        claims=(
            RenewedClaim(text="the page is new", seen="guest-0-after", expected="guest-0-before"),
            RenewedClaim(text="the page is new again", seen="guest-0-zero", expected="guest-0-after"),
            TimeClaim(
                text="the clock continues from what was set", seen=("page-0-after", "clock"), expected="set"
            ),
            TimeClaim(text="and again", seen=("page-0-zero", "clock-0"), expected="set-0"),
            _is_clock("after", "host-after"),
            _is_clock("zero"),
        ),
    ),
    Scenario(
        name="hyperv-set-clock-counter",
        contract=(
            "The counter tells the time that was set even before any vCPU runs again, and goes on from there "
            "once one has run."
        ),
        source="get_time_ref_counter(), which falls back to the clock while the page is old",
        consequence="What a VMM reads of a paused guest's time is of the wrong clock.",
        needs=("hyperv-time", "masterclock"),
        script=(
            *_guest(0),
            _tsc_page_on(),
            *_look(0, "before"),
            SetClock(clock=_FAR, label="set"),
            _count("host-paused"),
            *_look(0, "after"),
        ),
        claims=(
            TimeClaim(text="the clock continues from what was set", seen=("page-0-after",), expected="set"),
            _is_clock("after", "host-paused"),
        ),
    ),
    Scenario(
        name="hyperv-set-clock-one-runs",
        contract="After KVM_SET_CLOCK the TSC page is new for whichever vCPU runs first.",
        source=(
            "kvm_guest_time_update(), which writes the page; a page that waits for vCPU 0 is old for the "
            "others as long as that sleeps"
        ),
        consequence="Windows hangs for minutes after a pause: its other vCPUs go by the old page.",
        needs=("hyperv-time", "masterclock"),
        script=(
            *_guest(0),
            *_guest(1),
            _tsc_page_on(),
            *_look(1, "before"),
            *_look(0, "before"),
            SetClock(clock=_FAR, label="set"),
            *_look(1, "after"),
            *_look(0, "after"),
        ),
        claims=(
            RenewedClaim(text="the page is new", seen="guest-1-after", expected="guest-0-before"),
            _is_clock("after", "guest-0-after", vcpu=1),
        ),
    ),
    Scenario(
        name="hyperv-hotplug",
        contract="A vCPU that is plugged in leaves the reference time where it was, and has the same.",
        source="kvm_hv_request_tsc_page_update(), which comes with each look at the masterclock",
        consequence=_JUMP,
        needs=("hyperv-time", "masterclock"),
        script=(
            *_guest(0),
            _tsc_page_on(),
            *_look(0, "before"),
            Sleep(ns=100 * MS),
            *_guest(1),
            *_look(1, "new"),
            *_look(0, "after"),
        ),
        claims=(_is_clock("before", "guest-1-new", "guest-0-after"), _is_clock("new", vcpu=1)),
    ),
    Scenario(
        name="hyperv-restore",
        contract=(
            "A guest that is restored with its TSC, its clock and the MSRs of its reference time has one "
            "time by all of them."
        ),
        source=(
            "QEMU saves and restores HV_X64_MSR_REFERENCE_TSC and the guest OS id; KVM_GET_MSR_INDEX_LIST "
            "lists the counter as well, and a write of it by the host is ignored (kvm_hv_set_msr_pw)"
        ),
        consequence=_JUMP,
        needs=("hyperv-time", "masterclock", "tsc-write"),
        script=(
            *_guest(0),
            _tsc_page_on(),
            *_look(0, "before"),
            GetMsrs(
                vcpu=0,
                indices=("HV_REFERENCE_TSC", "HV_TIME_REF_COUNT", "HV_GUEST_OS_ID", "TSC"),
                label="saved",
            ),
            GetClock(label="clock-saved"),
            Sleep(ns=20 * MS),
            write(0, Read("saved", _FAR, place=3), "tsc-restored"),
            SetMsrs(
                vcpu=0,
                msrs=(
                    ("HV_GUEST_OS_ID", Read("saved", place=2)),
                    ("HV_REFERENCE_TSC", Read("saved")),
                    ("HV_TIME_REF_COUNT", Read("saved", place=1)),
                ),
                label="restored",
            ),
            SetClock(clock=Read("clock-saved", _FAR), label="clock-restored"),
            GetMsrs(vcpu=0, indices=("HV_REFERENCE_TSC",), label="msr"),
            *_look(0, "after"),
            _count("host-after"),
        ),
        claims=(
            EndClaim(text="all of them can be written", seen="restored"),
            SameClaim(text="the MSR reads as it was saved", seen="msr", expected="saved"),
            RenewedClaim(text="the page is new", seen="guest-0-after", expected="guest-0-before"),
            TimeClaim(
                text="the clock continues from what was set",
                seen=("page-0-after",),
                expected="clock-restored",
            ),
            _is_clock("after", "host-after"),
        ),
    ),
    Scenario(
        name="hyperv-reenlightenment",
        contract=(
            "A guest that asked for notice of a migration first keeps its TSC page across KVM_SET_CLOCK, and "
            "its counter goes by that page; one that switched it off keeps it as it was."
        ),
        source=f"{_SELFTEST} (stages 8 to 10); tsc_page_update_unsafe()",
        consequence="A nested Hyper-V, which copied the page for its own guests, has two clocks.",
        needs=("hyperv-time", "masterclock"),
        script=(
            *_guest(0),
            _tsc_page_on(),
            GuestWrite(
                vcpu=0, msr="HV_REENLIGHTENMENT_CONTROL", value=1 << 16 | 0xFF, label="reenlightenment"
            ),
            GuestWrite(vcpu=0, msr="HV_TSC_EMULATION_CONTROL", value=1, label="emulation"),
            *_look(0, "before"),
            ReadTscPage(label="tsc-page-before"),
            SetClock(clock=_FAR, label="set"),
            *_look(0, "kept"),
            _count("host-kept"),
            GuestWrite(vcpu=0, msr="HV_REENLIGHTENMENT_CONTROL", value=0, label="no-reenlightenment"),
            GuestWrite(vcpu=0, msr="HV_TSC_EMULATION_CONTROL", value=0, label="no-emulation"),
            GuestWrite(vcpu=0, msr="HV_REFERENCE_TSC", value=0, label="off"),
            SetClock(clock=0, label="set-0"),
            *_look(0, "off"),
        ),
        claims=(
            _is_clock("before"),
            RenewedClaim(
                text="the page is kept", seen="guest-0-kept", expected="tsc-page-before", renewed=False
            ),
            ReferenceClaim(
                text="the counter goes by the page that is kept",
                seen=("guest-0-kept", "host-kept"),
                expected="tsc-page-before",
            ),
            RenewedClaim(
                text="a page that is off is not written",
                seen="guest-0-off",
                expected="tsc-page-before",
                renewed=False,
            ),
        ),
    ),
    Scenario(
        name="hyperv-copied",
        contract=(
            "A TSC page that the guest asked to keep is kept where a VMM restores its MSR, but not where the "
            "guest itself writes that; once it is off the counter is the VM's clock."
        ),
        source="tsc_page_update_unsafe(); kvm_hv_set_msr_pw() notes who wrote HV_X64_MSR_REFERENCE_TSC",
        consequence="A nested Hyper-V that is migrated has two clocks.",
        needs=("hyperv-time", "masterclock"),
        script=(
            *_guest(0),
            _tsc_page_on(),
            GuestWrite(vcpu=0, msr="HV_TSC_EMULATION_CONTROL", value=1, label="emulation"),
            *_look(0, "before"),
            ReadTscPage(label="tsc-page-before"),
            SetClock(clock=_FAR, label="set"),
            _count("host-paused"),
            SetMsrs(vcpu=0, msrs=(("HV_REFERENCE_TSC", _ON),), label="on-again"),
            *_look(0, "kept"),
            _count("host-kept"),
            GuestWrite(vcpu=0, msr="HV_REFERENCE_TSC", value=_ON, label="on-by-guest"),
            *_look(0, "new"),
            _count("host-new"),
            GuestWrite(vcpu=0, msr="HV_REFERENCE_TSC", value=0, label="off"),
            SetClock(clock=0, label="set-0"),
            *_look(0, "off"),
            _count("host-off"),
        ),
        claims=(
            RenewedClaim(
                text="the page is kept", seen="guest-0-kept", expected="tsc-page-before", renewed=False
            ),
            ReferenceClaim(
                text="the counter goes by the page that is kept",
                seen=("host-paused", "guest-0-kept", "host-kept"),
                expected="tsc-page-before",
            ),
            RenewedClaim(text="the guest gets a new page", seen="guest-0-new", expected="tsc-page-before"),
            _is_clock("new", "host-new"),
            ReferenceClaim(
                text="without a page the counter is the kvmclock",
                seen=("host-off",),
                expected="page-0-off",
                by_page=False,
            ),
        ),
    ),
    Scenario(
        name="hyperv-matched-again",
        contract="Once the vCPUs' TSCs are the same again, the guest may go by the TSC page again.",
        source=(
            "kvm_hv_setup_tsc_page(): a page that could not be written once, HV_TSC_PAGE_BROKEN, is left "
            "until the guest writes the MSR again"
        ),
        consequence=(
            "After a restore that writes the vCPUs' TSCs one after the other a Windows guest exits for each "
            "look at its clock, for good."
        ),
        needs=("hyperv-time", "masterclock", "tsc-write"),
        script=(
            *_guest(0),
            *_guest(1),
            _tsc_page_on(),
            *_look(0, "before"),
            *_look(1, "before"),
            write(0, _FAR, "write-0"),
            *_look(0, "apart"),
            write(1, _FAR, "write-1"),
            *look_at_page(1, "again"),
            *_look(0, "again"),
            GetClock(label="clock"),
        ),
        claims=(
            ClockClaim(text="the vCPUs count together again", seen="clock", stable=True),
            PageClaim(text="the kvmclock page is stable again", seen="page-0-again", stable=True),
            _is_clock("before"),
            _is_clock("again"),
        ),
    ),
    Scenario(
        name="hyperv-scaled",
        contract="The reference time of a guest with a TSC of its own rate is its kvmclock at each TSC.",
        source="compute_tsc_page_parameters(), which takes the rate of the vCPU's kvmclock page",
        consequence=_JUMP,
        needs=("hyperv-time", "masterclock", "tsc-scaling"),
        script=(
            *_guest(0),
            SetTscKhz(vcpu=0, khz=Ppm(-333_337), label="set"),
            _tsc_page_on(),
            GetMsrs(vcpu=0, indices=("HV_TSC_FREQUENCY",), label="frequency"),
            *_look(0, "before"),
            Sleep(ns=SECOND),
            *_look(0, "after"),
            _count("host-after"),
        ),
        claims=(_is_clock("before", "guest-0-after", "host-after"),),
    ),
)
