# SPDX-License-Identifier: GPL-2.0-or-later
"""Deadline timers: a guest's TSC-deadline timer fires when its TSC gets there, also across a restore.

KVM has the host wake it up after the time that the guest's TSC still has to go. It works that out when the
deadline is written, or the local APIC, and not when the TSC is.
"""

from kvmharness.contract import Promptly, TimerClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, SECOND
from kvmharness.script import (
    AwaitTimer,
    CreateIrqchip,
    CreateVcpu,
    GetLapic,
    GetMsrs,
    GetTscOffset,
    Read,
    Script,
    SetLapic,
    SetMsrs,
    SetTscOffset,
    Sleep,
    Time,
)

NEEDS = ("deadline-timer",)
SOON, FAR = Time(2 * MS), Time(100 * SECOND)
_BOTH = Time(100 * SECOND + 2 * MS)
# How long a guest waits that gets no interrupt, in ns.
LONG = 10 * MS
# KVM multiplies what is to go by 10**6: from here on that has more than 64 bits.
_WRAPS = 2**64 // 10**6


def vcpu(number: int) -> CreateVcpu:
    """A vCPU whose guest takes the timer's interrupt."""
    return CreateVcpu(vcpu=number, guest="timer-16", label=f"create-{number}")


def tsc(vcpu: int, label: str) -> GetMsrs:
    """A reading of a vCPU's TSC."""
    return GetMsrs(vcpu=vcpu, indices=("TSC",), label=label)


def deadline(vcpu: int, value: Read, label: str = "deadline") -> SetMsrs:
    """A VMM's write of the deadline, alone, as VMMs do it."""
    return SetMsrs(vcpu=vcpu, msrs=(("TSC_DEADLINE", value),), label=label)


def _restore_tsc() -> SetMsrs:
    """As QEMU restores it, with what the guest itself had added to it."""
    restored = (("TSC_ADJUST", 1000), ("TSC", Read("tsc-new", FAR)))
    return SetMsrs(vcpu=0, msrs=restored, label="tsc")


def await_timer(vcpu: int = 0) -> Script:
    """The guest waits for the interrupt; then its TSC is read."""
    return (AwaitTimer(vcpu=vcpu, ns=LONG, label="timer"), tsc(vcpu, "tsc-after"))


def fires(expected: str = "deadline", text: str = "") -> tuple[TimerClaim, ...]:
    """The interrupt of the deadline that a step wrote comes in time."""
    text = text or "the interrupt comes once the guest's TSC has reached the deadline, and not before"
    return (TimerClaim(text=text, seen="timer", expected=expected, after="tsc-after"),)


MACHINE: Script = (CreateIrqchip(label="chip"), vcpu(0))
ON = SetLapic(vcpu=0, label="lapic")
NOT_MOVED = "it is armed against the TSC of then, and what is done to that later does not move it"
KVM = "start_sw_tscdeadline() in arch/x86/kvm/lapic.c"

SCENARIOS = (
    Scenario(
        name="timer-by-guest",
        contract="A guest that writes a deadline gets the interrupt when its TSC has reached it.",
        source="Intel SDM vol. 3, 'TSC-Deadline Mode'",
        consequence="The guest's timers are early, or it waits for one that never comes.",
        needs=NEEDS,
        script=(
            *MACHINE,
            ON,
            tsc(0, "tsc"),
            AwaitTimer(vcpu=0, deadline=Read("tsc", SOON), ns=LONG, label="timer"),
            GetMsrs(vcpu=0, indices=("TSC", "TSC_DEADLINE"), label="tsc-after"),
        ),
        claims=fires("timer"),
    ),
    Scenario(
        name="timer-restored",
        contract="A deadline restored after the local APIC and the TSC fires when that TSC has reached it.",
        source="QEMU writes MSR_IA32_TSCDEADLINE last (kvm_put_tscdeadline_msr)",
        consequence="The restored guest waits for a timer that never comes: it hangs.",
        needs=(*NEEDS, "tsc-write"),
        script=(
            *MACHINE,
            tsc(0, "tsc-new"),
            ON,
            _restore_tsc(),
            deadline(0, Read("tsc-new", _BOTH)),
            *await_timer(),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-restored-before-lapic",
        contract="A deadline that is restored, and accepted, before the local APIC fires.",
        source="kvm_set_lapic_tscdeadline_msr() drops it: the timer is not in TSC-deadline mode yet",
        consequence="A few percent of restored guests hang: those that were saved with a deadline ahead.",
        needs=(*NEEDS, "tsc-write"),
        script=(
            *MACHINE,
            tsc(0, "tsc-new"),
            _restore_tsc(),
            tsc(0, "tsc-restored"),  # it comes even where nobody may write a TSC
            deadline(0, Read("tsc-restored", SOON)),
            ON,
            *await_timer(),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-restored-before-tsc",
        contract="A deadline that is restored before the TSC fires when the restored TSC has reached it.",
        source=f"{KVM}: it is armed against the TSC of the new vCPU, which has just been created",
        consequence="The timer comes as much too late as the guest is old: it hangs for its whole uptime.",
        needs=(*NEEDS, "tsc-write"),
        script=(
            *MACHINE,
            ON,
            tsc(0, "tsc-new"),
            deadline(0, Read("tsc-new", _BOTH)),
            _restore_tsc(),
            *await_timer(),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-restored-before-tsc-and-lapic",
        contract="A deadline that is restored before the TSC fires, if the local APIC comes after both.",
        source="kvm_apic_set_state() arms the timer again, by the TSC of then",
        consequence="The order of a VMM that restores the local APIC last would not do.",
        needs=(*NEEDS, "tsc-write"),
        script=(
            *MACHINE,
            ON,
            tsc(0, "tsc-new"),
            deadline(0, Read("tsc-new", _BOTH)),
            _restore_tsc(),
            SetLapic(vcpu=0, label="lapic-again"),
            *await_timer(),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-restored-expired",
        contract="A deadline that the restored TSC has reached already fires at once.",
        source="Firecracker restores the TSC itself for a deadline that it saved as 0",
        consequence="The restored guest waits for a timer that never comes: it hangs.",
        needs=(*NEEDS, "tsc-write"),
        script=(
            *MACHINE,
            tsc(0, "tsc-new"),
            ON,
            _restore_tsc(),
            deadline(0, Read("tsc-new", Time(99 * SECOND))),
            *await_timer(),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-expires-while-saved",
        contract="A deadline that comes between KVM_GET_LAPIC and KVM_GET_MSRS fires after the restore.",
        source="Firecracker works around it: MSR_IA32_TSC_DEADLINE may read 0 by then, and the APIC be saved",
        consequence="The restored guest waits for a timer that never comes: it hangs.",
        needs=NEEDS,
        script=(
            *MACHINE,
            ON,
            tsc(0, "tsc-new"),
            deadline(0, Read("tsc-new", SOON)),
            GetMsrs(vcpu=0, indices=("TSC_DEADLINE",), label="armed"),
            GetLapic(vcpu=0, label="lapic-saved"),
            Sleep(ns=5 * MS),
            GetMsrs(vcpu=0, indices=("TSC_DEADLINE",), label="saved"),
            vcpu(1),  # counts together with the other
            SetLapic(vcpu=1, requested=Read("lapic-saved", place=1), label="lapic-restored"),
            deadline(1, Read("saved"), "deadline-restored"),
            *await_timer(1),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-expires-unrun",
        contract="A deadline that comes while its vCPU does not run fires when it runs again.",
        source="apic_timer_expired()",
        consequence="A guest that was paused, or whose VMM was busy, waits for a timer that never comes.",
        needs=NEEDS,
        script=(
            *MACHINE,
            ON,
            tsc(0, "tsc"),
            deadline(0, Read("tsc", SOON)),
            Sleep(ns=5 * MS),
            *await_timer(),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-disarmed",
        contract="A deadline of 0 disarms the timer.",
        source="Intel SDM vol. 3, 'TSC-Deadline Mode'",
        consequence="The guest gets an interrupt that it has no use for any more.",
        needs=NEEDS,
        script=(
            *MACHINE,
            ON,
            tsc(0, "tsc"),
            deadline(0, Read("tsc", SOON), "deadline-armed"),
            SetMsrs(vcpu=0, msrs=(("TSC_DEADLINE", 0),), label="deadline"),
            *await_timer(),
        ),
        claims=fires(text="no interrupt comes"),
    ),
    Scenario(
        name="timer-later",
        contract="A second deadline, later than the first, takes its place.",
        source="Intel SDM vol. 3, 'TSC-Deadline Mode'",
        consequence="The guest's timers are early.",
        needs=NEEDS,
        script=(
            *MACHINE,
            ON,
            tsc(0, "tsc"),
            deadline(0, Read("tsc", Time(SECOND)), "deadline-first"),
            Sleep(ns=900 * MS),  # not longer: a slow player must not let the first one pass
            AwaitTimer(vcpu=0, deadline=Read("tsc", Time(SECOND + 10 * MS)), ns=200 * MS, label="timer"),
            tsc(0, "tsc-after"),
        ),
        claims=fires("timer"),
    ),
    Scenario(
        name="timer-in-a-second",
        contract="A deadline in more than a second fires when the guest's TSC is there, and soon.",
        source=f"{KVM}; a timer at a rate that is 100 ppm off is off by 129 us then",
        consequence="The guest's timers are early, or late, by a part of the time that they are set for.",
        needs=NEEDS,
        script=(
            *MACHINE,
            ON,
            tsc(0, "tsc"),
            deadline(0, Read("tsc", Time(1290 * MS))),
            Sleep(ns=1285 * MS),
            # A timer that is half a percent late, 6.4 ms, does not come by then.
            AwaitTimer(vcpu=0, ns=8 * MS, label="timer"),
            tsc(0, "tsc-after"),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-set-back",
        contract="When its TSC was set back a guest gets the interrupt as that is at the deadline again.",
        source=f"{KVM}: {NOT_MOVED}",
        consequence="The guest's timer is early by as much as its TSC was set back.",
        needs=(*NEEDS, "tsc-offset"),
        script=(
            *MACHINE,
            ON,
            GetTscOffset(vcpu=0, label="offset"),
            tsc(0, "tsc"),
            deadline(0, Read("tsc", Time(4 * MS))),
            SetTscOffset(vcpu=0, offset=Read("offset", Time(-4 * MS)), label="set-back"),
            AwaitTimer(vcpu=0, ns=2 * LONG, label="timer"),
            tsc(0, "tsc-after"),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-set-ahead",
        contract="After its TSC was set ahead, to the deadline or beyond, a guest gets the interrupt.",
        source=f"{KVM}: {NOT_MOVED}",
        consequence="The guest's timer is late by as much as its TSC was set ahead: it hangs.",
        needs=(*NEEDS, "tsc-offset"),
        script=(
            *MACHINE,
            ON,
            GetTscOffset(vcpu=0, label="offset"),
            tsc(0, "tsc"),
            deadline(0, Read("tsc", _BOTH)),
            SetTscOffset(vcpu=0, offset=Read("offset", FAR), label="set-ahead"),
            *await_timer(),
        ),
        claims=fires(),
    ),
    Scenario(
        name="timer-hours-ahead",
        contract="A deadline hours ahead does not fire today.",
        source=f"{KVM}: what is to go, times 10**6, has more than 64 bits",
        consequence="The guest gets an interrupt hours before its time.",
        needs=NEEDS,
        script=(
            *MACHINE,
            ON,
            tsc(0, "tsc"),
            deadline(0, Read("tsc", _WRAPS), "deadline-hours"),
            # By then the guest's TSC has counted on: so much later that it still is that far ahead.
            AwaitTimer(vcpu=0, deadline=Read("deadline-hours", Time(20 * MS)), ns=4 * LONG, label="timer"),
        ),
        claims=(
            TimerClaim(
                text="the interrupt does not come before its time", seen="timer", expected="timer", after=""
            ),
        ),
        # A guest that arms it more than 20 ms later asks for less than that.
        promptly=Promptly("tsc", "timer", within_ns=4 * LONG + 18 * MS),
    ),
)
