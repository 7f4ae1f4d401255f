# SPDX-License-Identifier: GPL-2.0-or-later
"""Runstates: what a Xen's vCPU has done with its time, as its guest is told.

A guest of Xen takes the time in which it was runnable, but had no CPU, for steal time.
"""

from kvmharness.contract import EndClaim, RunnableClaim, RunstateClaim, RunstateGrowthClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, SECOND
from kvmharness.script import (
    RUNSTATES,
    CreateVcpu,
    EnterXenRunstate,
    GetClock,
    Read,
    ReadXenRunstate,
    Run,
    Script,
    SetClock,
    SetXen,
    SetXenRunstate,
    SetXenRunstateTimes,
    Sleep,
    Time,
    WaitForCpu,
)

_FAR = Time(100 * SECOND)
_ANY = _RUNNING, _RUNNABLE, _BLOCKED, _OFFLINE = (0, 1, 2, 3)
_SELFTEST = "KVM selftest xen_shinfo_test"
_WRONG = "A guest that was moved from Xen to KVM shows `st` where it had its CPU, or none where it had not."
_NEEDS = ("xen-runstate", "masterclock")


def _guest(vcpu: int = 0) -> Script:
    """A vCPU whose runstate its guest is told."""
    return (
        CreateVcpu(vcpu=vcpu, guest="rdtsc-16", label=f"create-{vcpu}"),
        SetXenRunstate(vcpu=vcpu, label=f"on-{vcpu}"),
        _read("new", vcpu),
    )


def _read(when: str, vcpu: int = 0) -> ReadXenRunstate:
    """What the guest is told."""
    return ReadXenRunstate(vcpu=vcpu, label=f"state-{vcpu}-{when}")


def _look(when: str, vcpu: int = 0) -> Script:
    """A run between two readings of the clock, and the runstate since then."""
    return (
        GetClock(label=f"clock-{vcpu}-{when}"),
        Run(vcpu=vcpu, label=f"guest-{vcpu}-{when}"),
        _read(when, vcpu),
        GetClock(label=f"clock-{vcpu}-{when}-end"),
    )


def _whole(when: str, vcpu: int = 0) -> RunstateClaim:
    """What _look() read."""
    return RunstateClaim(
        text="the vCPU is running, and its times add up to the clock when it entered the guest",
        seen=(f"state-{vcpu}-{when}",),
        after=f"clock-{vcpu}-{when}",
        before=f"clock-{vcpu}-{when}-end",
    )


def _plugged_in(when: str, vcpu: int = 0) -> RunstateClaim:
    """What _look() read of a vCPU's first run."""
    return RunstateClaim(
        text="the vCPU was offline until then",
        seen=(f"state-{vcpu}-{when}",),
        is_first=True,
        after=f"clock-{vcpu}-{when}",
        before=f"clock-{vcpu}-{when}-end",
    )


def _only(name: str, when: str, since: str, vcpu: int = 0) -> RunstateGrowthClaim:
    """Only one of the times grows; of a vCPU that runs also what its thread has to wait."""
    return RunstateGrowthClaim(
        text=f"the vCPU was {name} all the time",
        seen=(f"state-{vcpu}-{when}",),
        expected=f"state-{vcpu}-{since}",
        grows=(RUNSTATES.index(name),) if name != "running" else (_RUNNING, _RUNNABLE),
    )


def _runnable(when: str, since: str, *by: str) -> RunnableClaim:
    """The vCPU had no CPU for as long as its thread had none."""
    return RunnableClaim(
        text="the vCPU was runnable while its thread waited for a CPU",
        seen=f"state-0-{when}",
        expected=f"state-0-{since}",
        first="state-0-new",
        by=by,
    )


def _restored(vcpu: int, state: int) -> Script:
    """A new vCPU with the times that were saved of vCPU 0, in a state of its own, and its first run."""
    first = ReadXenRunstate.value_names.index("time_running")
    times = tuple(Read("state-0-saved", 0, first + place) for place in range(len(RUNSTATES)))
    return (
        CreateVcpu(vcpu=vcpu, guest="rdtsc-16", label=f"create-{vcpu}"),
        SetXenRunstateTimes(vcpu=vcpu, state=state, times=times, label=f"restored-{vcpu}"),
        SetXenRunstate(vcpu=vcpu, label=f"on-{vcpu}"),
        _read("restored", vcpu),
        *_look("after", vcpu),
    )


def _wait(label: str = "wait") -> WaitForCpu:
    """Another thread competes for the CPU."""
    return WaitForCpu(ns=MS, label=label)


_FIRST: Script = (SetXen(label="xen"), *_guest(), *_look("before"))

SCENARIOS = (
    Scenario(
        name="xen-runstate",
        contract="A vCPU that nobody kept from its CPU was running, and offline before its first run.",
        source=f"{_SELFTEST} (runstate times add up to state_entry_time); kvm_xen_update_runstate()",
        consequence=_WRONG,
        needs=_NEEDS,
        script=(*_FIRST, Sleep(ns=100 * MS), *_look("after"), *_look("again")),
        claims=(
            *map(_whole, ("before", "after", "again")),
            _plugged_in("before"),
            _only("running", "after", "before"),
            _only("running", "again", "after"),
            _runnable("after", "before"),
            _runnable("again", "before"),
        ),
    ),
    Scenario(
        name="xen-runstate-waits",
        contract="A vCPU was runnable for as long as its thread had to wait for a CPU.",
        source=f"{_SELFTEST} (steal_time, get_run_delay()); kvm_xen_update_runstate()",
        consequence=_WRONG,
        needs=_NEEDS,
        script=(*_FIRST, _wait(), *_look("after"), _wait("wait-again"), *_look("again")),
        claims=(
            _whole("after"),
            _whole("again"),
            _runnable("after", "before", "wait"),
            _runnable("again", "before", "wait", "wait-again"),
        ),
    ),
    Scenario(
        name="xen-runstate-blocked",
        contract="A vCPU that its VMM blocks is blocked until it next runs, whatever its thread waits for.",
        source=f"{_SELFTEST} (TEST_RUNSTATE_ADJUST, RUNSTATE_blocked); kvm_xen_vcpu_set_attr()",
        consequence="A guest takes the time in which it had nothing to do for time in which it had no CPU.",
        needs=_NEEDS,
        script=(
            *_FIRST,
            GetClock(label="clock-blocks"),
            EnterXenRunstate(vcpu=0, state=_BLOCKED, label="blocks"),
            _read("blocked"),
            GetClock(label="clock-blocked"),
            _wait(),
            *_look("after"),
        ),
        claims=(
            RunstateClaim(
                text="the vCPU is blocked",
                seen=("state-0-blocked",),
                state=_BLOCKED,
                after="clock-blocks",
                before="clock-blocked",
            ),
            _only("running", "blocked", "before"),
            _whole("after"),
            _only("blocked", "after", "blocked"),
        ),
    ),
    Scenario(
        name="xen-runstate-offline",
        contract="A vCPU that its VMM takes offline is offline until the VMM says that it is runnable.",
        source="Xen's VCPUOP_down and VCPUOP_up, which VMMs answer; KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT",
        consequence=_WRONG,
        needs=_NEEDS,
        script=(
            *_FIRST,
            EnterXenRunstate(vcpu=0, state=_OFFLINE, label="down"),
            _read("down"),
            Sleep(ns=20 * MS),
            EnterXenRunstate(vcpu=0, state=_RUNNABLE, label="up"),
            _read("up"),
            Sleep(ns=10 * MS),
            *_look("after"),
        ),
        claims=(
            RunstateClaim(text="the vCPU is offline", seen=("state-0-down",), state=_OFFLINE),
            RunstateClaim(text="the vCPU is runnable", seen=("state-0-up",), state=_RUNNABLE),
            _only("offline", "up", "down"),
            _only("runnable", "after", "up"),
            _whole("after"),
        ),
    ),
    Scenario(
        name="xen-runstate-hotplug",
        contract="A vCPU that is plugged in was offline until then, and leaves the times of others alone.",
        source="kvm_xen_update_runstate(), RUNSTATE_offline before the first run",
        consequence=_WRONG,
        needs=_NEEDS,
        script=(*_FIRST, Sleep(ns=100 * MS), *_guest(1), *_look("first", vcpu=1), *_look("after")),
        claims=(
            _whole("first", vcpu=1),
            _plugged_in("first", vcpu=1),
            _whole("after"),
            _only("running", "after", "before"),
            _runnable("after", "before"),
        ),
    ),
    Scenario(
        name="xen-runstate-restored",
        contract="A vCPU that is restored with its runstate has its times of before, and goes on from them.",
        source=f"{_SELFTEST} (TEST_RUNSTATE_DATA); kvm_xen_vcpu_set_attr(), RUNSTATE_DATA",
        consequence=f"{_WRONG} Its times run back.",
        needs=_NEEDS,
        script=(
            *_FIRST,
            EnterXenRunstate(vcpu=0, state=_BLOCKED, label="paused"),
            _read("saved"),
            Sleep(ns=20 * MS),
            *_restored(1, _BLOCKED),
            *_restored(2, _RUNNING),
        ),
        claims=(
            RunstateGrowthClaim(
                text="the times are as they were",
                seen=("state-1-restored", "state-2-restored"),
                expected="state-0-saved",
                grows=(),
            ),
            RunstateClaim(text="the vCPU is blocked", seen=("state-1-restored",), state=_BLOCKED),
            _whole("after", vcpu=1),
            _only("blocked", "after", "restored", vcpu=1),
            RunstateClaim(text="the vCPU is running", seen=("state-2-restored",)),
            _whole("after", vcpu=2),
            _only("running", "after", "restored", vcpu=2),
            RunnableClaim(
                text="the vCPU that runs was not runnable before",
                seen="state-2-after",
                expected="state-2-restored",
                first="state-1-after",
                by=(),
            ),
        ),
    ),
    Scenario(
        name="xen-runstate-refused",
        contract="Times that the VM's clock has not reached are refused, and leave the runstate as it was.",
        source="kvm_xen_vcpu_set_attr(), RUNSTATE_DATA: state_entry_time beyond get_kvmclock_ns()",
        consequence="A guest that is restored before its clock is has times that run back.",
        needs=_NEEDS,
        script=(
            *_FIRST,
            SetXenRunstateTimes(vcpu=0, state=_BLOCKED, times=(0, 0, 0, 1000 * SECOND), label="refused"),
            _read("refused"),
            SetXenRunstate(vcpu=0, label="on-again"),
            _read("kept"),
            *_look("after"),
        ),
        claims=(
            EndClaim(text="they are refused", seen="refused", errors=("EINVAL",)),
            RunstateGrowthClaim(
                text="the times are as they were",
                seen=("state-0-refused", "state-0-kept"),
                expected="state-0-before",
                grows=(),
            ),
            RunstateClaim(text="the state is as it was", seen=("state-0-refused", "state-0-kept")),
            _whole("after"),
            _only("running", "after", "before"),
        ),
    ),
    Scenario(
        name="xen-runstate-set-clock",
        contract="After KVM_SET_CLOCK a vCPU's times add up to the clock that was set.",
        source="kvm_xen_update_runstate(), which takes the VM's clock",
        consequence=_WRONG,
        needs=_NEEDS,
        script=(*_FIRST, SetClock(clock=_FAR, label="set"), *_look("after")),
        claims=(
            _whole("after"),
            RunstateGrowthClaim(
                text="no time runs back",
                seen=("state-0-after",),
                expected="state-0-before",
                grows=_ANY,
            ),
        ),
    ),
    Scenario(
        name="xen-runstate-clock-back",
        contract="A vCPU's times do not run back, also when the VM's clock is set to an earlier time.",
        source="kvm_xen_update_runstate(), which adds a difference that may be less than 0",
        consequence="A guest takes 584 years for the time in which it ran, and its tools show nonsense.",
        needs=_NEEDS,
        script=(
            SetXen(label="xen"),
            *_guest(),
            SetClock(clock=_FAR, label="set-far"),
            *_look("before"),
            SetClock(clock=Time(50 * SECOND), label="set-back"),
            *_look("after"),
        ),
        claims=(
            _whole("before"),
            RunstateClaim(text="the times add up", seen=("state-0-after",)),
            RunstateGrowthClaim(
                text="no time runs back",
                seen=("state-0-after",),
                expected="state-0-before",
                grows=_ANY,
            ),
        ),
    ),
)
