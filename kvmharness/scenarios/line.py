# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmclock as a function of the TSC: whatever a VM goes through, at one TSC its guest reads one time.

What moves it moves the guest's clock against its TSC, by which the guest keeps time between two looks at the
page. A step back is the worst: the guest sees time run backwards.
"""

from kvmharness.contract import LineClaim, PageClaim, TimeClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, SECOND, look_at_page, page_on
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscOffset,
    GuestWrite,
    MoveThread,
    Ppm,
    Read,
    Run,
    SetClock,
    SetMsrs,
    SetTscKhz,
    Sleep,
    Time,
)

# In these two the figure is of a machine whose KVM was loaded before its kernel had corrected the rate of the
# TSC by 49 millionths (the lab's amd-early).
_MINUTES = (
    "The running guest sees its clock step back: by 29.4 ms after ten minutes on a host that corrected "
    "the rate of its TSC by 49 millionths after KVM was loaded, and by more the longer the VM was up"
)
_ALL_TOLD = "An unmerged series of 2026 ('Cleaning up the KVM clock mess')"
_FAR = Time(100 * SECOND)
_TWENTY = 20

SCENARIOS = (
    Scenario(
        name="line-across-runs",
        contract=(
            "The guest's page and KVM_GET_CLOCK report one time at one TSC, however often the guest runs."
        ),
        source=(
            "Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW; kvm_guest_time_update(), "
            "get_kvmclock()"
        ),
        consequence="A VMM that saves clock and TSC saves two times that do not belong together.",
        needs=("clock-realtime",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "first"),
            GetTscOffset(vcpu=0, label="offset"),
            GetClock(label="clock"),
            Sleep(ns=SECOND),
            *look_at_page(0, "later"),
            GetClock(label="clock-later"),
        ),
        claims=(
            LineClaim(
                text="page and clock are on one line",
                seen=("clock", "page-0-later", "clock-later"),
                expected="page-0-first",
            ),
        ),
    ),
    Scenario(
        name="line-across-hotplug",
        contract="A vCPU that is plugged in leaves the kvmclock of the one that runs where it was.",
        source=(
            "commit c52ffadc65e2, which no longer forces a masterclock update at hotplug; a distribution's "
            "test waits three hours for the jump"
        ),
        consequence=f"{_MINUTES}.",
        needs=("masterclock",),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            page_on(0),
            *look_at_page(0, "before"),
            Sleep(ns=SECOND),
            CreateVcpu(vcpu=1, label="create-1"),
            page_on(1),
            *look_at_page(1, "new"),
            *look_at_page(0, "after"),
        ),
        claims=(
            LineClaim(
                text="vCPU 0's clock stays where it was", seen=("page-0-after",), expected="page-0-before"
            ),
            LineClaim(text="vCPU 1's clock is vCPU 0's", seen=("page-1-new",), expected="page-0-after"),
        ),
    ),
    Scenario(
        name="line-across-first-run",
        contract="A vCPU that first runs later than the other leaves the other's kvmclock where it was.",
        source=(
            "kvm_track_tsc_matching(): each vCPU asks for a new masterclock when it is created or restored, "
            "and gets it when it first runs"
        ),
        consequence=f"{_MINUTES}.",
        needs=("masterclock",),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            page_on(0),
            page_on(1),
            *look_at_page(0, "before"),
            Sleep(ns=SECOND),
            *look_at_page(1, "first"),
            *look_at_page(0, "after"),
        ),
        claims=(
            LineClaim(
                text="vCPU 0's clock stays where it was", seen=("page-0-after",), expected="page-0-before"
            ),
        ),
    ),
    Scenario(
        name="line-of-scaled-vcpu",
        contract=(
            "KVM_GET_CLOCK reports the time that a guest with a TSC of its own rate computes from its page."
        ),
        source=(
            f"{_ALL_TOLD}, patches on KVM_GET_CLOCK with TSC scaling: the page's rate is a whole number of"
            " kHz"
        ),
        consequence=(
            "A restored guest's clock is off: by 60 ms after 2000 s at 333,337 millionths below a host's "
            "50 MHz, less at higher rates."
        ),
        needs=("tsc-scaling", "clock-realtime"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            SetTscKhz(vcpu=0, khz=Ppm(-333_337), label="set"),
            page_on(0),
            *look_at_page(0, "first"),
            Sleep(ns=SECOND),
            *look_at_page(0, "later"),
            GetClock(label="clock-later"),
        ),
        claims=(
            LineClaim(text="the page stays on its line", seen=("page-0-later",), expected="page-0-first"),
            LineClaim(text="the clock is on it", seen=("clock-later",), expected="page-0-first"),
        ),
    ),
    Scenario(
        name="line-across-restore",
        contract=(
            "A guest whose TSC and clock are saved and restored one after the other has one clock all the"
            " same."
        ),
        source=(
            "QEMU, Firecracker and Cloud Hypervisor save and restore the two by different ioctls; "
            f"{_ALL_TOLD}: KVM_SET_CLOCK_GUEST"
        ),
        consequence=(
            "The guest's clock moves against its TSC by the time between the two writes less that between"
            " the two readings, at each restore."
        ),
        needs=("tsc-write", "masterclock"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-saved"),
            Sleep(ns=20 * MS),
            GetClock(label="clock-saved"),
            # So much later that the write does not synchronize, by TSC and clock alike.
            SetMsrs(vcpu=0, msrs=(("TSC", Read("tsc-saved", _FAR)),), label="tsc-restored"),
            Sleep(ns=300 * MS),
            SetClock(clock=Read("clock-saved", _FAR), label="clock-restored"),
            *look_at_page(0, "after"),
        ),
        claims=(
            LineClaim(
                text="the clock is what it was at each TSC", seen=("page-0-after",), expected="page-0-before"
            ),
        ),
    ),
    Scenario(
        name="line-across-pause",
        contract=(
            "A clock that is restored with the real time of its saving has not moved against the guest's TSC."
        ),
        source=(
            "Documentation/virt/kvm/api.rst, KVM_SET_CLOCK and KVM_CLOCK_REALTIME: only the clock is moved on"
        ),
        consequence=(
            "The guest's kvmclock has advanced over the migration, its TSC and whatever it keeps by it "
            "have not."
        ),
        needs=("tsc-write", "clock-realtime"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-saved"),
            GetClock(label="clock-saved"),
            Sleep(ns=100 * MS),
            SetMsrs(vcpu=0, msrs=(("TSC", Read("tsc-saved", _FAR)),), label="tsc-restored"),
            SetClock(
                clock=Read("clock-saved", _FAR), realtime=Read("clock-saved", place=2), label="clock-restored"
            ),
            *look_at_page(0, "after"),
        ),
        claims=(
            LineClaim(
                text="the clock is what it was at each TSC", seen=("page-0-after",), expected="page-0-before"
            ),
        ),
    ),
    Scenario(
        name="page-follows-guest-write",
        contract=(
            "The guest's time continues as before when its guest writes MSR_IA32_TSC: its page moves with "
            "its TSC."
        ),
        source="kvm_set_msr_common(), MSR_IA32_TSC: unlike TSC_ADJUST it does not ask for a new page",
        consequence=(
            "The guest's clock jumps by as much as it wrote, until KVM happens to write the page again."
        ),
        needs=("tsc-write", "masterclock"),
        script=(
            CreateVcpu(vcpu=0, guest="wrmsr-16", label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            GuestWrite(vcpu=0, msr="TSC", value=Time(10 * SECOND), label="forth"),
            *look_at_page(0, "after"),
            GetClock(label="clock"),
        ),
        claims=(
            PageClaim(text="there is a page", seen="page-0-before"),
            TimeClaim(
                text="the guest's time continues", seen=("page-0-after", "clock"), expected="page-0-before"
            ),
        ),
    ),
    Scenario(
        name="twenty-vcpus",
        contract="Twenty vCPUs that are created in turn, while earlier ones run, have one clock.",
        source="KVM selftest tsc_scaling_sync, which creates twenty in turn while earlier ones run",
        consequence="A guest's CPUs disagree about the time, the later ones most.",
        needs=("masterclock",),
        script=(
            *(
                step
                for vcpu in range(_TWENTY)
                for step in (
                    CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}"),
                    page_on(vcpu),
                    Run(vcpu=vcpu, label=f"guest-{vcpu}"),
                    Run(vcpu=0, label=f"guest-0-beside-{vcpu}"),
                )
            ),
            *(step for vcpu in range(_TWENTY) for step in look_at_page(vcpu, "all")),
        ),
        claims=(
            PageClaim(text="the first page is stable", seen="page-0-all", stable=True),
            LineClaim(
                text="all pages are on one line",
                seen=tuple(f"page-{vcpu}-all" for vcpu in range(1, _TWENTY)),
                expected="page-0-all",
            ),
        ),
    ),
    Scenario(
        name="line-across-move",
        contract="The guest's clock stays where it was when its thread moves to another CPU.",
        source=(
            "kvm_arch_vcpu_load(); commit 8fe2e698fce4, Linux 7.1: a vCPU that moves without a "
            "masterclock leaves the others' pages old"
        ),
        consequence="The guest's clock runs back whenever its thread moves.",
        needs=("two-cpus", "clock-realtime"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            Sleep(ns=20 * MS),
            GetTscOffset(vcpu=0, label="offset"),
            MoveThread(to=1, label="move"),
            GetClock(label="clock-there"),
            *look_at_page(0, "there"),
            MoveThread(to=0, label="move-back"),
            GetClock(label="clock-back"),
            *look_at_page(0, "back"),
        ),
        claims=(
            LineClaim(
                text="pages and clocks are on one line",
                seen=("clock-there", "page-0-there", "clock-back", "page-0-back"),
                expected="page-0-before",
            ),
        ),
    ),
    Scenario(
        name="set-clock-elsewhere",
        contract=(
            "A clock that is set from another CPU continues from what was set, on the CPU where the guest "
            "runs."
        ),
        source="kvm_vm_ioctl_set_clock(): the masterclock is taken from the TSC of the CPU that sets it",
        consequence="A restored guest's clock is off by as much as the TSCs of its host's CPUs.",
        needs=("two-cpus", "clock-realtime"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            GetTscOffset(vcpu=0, label="offset"),
            MoveThread(to=1, label="move"),
            SetClock(clock=_FAR, label="set"),
            GetClock(label="clock-there"),
            MoveThread(to=0, label="move-back"),
            *look_at_page(0, "after"),
            GetClock(label="clock-after"),
        ),
        claims=(
            TimeClaim(
                text="the clock continues from what was set",
                seen=("clock-there", "clock-after"),
                expected="set",
            ),
            PageClaim(text="the page is stable", seen="page-0-after", stable=True),
            LineClaim(
                text="page and clocks are on one line",
                seen=("clock-there", "clock-after"),
                expected="page-0-after",
            ),
        ),
    ),
)
