# SPDX-License-Identifier: GPL-2.0-or-later
"""A CPU of the host goes offline and comes online again while VMs live.

An administrator may ask for it, and each suspend does so with all CPUs but one. A TSC may have gone backwards
meanwhile: then KVM adds to all vCPUs' offsets (kvm_arch_hardware_enable()). Only the lab's machines are
changed so, and their TSCs go on.
"""

from kvmharness.contract import ClockClaim, LineClaim, NoWarpClaim, OffsetClaim, PageClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, SECOND, look_at_page, page_on, write
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetTscOffset,
    MoveThread,
    Run,
    RunTogether,
    Script,
    SetCpuOnline,
    Sleep,
    Time,
)

_ENABLE = "kvm_arch_hardware_enable(), which looks for a TSC that went backwards when a CPU comes online"
_OFF = SetCpuOnline(cpu=1, online=False, label="offline")
_ON = SetCpuOnline(cpu=1, online=True, label="online")
_THERE, _BACK = MoveThread(to=1, label="there"), MoveThread(to=0, label="back")
_FAR = Time(100 * SECOND)


def _two(guest: str = "rdtsc-16") -> Script:
    return tuple(CreateVcpu(vcpu=vcpu, guest=guest, label=f"create-{vcpu}") for vcpu in (0, 1))


SCENARIOS = (
    Scenario(
        name="host-cpu-offline",
        contract=(
            "A vCPU whose CPU goes offline continues elsewhere, and later there, with the TSC and the clock "
            "that it had, and so do the others."
        ),
        source=f"{_ENABLE}; kvmclock_cpu_online()",
        consequence="The guest's clock jumps, or its vCPUs disagree about the time, once a CPU was offline.",
        needs=("cpu-hotplug", "masterclock", "clock-realtime"),
        alone=True,
        script=(
            *_two(),
            page_on(0),
            page_on(1),
            *look_at_page(0, "before"),
            _THERE,
            *look_at_page(1, "before"),
            _BACK,
            _OFF,
            *look_at_page(1, "away"),
            *look_at_page(0, "away"),
            GetTscOffset(vcpu=1, label="offset-away"),
            GetClock(label="clock-away"),
            _ON,
            MoveThread(to=1, label="there-again"),
            *look_at_page(1, "after"),
            GetTscOffset(vcpu=1, label="offset-after"),
            GetClock(label="clock-after"),
        ),
        claims=(
            LineClaim(
                text="pages and clock are on one line",
                seen=("page-1-away", "page-0-away", "clock-away", "page-1-after", "clock-after"),
                expected="page-1-before",
            ),
            OffsetClaim(
                text="vCPU 1 counts on as before",
                seen=("guest-1-away", "offset-away", "guest-1-after", "offset-after"),
                expected=("guest-1-before",),
            ),
            PageClaim(text="its page is stable", seen="page-1-after", stable=True),
            ClockClaim(text="KVM calls the clock stable", seen="clock-after", stable=True),
        ),
    ),
    Scenario(
        name="host-cpu-offline-restore",
        contract=(
            "vCPUs that are restored while a CPU is offline continue from what was written, together, and on "
            "that CPU once it is online."
        ),
        source=f"{_ENABLE}; a VMM restores with the CPUs that there are",
        consequence="A restored guest's vCPUs disagree about the time once the host has all its CPUs again.",
        needs=("cpu-hotplug", "tsc-write"),
        alone=True,
        script=(
            *_two(),
            _OFF,
            write(0, _FAR, "restore-0"),
            write(1, _FAR, "restore-1"),
            Run(vcpu=0, label="guest-0-away"),
            Run(vcpu=1, label="guest-1-away"),
            _ON,
            _THERE,
            Run(vcpu=1, label="guest-1"),
            GetTscOffset(vcpu=1, label="offset-1"),
            Run(vcpu=0, label="guest-0"),
            GetTscOffset(vcpu=0, label="offset-0"),
        ),
        claims=(
            OffsetClaim(
                text="vCPU 0 continues from the TSC that was written",
                seen=("guest-0-away", "guest-0", "offset-0"),
                expected=("restore-0",),
            ),
            OffsetClaim(
                text="vCPU 1 counts together with vCPU 0",
                seen=("guest-1-away", "guest-1", "offset-1"),
                expected=("offset-0", "guest-0"),
                together=("restore-0", "restore-1"),
            ),
        ),
    ),
    Scenario(
        name="host-cpu-offline-meet",
        contract=(
            "vCPUs of which one is created while a CPU is offline have one TSC when they run at once, one of "
            "them on that CPU: neither reads less than the other has before."
        ),
        source=f"{_ENABLE}; check_tsc_warp() (arch/x86/kernel/tsc_sync.c), which a guest's kernel runs",
        consequence="The guest's time runs backwards when a thread of it moves to another vCPU.",
        needs=("cpu-hotplug", "stable-tsc"),
        alone=True,
        script=(
            _two("warp-64")[0],
            _OFF,
            _two("warp-64")[1],
            Sleep(ns=50 * MS),
            _ON,
            RunTogether(vcpus=(0, 1), label="meet"),
        ),
        claims=(NoWarpClaim(text="neither vCPU reads less than the other had before", seen="meet"),),
    ),
)
