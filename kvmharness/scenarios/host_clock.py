# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's own clock leaves the TSC, and comes back to it, while VMs live.

A kernel that finds its TSC unreliable takes another clocksource, and an administrator may ask for one.
From then on no kvmclock page may be called stable: the guest's clock follows the host's, and not the TSC.
Only the lab's machines are changed so.
"""

from kvmharness.contract import ClockClaim, EndClaim, LineClaim, OffsetClaim, PageClaim, SameClaim, TimeClaim
from kvmharness.guests.layout import TSC_PAGE
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, SECOND, look_at_page, page_on, write
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscOffset,
    Read,
    ReadTscPage,
    Run,
    Script,
    SetClock,
    SetClocksource,
    SetHvCpuid,
    SetMsrs,
    Sleep,
    Time,
)

_NOTIFIER = (
    "pvclock_gtod_notify(): 'Disable master clock if host does not trust, or does not use, TSC clocksource'"
)
_TIME_RUNS_BACK = (
    "The guest goes on without asking whether another vCPU was ahead, and its clock runs backwards between "
    "vCPUs."
)
_LINUX = 0x8100 << 48  # HYPERV_LINUX_OS_ID
_FAR = Time(100 * SECOND)


def _leave(wait: int = 100 * MS) -> Script:
    """The host's clock leaves the TSC; a worker of KVM's then asks all vCPUs to look at their clocks."""
    return (SetClocksource(tsc=False, label="leave"), Sleep(ns=wait))


def _come_back() -> Script:
    return (SetClocksource(tsc=True, label="come-back"), Sleep(ns=100 * MS))


SCENARIOS = (
    Scenario(
        name="host-clock-leaves-tsc",
        contract=(
            "Once the host's clock runs on the TSC no longer, KVM calls no clock stable: not in the page of "
            "a vCPU that runs, and not in KVM_GET_CLOCK."
        ),
        source=f"{_NOTIFIER}; Documentation/virt/kvm/api.rst, KVM_CLOCK_TSC_STABLE",
        consequence=_TIME_RUNS_BACK,
        needs=("clocksource",),
        alone=True,
        script=(
            *(
                step
                for vcpu in range(2)
                for step in (CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}"), page_on(vcpu))
            ),
            *(step for vcpu in range(2) for step in look_at_page(vcpu, "before")),
            GetClock(label="clock-before"),
            *_leave(),
            *(step for vcpu in range(2) for step in look_at_page(vcpu, "after")),
            GetClock(label="clock-after"),
        ),
        claims=(
            *(
                PageClaim(text="the page was stable", seen=f"page-{vcpu}-before", stable=True)
                for vcpu in range(2)
            ),
            *(
                PageClaim(text="the page is stable no longer", seen=f"page-{vcpu}-after", stable=False)
                for vcpu in range(2)
            ),
            ClockClaim(text="KVM_GET_CLOCK reports so", seen="clock-after", stable=False),
        ),
    ),
    Scenario(
        name="host-clock-time-goes-on",
        contract="The guest's clock continues where it was when the host's clock leaves the TSC.",
        source=f"{_NOTIFIER}; get_kvmclock_base_ns(), which both clocksources advance alike",
        consequence="The guest's clock jumps while it runs, by as much as the two clocks are apart.",
        needs=("clocksource",),
        alone=True,
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            Sleep(ns=SECOND),
            *look_at_page(0, "before"),
            GetClock(label="clock-before"),
            SetClocksource(tsc=False, label="leave"),
            GetClock(label="clock-at-once"),
            Sleep(ns=100 * MS),
            *look_at_page(0, "after"),
            GetClock(label="clock-after"),
        ),
        claims=(
            TimeClaim(
                text="page and clock go on",
                seen=("page-0-before", "clock-at-once", "page-0-after", "clock-after"),
                expected="clock-before",
            ),
        ),
    ),
    Scenario(
        name="host-clock-keeps-tscs",
        contract="No vCPU's TSC moves when the host's clock leaves the TSC or comes back to it.",
        source=f"{_NOTIFIER}: the masterclock alone is concerned",
        consequence="Whatever the guest keeps by its TSC, timers first, is early or late.",
        needs=("clocksource", "tsc-write"),
        alone=True,
        script=(
            CreateVcpu(vcpu=0, label="create"),
            write(0, _FAR, "write"),
            Run(vcpu=0, label="guest-before"),
            *_leave(),
            GetTscOffset(vcpu=0, label="offset-away"),
            Run(vcpu=0, label="guest-away"),
            *_come_back(),
            GetTscOffset(vcpu=0, label="offset-back"),
            Run(vcpu=0, label="guest-back"),
        ),
        claims=(
            OffsetClaim(
                text="the TSC goes on as it was written",
                seen=("guest-before", "offset-away", "guest-away", "offset-back", "guest-back"),
                expected=("write",),
            ),
        ),
    ),
    Scenario(
        name="host-clock-restore-across",
        contract=(
            "Two vCPUs that are restored one after the other count together, though the host's clock left "
            "the TSC between the two."
        ),
        source="kvm_synchronize_tsc(), which takes the time that passed from the host's raw clock",
        consequence="The vCPUs' TSCs part for good, and so does all that the guest keeps by them.",
        needs=("clocksource", "tsc-write"),
        alone=True,
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            write(0, _FAR, "write-0"),
            *_leave(),
            write(1, Time(100 * SECOND + 100 * MS), "write-1"),
            GetTscOffset(vcpu=0, label="offset-0"),
            GetTscOffset(vcpu=1, label="offset-1"),
            Run(vcpu=0, label="guest-0"),
            Run(vcpu=1, label="guest-1"),
        ),
        claims=(
            OffsetClaim(
                text="vCPU 1 counts together with vCPU 0",
                seen=("offset-1", "guest-1"),
                expected=("offset-0", "guest-0"),
                instead="write-1",
                otherwise="it was given a TSC of its own",
                together=("write-0", "write-1"),
            ),
        ),
    ),
    Scenario(
        name="host-clock-comes-back",
        contract="Once the host's clock runs on the TSC again, a guest's clock that was stable is so again.",
        source=(
            "pvclock_gtod_notify() and pvclock_gtod_update_fn(): KVM asks its vCPUs to look again when the "
            "clocksource is not the TSC, and not when it is"
        ),
        consequence=(
            "Until somebody sets the clock or plugs a vCPU in, a guest takes its time by a variable that all "
            "vCPUs share, and the programs of a Linux guest by a system call instead of the vDSO."
        ),
        needs=("clocksource",),
        alone=True,
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            *_leave(),
            *look_at_page(0, "away"),
            *_come_back(),
            *look_at_page(0, "back"),
            GetClock(label="clock-back"),
        ),
        claims=(
            PageClaim(text="the page was stable", seen="page-0-before", stable=True),
            PageClaim(text="the page is stable again", seen="page-0-back", stable=True),
            ClockClaim(text="KVM_GET_CLOCK reports so", seen="clock-back", stable=True),
        ),
    ),
    Scenario(
        name="host-clock-set-after",
        contract=(
            "A clock that is set once the host's clock runs on the TSC again is stable, continues from there "
            "and stays one function of the TSC."
        ),
        source="kvm_vm_ioctl_set_clock(), which has the masterclock looked at again",
        consequence=_TIME_RUNS_BACK,
        needs=("clocksource",),
        alone=True,
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            *_leave(),
            *look_at_page(0, "away"),
            *_come_back(),
            GetClock(label="clock-back"),
            SetClock(clock=Read("clock-back", 50 * SECOND), label="set"),
            *look_at_page(0, "set"),
            Sleep(ns=100 * MS),
            *look_at_page(0, "later"),
            GetClock(label="clock-later"),
        ),
        claims=(
            PageClaim(text="the page is stable again", seen="page-0-set", stable=True),
            TimeClaim(
                text="the clock goes on from what was set",
                seen=("page-0-set", "page-0-later"),
                expected="set",
            ),
            LineClaim(text="the page stays on its line", seen=("page-0-later",), expected="page-0-set"),
            ClockClaim(text="KVM_GET_CLOCK calls it stable", seen="clock-later", stable=True),
        ),
    ),
    Scenario(
        name="host-clock-hyperv",
        contract="Once the host's clock runs on the TSC no longer, no guest is to go by its TSC page.",
        source=(
            "Hyper-V Top Level Functional Specification, 'Partition Reference Time Enlightenment'; "
            "kvm_hv_setup_tsc_page(), where the clock is not stable"
        ),
        consequence="The clock of a Windows guest goes on by a TSC that its host mistrusts.",
        needs=("clocksource", "hyperv-time", "tsc-page-status"),
        alone=True,
        script=(
            CreateVcpu(vcpu=0, guest="hyperv-16", label="create"),
            SetHvCpuid(vcpu=0, label="hv-cpuid"),
            ReadTscPage(label="tsc-page-off"),
            SetMsrs(
                vcpu=0, msrs=(("HV_GUEST_OS_ID", _LINUX), ("HV_REFERENCE_TSC", TSC_PAGE + 1)), label="on"
            ),
            Run(vcpu=0, label="guest-before"),
            ReadTscPage(label="tsc-page-before"),
            *_leave(),
            Run(vcpu=0, label="guest-after"),
            ReadTscPage(label="tsc-page-after"),
            GetMsrs(vcpu=0, indices=("HV_TIME_REF_COUNT",), label="count"),
        ),
        claims=(
            SameClaim(text="the page's sequence is 0 again", seen="tsc-page-after", expected="tsc-page-off"),
            EndClaim(text="the counter still counts", seen="count"),
        ),
    ),
)
