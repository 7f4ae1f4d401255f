# SPDX-License-Identifier: GPL-2.0-or-later
"""The probe: short scripts that are played on a KVM before any scenario, to see what it can do.

Each has a VM of its own, so that what a KVM does otherwise in one of them spoils no other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvmharness.guests.layout import TSC_PAGE, kvmclock_address, steal_time_address
from kvmharness.script import (
    CreateIrqchip,
    CreateVcpu,
    GetClock,
    GetClockGuest,
    GetLapic,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    GetTscScale,
    KvmclockCtrl,
    MoveThread,
    Ppm,
    Read,
    ReadReferenceTime,
    ReadStealTime,
    ReadTscPage,
    ReadXenRunstate,
    ReadXenTime,
    Run,
    RunL2,
    Script,
    SetClock,
    SetClocksource,
    SetCpuOnline,
    SetHvCpuid,
    SetLapic,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    SetVmTscKhz,
    SetXen,
    SetXenRunstate,
    SetXenTime,
    Sleep,
    Time,
)
from kvmharness.trace import Event, Trace

MS = 1_000_000

# Values more than a second away, in both directions of time: under no rule anyone has proposed does
# KVM take a write of them for an attempt to synchronize.
_FAR = Time(1000 * 1000 * MS)

# The scripts' names, as traces and reports give them.
HOST, GUESTS, WRITE = "probe", "probe-guests", "probe-write"
OFFSET, KHZ, SCALING = "probe-offset", "probe-khz", "probe-scaling"
HYPERV = "probe-hyperv"
PROPOSED = "probe-proposed"  # what no release knows
TIMER = "probe-timer"
NESTED = "probe-nested"
STEAL = "probe-steal"
XEN = "probe-xen"
RUNSTATE = "probe-runstate"
CLOCKSOURCE = "probe-clocksource"
HOTPLUG = "probe-cpu-hotplug"

# A label is there once in all of them.
PROBES: dict[str, Script] = {
    HOST: (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-0"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
        Sleep(ns=20 * MS),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-aged"),
        Run(vcpu=0, label="guest-16"),
        # With one vCPU, which always matches itself, this depends on the host and not on the kernel's rule.
        GetClock(label="clock"),
        MoveThread(to=1, label="move"),
        MoveThread(to=0, label="move-back"),
    ),
    GUESTS: (
        CreateVcpu(vcpu=0, guest="rdtsc-64", label="create-64"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-64"),
        Run(vcpu=0, label="guest-64"),
        CreateVcpu(vcpu=1, guest="rdtscp-16", label="create-rdtscp"),
        # A guest whose CPU refuses the instruction exits at once; one that does not end is not waited for
        # long.
        Run(vcpu=1, ns=200 * MS, label="guest-rdtscp"),
    ),
    WRITE: (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-write"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-before-write"),
        SetMsrs(vcpu=0, msrs=(("TSC", Read("tsc-before-write", _FAR)),), label="write"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-written"),
        Run(vcpu=0, label="guest-written"),
    ),
    OFFSET: (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-offset"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-before-offset"),
        # A player goes no further where there is no attribute to read.
        GetTscOffset(vcpu=0, label="offset-before"),
        SetTscOffset(vcpu=0, offset=Read("offset-before", _FAR), label="set-offset"),
        GetTscOffset(vcpu=0, label="offset-set"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-offset"),
        Run(vcpu=0, label="guest-offset"),
    ),
    KHZ: (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-khz"),
        SetTscKhz(vcpu=0, khz=0, label="set-host-khz"),
        GetTscKhz(vcpu=0, label="host-khz"),
        SetVmTscKhz(khz=0, label="vm-khz"),
    ),
    SCALING: (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-scaling"),
        SetTscKhz(vcpu=0, khz=Ppm(-500_000), label="slower"),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-slower"),
        Sleep(ns=20 * MS),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-slower-later"),
    ),
    HYPERV: (
        CreateVcpu(vcpu=0, guest="hyperv-16", label="create-hyperv"),
        SetHvCpuid(vcpu=0, label="hv-cpuid"),
        SetMsrs(vcpu=0, msrs=(("HV_REFERENCE_TSC", TSC_PAGE + 1),), label="hv-page-on"),
        # A KVM that is no Hyper-V refuses its guest the MSR, and the guest exits without having read any.
        ReadReferenceTime(vcpu=0, ns=200 * MS, label="guest-reference"),
        ReadTscPage(label="tsc-page-first"),
        # This asks for the kvmclock page to be written again, which is no reason to write the TSC page.
        SetMsrs(vcpu=0, msrs=(("SYSTEM_TIME", kvmclock_address(0) + 1),), label="hv-kvmclock-on"),
        Run(vcpu=0, ns=200 * MS, label="guest-hyperv"),
        ReadTscPage(label="tsc-page-again"),
    ),
    PROPOSED: (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-proposed"),
        # A KVM whose vCPUs do not count from 0 fails here as it does in the other scripts.
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-proposed"),
        GetTscScale(vcpu=0, label="scale"),
        # With one vCPU that has run there is a masterclock wherever there can be one.
        Run(vcpu=0, label="guest-proposed"),
        GetClockGuest(vcpu=0, label="clock-guest"),
    ),
    TIMER: (
        CreateIrqchip(label="chip"),
        CreateVcpu(vcpu=0, guest="timer-16", label="create-timer"),
        SetLapic(vcpu=0, label="lapic-set"),
        GetLapic(vcpu=0, label="lapic"),
    ),
    NESTED: (
        CreateVcpu(vcpu=0, guest="nested-64", label="create-nested"),
        # One that does not end is not waited for long.
        RunL2(vcpu=0, offset=_FAR, ns=200 * MS, label="l2"),
        RunL2(vcpu=0, offset=_FAR, rate_ppm=500_000, ns=200 * MS, label="l2-scaled"),
    ),
    STEAL: (
        CreateVcpu(vcpu=0, guest="steal-16", label="create-steal"),
        SetMsrs(vcpu=0, msrs=(("STEAL_TIME", steal_time_address(0) + 1),), label="steal-on"),
        ReadStealTime(vcpu=0, ns=200 * MS, label="steal"),
    ),
    XEN: (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-xen"),
        SetXen(label="xen"),
        SetXenTime(vcpu=0, label="xen-time-on"),
        Run(vcpu=0, label="guest-xen"),
        ReadXenTime(vcpu=0, label="xen-time"),
        SetMsrs(vcpu=0, msrs=(("SYSTEM_TIME", kvmclock_address(0) + 1),), label="xen-kvmclock-on"),
        KvmclockCtrl(vcpu=0, label="xen-ctrl"),
        Run(vcpu=0, label="guest-xen-marked"),
        ReadXenTime(vcpu=0, label="xen-time-marked"),
    ),
    RUNSTATE: (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-runstate"),
        SetXen(label="xen-of-runstate"),
        SetXenRunstate(vcpu=0, label="runstate-on"),
        SetClock(clock=_FAR, label="clock-far"),
        Run(vcpu=0, label="guest-runstate"),
        ReadXenRunstate(vcpu=0, label="runstate"),
        SetClock(clock=0, label="clock-back"),
        Run(vcpu=0, label="guest-behind"),
        ReadXenRunstate(vcpu=0, label="runstate-behind"),
    ),
    # That on which the clock runs already, wherever masterclocks matter: nothing changes by it.
    CLOCKSOURCE: (SetClocksource(tsc=True, label="clocksource"),),
    # It is online already.
    HOTPLUG: (SetCpuOnline(cpu=1, online=True, label="cpu"),),
}


@dataclass(frozen=True, slots=True)
class Probe:
    """The traces of the probe's scripts, as they were played on one KVM."""

    traces: tuple[Trace, ...]

    def trace(self, name: str) -> Trace:
        """The trace of one of the scripts; an empty one where that was not played."""
        return next((each for each in self.traces if each.scenario == name), Trace(name, "", ()))

    def event(self, label: str) -> Event | None:
        """The step of that label, in whichever script; None where it was not reached."""
        events = (event for trace in self.traces for event in trace.events)
        return next((event for event in events if event.operation.label == label), None)

    @property
    def release(self) -> str:
        """The kernel's release; "" where nothing was played."""
        return self.traces[0].release if self.traces else ""

    @property
    def host(self) -> Mapping[str, str]:
        """What the machine was, by name (player/host_state.py), as far as that was looked at."""
        return next((each.host for each in self.traces if each.host), {})

    @property
    def is_current(self) -> bool:
        """Whether it was played as this version plays it, each script as far as it came."""
        return sorted(each.scenario for each in self.traces) == sorted(PROBES) and all(
            each.script == PROBES[each.scenario][: len(each.events)] for each in self.traces
        )


def split(traces: Sequence[Trace]) -> tuple[Probe, list[Trace]]:
    """The probe's traces, and the others in their order."""
    probe = Probe(tuple(each for each in traces if each.scenario in PROBES))
    return probe, [each for each in traces if each.scenario not in PROBES]
