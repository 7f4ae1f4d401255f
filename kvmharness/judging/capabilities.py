# SPDX-License-Identifier: GPL-2.0-or-later
"""What a KVM can do, found by effect: a script is played and its trace looked at.

Capability bits do not show it. A KVM whose TSCs are protected, or one that runs under another
hypervisor, may answer every TSC write with success and ignore it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kvmharness.contract import (
    AnyClaim,
    Claim,
    ClockClaim,
    EndClaim,
    Finding,
    HostTimeClaim,
    RateClaim,
    ReadsClaim,
    Status,
    check,
)
from kvmharness.model.state import Host
from kvmharness.script import (
    REALTIME,
    TSC_STABLE,
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    MoveThread,
    Ppm,
    Read,
    Run,
    Script,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    SetVmTscKhz,
    Sleep,
    Time,
)
from kvmharness.trace import Event, Trace

MS = 1_000_000

# Values more than a second away, in both directions of time: under no rule anyone has proposed does
# KVM take a write of them for an attempt to synchronize.
_FAR = Time(1000 * 1000 * MS)

PROBE: Script = (
    CreateVcpu(vcpu=0, guest="rdtsc-16", label="create-0"),
    GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
    Sleep(ns=20 * MS),
    GetMsrs(vcpu=0, indices=("TSC",), label="tsc-aged"),
    Run(vcpu=0, label="guest-16"),
    # While there is one vCPU, which always matches itself: what this says is of the host, not of the kernel.
    GetClock(label="clock"),
    CreateVcpu(vcpu=1, guest="rdtsc-64", label="create-1"),
    GetMsrs(vcpu=1, indices=("TSC",), label="tsc-1"),
    Run(vcpu=1, label="guest-64"),
    SetMsrs(vcpu=0, msrs=(("TSC", Read("tsc-aged", _FAR)),), label="write"),
    GetMsrs(vcpu=0, indices=("TSC",), label="tsc-written"),
    Run(vcpu=0, label="guest-written"),
    SetTscKhz(vcpu=1, khz=0, label="set-host-khz"),
    GetTscKhz(vcpu=1, label="host-khz"),
    SetTscKhz(vcpu=1, khz=Ppm(-500_000), label="slower"),
    GetMsrs(vcpu=1, indices=("TSC",), label="tsc-slower"),
    Sleep(ns=20 * MS),
    GetMsrs(vcpu=1, indices=("TSC",), label="tsc-slower-later"),
    SetTscKhz(vcpu=1, khz=0, label="as-fast-again"),
    SetVmTscKhz(khz=0, label="vm-khz"),
    MoveThread(to=1, label="move"),
    MoveThread(to=0, label="move-back"),
    CreateVcpu(vcpu=2, guest="rdtscp-16", label="create-2"),
    # A guest whose CPU refuses the instruction exits at once; one that does not end is not waited for long.
    Run(vcpu=2, ns=200 * MS, label="guest-rdtscp"),
    # Last, because a player goes no further where there is no attribute to read.
    GetMsrs(vcpu=1, indices=("TSC",), label="tsc-before-offset"),
    GetTscOffset(vcpu=1, label="offset-before"),
    SetTscOffset(vcpu=1, offset=Read("offset-before", _FAR), label="set-offset"),
    GetTscOffset(vcpu=1, label="offset-set"),
    GetMsrs(vcpu=1, indices=("TSC",), label="tsc-offset"),
    Run(vcpu=1, label="guest-offset"),
)

# A probe of another version may have other steps, but under a label the same one.
_BY_LABEL = {operation.label: operation for operation in PROBE if operation.label}


@dataclass(frozen=True, slots=True)
class Capability:
    """Something a KVM can or cannot do.

    `missing` says in words what it is when it cannot, `there` when it can. `implies` are capabilities
    without which this one means nothing. `asks` is the label of the step that a kernel which does not know
    the thing at all refuses ("" if there is none).
    """

    name: str
    claim: AnyClaim
    missing: str
    there: str
    implies: tuple[str, ...] = ()
    asks: str = ""


# Without a stable TSC no offset stays, so nothing else can be told from one; and most scenarios let a
# guest read what the host set.
_READABLE = ("stable-tsc", "guest-16")


CAPABILITIES = {
    capability.name: capability
    for capability in (
        Capability(
            "stable-tsc",
            Claim(
                "a vCPU's TSC goes on with the host's while it does not run",
                seen=("tsc-aged",),
                expected=("tsc-new",),
            ),
            missing="this host's TSC is unstable: KVM moves the vCPUs' offsets by itself",
            there="this host's TSC is stable",
        ),
        Capability(
            "guest-16",
            Claim("a 16-bit guest reads its TSC", seen=("guest-16",), expected=("tsc-aged",)),
            missing="a 16-bit guest reads another TSC than KVM reports for its vCPU",
            there="a 16-bit guest reads the TSC that KVM reports for its vCPU",
            implies=("stable-tsc",),
        ),
        Capability(
            "guest-64",
            Claim("a 64-bit guest reads its TSC", seen=("guest-64",), expected=("tsc-1",)),
            missing="a 64-bit guest reads another TSC than KVM reports for its vCPU",
            there="a 64-bit guest reads the TSC that KVM reports for its vCPU",
            implies=("stable-tsc",),
        ),
        Capability(
            "tsc-write",
            Claim(
                "a write of MSR_IA32_TSC sets the vCPU's TSC",
                seen=("tsc-written", "guest-written"),
                expected=("write",),
                instead="tsc-aged",
            ),
            missing="this KVM ignores writes of MSR_IA32_TSC",
            there="this KVM honours writes of MSR_IA32_TSC",
            implies=_READABLE,
        ),
        Capability(
            "tsc-offset",
            Claim(
                "KVM_VCPU_TSC_OFFSET sets the vCPU's offset",
                seen=("offset-set", "tsc-offset", "guest-offset"),
                expected=("set-offset",),
                instead="tsc-before-offset",
            ),
            missing="this KVM has no offset attribute that works (KVM_VCPU_TSC_OFFSET)",
            there="this KVM has an offset attribute that works (KVM_VCPU_TSC_OFFSET)",
            implies=_READABLE,
            asks="offset-before",
        ),
        Capability(
            "offset-attribute",
            EndClaim("the kernel knows KVM_VCPU_TSC_OFFSET, whatever comes of it", seen="offset-before"),
            missing="this KVM has no offset attribute (KVM_VCPU_TSC_OFFSET)",
            there="this KVM has an offset attribute (KVM_VCPU_TSC_OFFSET)",
        ),
        Capability(
            "rdtscp",
            ReadsClaim("a guest may execute RDTSCP", seen="guest-rdtscp"),
            missing="this KVM offers its guests no RDTSCP",
            there="this KVM offers its guests RDTSCP",
        ),
        Capability(
            "two-cpus",
            EndClaim("there is another CPU to move to", seen="move"),
            missing="there is only one CPU to play on",
            there="there is more than one CPU to play on",
        ),
        Capability(
            "masterclock",
            ClockClaim("KVM_GET_CLOCK calls the clock of a lone vCPU stable", seen="clock", stable=True),
            missing="this host's own clock does not run on the TSC, so no VM has a masterclock",
            there="this host's own clock runs on the TSC, so VMs have a masterclock",
            implies=_READABLE,
        ),
        Capability(
            "clock-realtime",
            HostTimeClaim("KVM_GET_CLOCK tells the host's real time and TSC", seen="clock"),
            missing="this KVM does not tell the host's time with a VM's clock (KVM_CLOCK_REALTIME)",
            there="this KVM tells the host's time with a VM's clock (KVM_CLOCK_REALTIME)",
            implies=("masterclock",),
        ),
        Capability(
            "tsc-scaling",
            RateClaim(
                "a vCPU that is set to half its rate counts at half its rate",
                first="tsc-slower",
                last="tsc-slower-later",
                khz="slower",
                instead="create-1",
            ),
            missing="this KVM cannot slow a guest's TSC down: it has no TSC scaling",
            there="this KVM has TSC scaling",
            asks="slower",
        ),
        Capability(
            "vm-tsc-khz",
            EndClaim(
                "the VM knows KVM_SET_TSC_KHZ", "vm-khz", errors=("", "EINVAL")
            ),  # Linux 6.17 and later refuse it once there is a vCPU.
            missing="this KVM has no KVM_SET_TSC_KHZ of a VM",
            there="this KVM has a KVM_SET_TSC_KHZ of the VM",
        ),
    )
}

# Time since the boot, by which the kernel has corrected the rate of its TSC for good. It does so about a
# second after the boot, later when it is disturbed (tsc_refine_calibration_work).
_CALIBRATED_NS = 60_000 * MS

# How kernels answer an attribute or ioctl they do not know; before 5.16 it is EINVAL for a vCPU's
# attributes (kvm_arch_vcpu_ioctl, default).
_UNKNOWN = ("ENXIO", "ENOTTY", "EINVAL")


def host_facts(probe: Trace) -> Host:
    """What the trace of PROBE says of the machine, for the model."""
    found = findings(probe)
    events = {event.operation.label: event for event in probe.events}
    offset, clock, slower = (events.get(label) for label in ("offset-before", "clock", "slower"))
    as_host = events.get("set-host-khz")
    khz, rate = (_rate(events.get(label)) for label in ("create-0", "host-khz"))
    knows = None if offset is None or offset.error not in ("", *_UNKNOWN) else not offset.error
    up_ns = probe.events[0].bracket.ns_before if probe.events else 0
    stable_clock = clock is not None and len(clock.values) >= 2 and bool(clock.values[1] & TSC_STABLE)
    return Host(
        khz=rate or khz,
        # The rate is corrected once. If vCPUs are created with another one, that was before.
        khz_exact=None not in (khz, rate) and (khz != rate or up_ns >= _CALIBRATED_NS),
        kvm_khz=khz if rate else None,
        stable=found["stable-tsc"].status is not Status.BROKEN,
        tsc_clocksource=True if stable_clock else None,
        has_attribute=knows,
        # What cannot be made slower has no scaling at all (set_tsc_khz).
        fraction_bits=0 if slower is not None and slower.error == "EINVAL" else None,
        refuses_khz=None if as_host is None else as_host.error == "EINVAL",
        knows_realtime=bool(clock.values[1] & REALTIME) if clock and stable_clock else None,
    )


def _rate(event: Event | None) -> int | None:
    """The kHz that a step read; None if it read none that can be one."""
    read = event is not None and event.values and not event.error and 0 < event.values[0] < 2**32
    return event.values[0] if event is not None and read else None


def findings(probe: Trace) -> dict[str, Finding]:
    """What the trace of PROBE shows of each capability: kept is there, broken is missing."""
    errors = {event.operation.label: event.error for event in probe.events}
    found = {}
    for name, capability in CAPABILITIES.items():
        finding = check(capability.claim, probe)
        if finding.status is Status.UNDECIDED and errors.get(capability.asks) in _UNKNOWN:
            reason = f"{capability.asks} failed with {errors[capability.asks]}"
            finding = Finding(capability.claim, Status.BROKEN, reason)
        found[name] = finding
    return found


def implied(needs: Iterable[str]) -> list[str]:
    """The needs, each behind those that it implies."""
    found = [name for need in needs for name in (*CAPABILITIES[need].implies, need)]
    return list(dict.fromkeys(found))


def unmet(probe: Trace, needs: Iterable[str], lacks: Iterable[str] = ()) -> tuple[Status, str]:
    """Whether something that needs these capabilities, and that those be missing, can be told here.

    KEPT if it can; BROKEN with what is missing, or is there; UNDECIDED with why the probe could not tell.
    """
    if any(step.label in _BY_LABEL and step != _BY_LABEL[step.label] for step in probe.script):
        return Status.UNDECIDED, "the probe is not the one of this version"
    found = findings(probe)
    wanted = [(name, Status.KEPT) for name in implied(needs)] + [(name, Status.BROKEN) for name in lacks]
    for name, status in wanted:
        if found[name].status is Status.UNDECIDED:
            return Status.UNDECIDED, f"the probe could not tell {name}: {found[name].reason}"
        if found[name].status is not status:
            capability = CAPABILITIES[name]
            return Status.BROKEN, capability.missing if status is Status.KEPT else capability.there
    return Status.KEPT, ""
