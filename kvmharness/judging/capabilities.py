# SPDX-License-Identifier: GPL-2.0-or-later
"""What a KVM can do, found by effect: the probe is played and its traces are looked at.

Capability bits do not show it. A KVM whose TSCs are protected, or one that runs under another
hypervisor, may answer every TSC write with success and ignore it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kvmharness.contract import (
    Claim,
    ClockClaim,
    EndClaim,
    Finding,
    HostTimeClaim,
    OffsetClaim,
    PageClaim,
    RateClaim,
    ReadsClaim,
    RunstateGrowthClaim,
    SameClaim,
    Status,
)
from kvmharness.judging.probe import (
    CLOCKSOURCE,
    GUESTS,
    HOST,
    HOTPLUG,
    HYPERV,
    KHZ,
    NESTED,
    OFFSET,
    PROPOSED,
    RUNSTATE,
    SCALING,
    STEAL,
    TIMER,
    WRITE,
    XEN,
    Probe,
)
from kvmharness.judging.rates import counts_instructions, creation_is_off, ended, is_labs, rate_of, rates
from kvmharness.model.arithmetic import TOLERANCE_PPM
from kvmharness.model.state import Host
from kvmharness.player import host_state
from kvmharness.script import REALTIME, TSC_STABLE, Script


@dataclass(frozen=True, slots=True)
class Capability:
    """Something a KVM can or cannot do.

    `probe` is the script of the probe whose trace has to keep the claim. `missing` says in words what it is
    when it cannot, `there` when it can. `implies` are capabilities without which this one means nothing.
    `asks` is the label of the step that a kernel which does not know the thing at all refuses ("" if there is
    none).
    """

    name: str
    probe: str
    claim: Claim
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
            HOST,
            OffsetClaim(
                text="a vCPU's TSC advances with the host's while the vCPU does not run",
                seen=("tsc-aged",),
                expected=("tsc-new",),
            ),
            missing="this host's TSC is unstable: KVM moves the vCPUs' offsets by itself",
            there="this host's TSC is stable",
        ),
        Capability(
            "guest-16",
            HOST,
            OffsetClaim(text="a 16-bit guest reads its TSC", seen=("guest-16",), expected=("tsc-aged",)),
            missing="a 16-bit guest reads another TSC than KVM reports for its vCPU",
            there="a 16-bit guest reads the TSC that KVM reports for its vCPU",
            implies=("stable-tsc",),
        ),
        Capability(
            "guest-64",
            GUESTS,
            OffsetClaim(text="a 64-bit guest reads its TSC", seen=("guest-64",), expected=("tsc-64",)),
            missing="a 64-bit guest reads another TSC than KVM reports for its vCPU",
            there="a 64-bit guest reads the TSC that KVM reports for its vCPU",
            implies=("stable-tsc",),
        ),
        Capability(
            "tsc-write",
            WRITE,
            OffsetClaim(
                text="a write of MSR_IA32_TSC sets the vCPU's TSC",
                seen=("tsc-written", "guest-written"),
                expected=("write",),
                instead="tsc-before-write",
            ),
            missing="this KVM ignores writes of MSR_IA32_TSC",
            there="this KVM honours writes of MSR_IA32_TSC",
            implies=_READABLE,
        ),
        Capability(
            "tsc-offset",
            OFFSET,
            OffsetClaim(
                text="KVM_VCPU_TSC_OFFSET sets the vCPU's offset",
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
            OFFSET,
            EndClaim(
                text="the kernel knows KVM_VCPU_TSC_OFFSET, whatever it does with it", seen="offset-before"
            ),
            missing="this KVM has no offset attribute (KVM_VCPU_TSC_OFFSET)",
            there="this KVM has an offset attribute (KVM_VCPU_TSC_OFFSET)",
        ),
        Capability(
            "rdtscp",
            GUESTS,
            ReadsClaim(text="a guest may execute RDTSCP", seen="guest-rdtscp"),
            missing="this KVM offers its guests no RDTSCP",
            there="this KVM offers its guests RDTSCP",
        ),
        Capability(
            "two-cpus",
            HOST,
            EndClaim(text="there is another CPU to move to", seen="move"),
            missing="there is only one CPU to play on",
            there="there is more than one CPU to play on",
        ),
        Capability(
            "masterclock",
            HOST,
            ClockClaim(
                text="KVM_GET_CLOCK reports a stable clock while there is one vCPU", seen="clock", stable=True
            ),
            missing="this host's own clock does not run on the TSC, so no VM has a masterclock",
            there="this host's own clock runs on the TSC, so VMs have a masterclock",
            implies=_READABLE,
        ),
        Capability(
            "clock-realtime",
            HOST,
            HostTimeClaim(text="KVM_GET_CLOCK also reports the host's real time and TSC", seen="clock"),
            missing="this KVM does not report the host's time with a VM's clock (KVM_CLOCK_REALTIME)",
            there="this KVM reports the host's time with a VM's clock (KVM_CLOCK_REALTIME)",
            implies=("masterclock",),
        ),
        Capability(
            "tsc-scaling",
            SCALING,
            RateClaim(
                text="a vCPU set to half its rate counts at half its rate",
                first="tsc-slower",
                last="tsc-slower-later",
                khz="slower",
                instead="create-scaling",
            ),
            missing="this KVM cannot slow a guest's TSC down: it has no TSC scaling",
            there="this KVM has TSC scaling",
            implies=("stable-tsc",),
            asks="slower",
        ),
        Capability(
            "vm-tsc-khz",
            KHZ,
            EndClaim(
                text="the VM knows KVM_SET_TSC_KHZ", seen="vm-khz", errors=("", "EINVAL")
            ),  # Linux 6.17 and later refuse it once there is a vCPU.
            missing="this KVM has no KVM_SET_TSC_KHZ of a VM",
            there="this KVM has a KVM_SET_TSC_KHZ of the VM",
        ),
        Capability(
            "hyperv-time",
            HYPERV,
            ReadsClaim(text="a guest reads the reference time of a Hyper-V", seen="guest-reference"),
            missing="this KVM offers its guests no Hyper-V, or not its reference time",
            there="this KVM offers its guests the reference time of a Hyper-V",
            asks="hv-cpuid",
        ),
        Capability(
            "tsc-page-status",
            HYPERV,
            SameClaim(
                text="a Hyper-V's TSC page is written again only for a reason",
                seen="tsc-page-again",
                expected="tsc-page-first",
            ),
            missing="this KVM writes a Hyper-V's TSC page again each time it writes vCPU 0's kvmclock page",
            there="this KVM writes a Hyper-V's TSC page again only when the masterclock or the clock is new",
            implies=("hyperv-time", "masterclock"),
        ),
        Capability(
            "tsc-scale-attribute",
            PROPOSED,
            EndClaim(text="KVM reports a vCPU's scaling ratio", seen="scale"),
            missing="this KVM does not report a vCPU's scaling ratio (KVM_VCPU_TSC_SCALE)",
            there="this KVM reports a vCPU's scaling ratio (KVM_VCPU_TSC_SCALE)",
            implies=("tsc-scaling",),
        ),
        Capability(
            "clock-guest",
            PROPOSED,
            EndClaim(text="KVM reports a VM's clock as a function of a vCPU's TSC", seen="clock-guest"),
            missing="this KVM does not report the clock as a function of a vCPU's TSC (KVM_GET_CLOCK_GUEST)",
            there="this KVM reports the clock as a function of a vCPU's TSC (KVM_GET_CLOCK_GUEST)",
            implies=("masterclock",),
        ),
        Capability(
            "deadline-timer",
            TIMER,
            SameClaim(
                text="a local APIC's timer takes TSC-deadline mode", seen="lapic", expected="lapic-set"
            ),
            missing="this KVM has no local APICs whose timer takes TSC-deadline mode",
            there="this KVM has local APICs whose timer takes TSC-deadline mode",
            implies=_READABLE,
        ),
        Capability(
            "nested",
            NESTED,
            ReadsClaim(text="a guest's own guest reads its TSC", seen="l2"),
            missing="this KVM offers its guests neither SVM nor VMX, so that they have no own guests",
            there="this KVM offers its guests SVM or VMX, so that they can have guests of their own",
            asks="l2",
        ),
        Capability(
            "nested-scaling",
            NESTED,
            ReadsClaim(text="a guest's own guest reads its TSC at a rate of its own", seen="l2-scaled"),
            missing="this KVM's guests cannot give guests of their own another rate (TSC scaling by VMX)",
            there="this KVM's guests can give guests of their own another rate (TSC scaling by VMX)",
            implies=("nested",),
            asks="l2-scaled",
        ),
        Capability(
            "steal-time",
            STEAL,
            EndClaim(text="KVM reports a vCPU's steal time", seen="steal-on"),
            missing="this KVM does not report steal time (MSR_KVM_STEAL_TIME)",
            there="this KVM reports steal time (MSR_KVM_STEAL_TIME)",
        ),
        Capability(
            "xen-time",
            XEN,
            EndClaim(text="KVM tells a vCPU the time as a Xen does", seen="xen-time-on"),
            missing="this KVM has no Xen's time for its guests (CONFIG_KVM_XEN)",
            there="this KVM has a Xen's time for its guests (CONFIG_KVM_XEN)",
            asks="xen",
        ),
        Capability(
            "xen-runstate",
            RUNSTATE,
            EndClaim(text="KVM tells a vCPU its runstate as a Xen does", seen="runstate-on"),
            missing="this KVM tells its guests no Xen's runstate (CONFIG_KVM_XEN, CONFIG_SCHED_INFO)",
            there="this KVM tells its guests a Xen's runstate",
            asks="runstate-on",
        ),
        Capability(
            "xen-runstate-kept",
            RUNSTATE,
            RunstateGrowthClaim(
                text="the times of a runstate stand still while the VM's clock is earlier",
                seen=("runstate-behind",),
                expected="runstate",
                grows=(),
            ),
            missing="this KVM has a runstate's times run back when the VM's clock is set to an earlier time",
            there="this KVM keeps a runstate's times when the VM's clock is set to an earlier time",
            implies=("xen-runstate",),
            asks="runstate-on",
        ),
        Capability(
            "xen-unmarked",
            XEN,
            PageClaim(
                text="KVM_KVMCLOCK_CTRL marks the kvmclock page alone", seen="xen-time-marked", stopped=False
            ),
            missing="this KVM marks a Xen's pages, too, when a guest is to learn that it was stopped",
            there="this KVM marks only the kvmclock page when a guest is to learn that it was stopped",
            implies=("xen-time",),
            asks="xen",
        ),
        Capability(
            "clocksource",
            CLOCKSOURCE,
            EndClaim(text="the host's clocksource may be changed", seen="clocksource"),
            missing="the host's clock has the TSC or one other clocksource, or is not to be changed",
            there="the host's clocksource may be changed",
            implies=("masterclock",),
        ),
        Capability(
            "cpu-hotplug",
            HOTPLUG,
            EndClaim(text="a CPU of the host may be taken offline", seen="cpu"),
            missing="the host has no CPU that may be taken offline, or it is not to be changed",
            there="a CPU of the host may be taken offline",
            implies=("two-cpus",),
        ),
    )
}

# Time since the boot, by which the kernel has corrected the rate of its TSC for good. It does so about a
# second after the boot, later when it is disturbed (tsc_refine_calibration_work).
_CALIBRATED_NS = 60 * 10**9

# Of what is marked by a kernel that does not leave it alone.
_IS_BROKEN = {Status.BROKEN: True, Status.KEPT: False}
_IS_KEPT = {Status.BROKEN: False, Status.KEPT: True}

# How kernels answer an attribute or ioctl they do not know; before 5.16 it is EINVAL for a vCPU's
# attributes (kvm_arch_vcpu_ioctl, default).
_UNKNOWN = ("ENXIO", "ENOTTY", "EINVAL")


def host_facts(probe: Probe, found: Mapping[str, Finding] | None = None) -> Host:
    """What the probe says of the machine, for the model; `found` are its findings() where they are known."""
    found = found or findings(probe)
    clock = probe.event("clock")
    khz, rate = rates(probe)
    khz = khz or rate_of(probe.event("create-0"))
    knows = ended(probe.event("offset-before"), _UNKNOWN)
    slower, as_host = (ended(probe.event(label), ("EINVAL",)) for label in ("slower", "set-host-khz"))
    up_ns = min((each.events[0].bracket.ns_before for each in probe.traces if each.events), default=0)
    flags = (clock.value("clock_flags") if clock else None) or 0
    stable_clock = bool(flags & TSC_STABLE)
    on_tsc = stable_clock or probe.host.get(host_state.CLOCKSOURCE) == "tsc"
    return Host(
        khz=rate or khz,
        # The rate is corrected once. If vCPUs are created with another one, that was before. A lab machine
        # waits for it before it plays (init.c).
        khz_exact=None not in (khz, rate) and (khz != rate or up_ns >= _CALIBRATED_NS or is_labs(probe)),
        kvm_khz=khz if rate else None,
        stable=found["stable-tsc"].status is not Status.BROKEN,
        # An emulated CPU's TSC is the number of instructions that the machine has executed.
        one_tsc=counts_instructions(probe),
        tsc_clocksource=True if on_tsc else None,
        has_attribute=knows,
        # What cannot be made slower has no scaling at all (set_tsc_khz).
        fraction_bits=0 if slower is False else None,
        refuses_khz=None if as_host is None else not as_host,
        knows_realtime=bool(flags & REALTIME) if stable_clock else None,
        tolerance_ppm=host_state.tolerance_ppm(probe.host),
        has_rdtscp=found["rdtscp"].status is Status.KEPT or None,
        has_scale=ended(probe.event("scale"), _UNKNOWN),
        # A kernel that knows it answers the same where there is no masterclock.
        keeps_tsc_page=found["tsc-page-status"].status is Status.KEPT or None,
        has_hyperv=ended(probe.event("hv-cpuid"), _UNKNOWN),
        has_nested=ended(probe.event("l2"), _UNKNOWN),
        has_l2_scaling=ended(probe.event("l2-scaled"), _UNKNOWN),
        marks_xen=_IS_BROKEN.get(found["xen-unmarked"].status)
        if ended(probe.event("xen"), _UNKNOWN)
        else None,
        has_xen=ended(probe.event("xen"), _UNKNOWN),
        keeps_runstate=_IS_KEPT.get(found["xen-runstate-kept"].status)
        if ended(probe.event("runstate-on"), _UNKNOWN)
        else None,
        has_steal_time=ended(probe.event("steal-on"), _UNKNOWN),
        has_clock_guest=ended(probe.event("clock-guest"), _UNKNOWN) if stable_clock else None,
    )


def findings(probe: Probe) -> dict[str, Finding]:
    """What the probe shows of each capability: kept is there, broken is missing."""
    found: dict[str, Finding] = {}
    off = creation_is_off(probe)
    for name, capability in CAPABILITIES.items():
        finding = capability.claim.check(probe.trace(capability.probe))
        asked = probe.event(capability.asks) if capability.asks else None
        needless = [each for each in capability.implies if found[each].status is not Status.KEPT]
        if name == "stable-tsc" and off:
            finding = Finding(capability.claim, Status.UNDECIDED, off)
        elif asked is not None and asked.error in _UNKNOWN:
            if needless and CAPABILITIES[needless[0]].asks == capability.asks:
                # How a KVM does what it does not do at all is neither this way nor that.
                finding = Finding(capability.claim, Status.UNDECIDED, _without(needless[0], found))
            elif finding.status is Status.UNDECIDED:
                reason = f"{capability.asks} failed with {asked.error}"
                finding = Finding(capability.claim, Status.BROKEN, reason)
        elif needless and isinstance(capability.claim, OffsetClaim | RateClaim):
            # No offset stays on an unstable TSC, and a TSC that is read there between two runs stands still.
            finding = Finding(capability.claim, Status.UNDECIDED, _without(needless[0], found))
        found[name] = finding
    return found


def _without(name: str, found: Mapping[str, Finding]) -> str:
    """Why nothing can be decided that needs a capability which is missing, or is not known to be there."""
    missing = found[name].status is Status.BROKEN
    return CAPABILITIES[name].missing if missing else f"the probe could not find out whether {name} is there"


def implied(needs: Iterable[str]) -> list[str]:
    """The needs, each after those that it implies."""
    found = [name for need in needs for name in (*CAPABILITIES[need].implies, need)]
    return list(dict.fromkeys(found))


def unmet(
    found: Mapping[str, Finding], needs: Iterable[str], lacks: Iterable[str] = ()
) -> tuple[Status, str]:
    """Whether something that needs these capabilities, and that those be missing, can be judged here.

    `found` are the findings() of a probe. KEPT if it can; BROKEN with what is missing, or is there; UNDECIDED
    with why the probe could not tell.
    """
    wanted = [(name, Status.KEPT) for name in implied(needs)] + [(name, Status.BROKEN) for name in lacks]
    for name, state in wanted:
        if found[name].status is Status.UNDECIDED:
            return Status.UNDECIDED, f"the probe could not decide {name}: {found[name].reason}"
        if found[name].status is not state:
            capability = CAPABILITIES[name]
            return Status.BROKEN, capability.missing if state is Status.KEPT else capability.there
    return Status.KEPT, ""


def untolerated(host: Host, script: Script) -> str:
    """Why a script's rates mean something else on this host than they are meant to; "" where they do not.

    Rates within KVM's default tolerance are to be left alone, others are not; but the host's administrator
    may have set another tolerance.
    """
    ppm = host.tolerance_ppm
    for step in script:
        if ppm is not None and step.rate_off_ppm is not None:
            off = abs(step.rate_off_ppm)
            if (off <= ppm) is not (off <= TOLERANCE_PPM):
                alone = "" if off <= TOLERANCE_PPM else "not "
                return (
                    f"kvm.tsc_tolerance_ppm is {ppm} here, and a rate {off} ppm off the host's is "
                    f"{alone}to be left alone"
                )
    return ""
