# SPDX-License-Identifier: GPL-2.0-or-later
"""Steal time: how long a vCPU had to wait for a CPU, as its guest is told.

A guest takes it out of the time that its processes are charged with, and tools show it as `st`.
"""

from kvmharness.contract import EndClaim, NoStealClaim, SameClaim, StealClaim
from kvmharness.guests.layout import steal_time_address
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS
from kvmharness.script import (
    CreateVcpu,
    GetMsrs,
    GuestWrite,
    MoveThread,
    Read,
    ReadStealTime,
    Script,
    SetMsrs,
    Sleep,
    WaitForCpu,
)

_RESERVED = 0x3E  # KVM_STEAL_RESERVED_MASK
_SELFTEST = "KVM selftest steal_time"
_WRONG = (
    "A guest charges its processes with time in which they did not run, or shows `st` where it had its CPU."
)


def _guest(vcpu: int = 0) -> CreateVcpu:
    """A vCPU whose guest reads its steal time."""
    return CreateVcpu(vcpu=vcpu, guest="steal-16", label=f"create-{vcpu}")


def _write(value: int, label: str, vcpu: int = 0) -> SetMsrs:
    """The host writes the MSR."""
    return SetMsrs(vcpu=vcpu, msrs=(("STEAL_TIME", value),), label=label)


def _on(vcpu: int = 0, label: str = "on") -> SetMsrs:
    """The host switches it on, as VMMs do at a restore."""
    return _write(steal_time_address(vcpu) + 1, f"{label}-{vcpu}", vcpu)


def _read(when: str, vcpu: int = 0) -> ReadStealTime:
    """The guest reads it."""
    return ReadStealTime(vcpu=vcpu, label=f"steal-{vcpu}-{when}")


def _wait(label: str = "wait") -> WaitForCpu:
    """Another thread competes for the CPU."""
    return WaitForCpu(ns=MS, label=label)


def _grows(*when: str, vcpu: int = 0, since: str = "before", by: tuple[str, ...] = ("wait",)) -> StealClaim:
    """What _read() read has grown as the thread waited."""
    return StealClaim(
        text="the steal time grows by what the thread waited for a CPU",
        seen=tuple(f"steal-{vcpu}-{each}" for each in when),
        expected=f"steal-{vcpu}-{since}",
        by=by,
    )


_SWITCHED: Script = (_guest(), _on())

SCENARIOS = (
    Scenario(
        name="steal-grows",
        contract="A vCPU's steal time grows by what its thread had to wait for a CPU, and by nothing else.",
        source=f"{_SELFTEST} (main(), check_status()); record_steal_time()",
        consequence=_WRONG,
        needs=("steal-time",),
        script=(*_SWITCHED, _read("before"), _wait(), _read("after"), _wait("wait-again"), _read("again")),
        claims=(
            _grows("after", "again"),
            _grows("again", since="after", by=("wait-again",)),
        ),
    ),
    Scenario(
        name="steal-idle",
        contract="A vCPU that is not run for a while was not robbed of that time.",
        source="Documentation/virt/kvm/x86/msr.rst: an idle vCPU's time is not reported as steal time",
        consequence=_WRONG,
        needs=("steal-time",),
        script=(*_SWITCHED, _read("before"), Sleep(ns=100 * MS), _read("after")),
        claims=(_grows("after", by=()),),
    ),
    Scenario(
        name="steal-refused",
        contract="MSR_KVM_STEAL_TIME takes no value with reserved bits, and keeps the one that it has.",
        source=f"{_SELFTEST} (steal_time_init()); kvm_set_msr_common(), KVM_STEAL_RESERVED_MASK",
        consequence="A guest that is restored with a wrong value has its memory written to elsewhere.",
        needs=("steal-time",),
        script=(
            *_SWITCHED,
            _read("before"),
            _write(steal_time_address(0) + 1 | _RESERVED, "refused"),
            GetMsrs(vcpu=0, indices=("STEAL_TIME",), label="msr"),
            _wait(),
            _read("after"),
        ),
        claims=(
            EndClaim(text="the reserved bits are refused", seen="refused", errors=("EINVAL",)),
            SameClaim(text="the MSR reads as it was written before", seen="msr", expected="on-0"),
            _grows("after"),
        ),
    ),
    Scenario(
        name="steal-by-guest",
        contract="A guest that switches its steal time on itself has it from then on.",
        source=f"{_SELFTEST} (guest_code()); Documentation/virt/kvm/x86/msr.rst",
        consequence=_WRONG,
        needs=("steal-time",),
        script=(
            _guest(),
            GuestWrite(vcpu=0, msr="STEAL_TIME", value=steal_time_address(0), label="off"),
            _read("off"),
            GuestWrite(vcpu=0, msr="STEAL_TIME", value=steal_time_address(0) + 1, label="on"),
            GetMsrs(vcpu=0, indices=("STEAL_TIME",), label="msr"),
            _read("before"),
            _wait(),
            _read("after"),
        ),
        claims=(
            NoStealClaim(text="a page that is off is not written", seen=("steal-0-off",)),
            SameClaim(text="the MSR reads as it was written", seen="msr", expected="on"),
            _grows("after"),
        ),
    ),
    Scenario(
        name="steal-off",
        contract="A page that is switched off is left alone; switched on again it goes on growing.",
        source="record_steal_time(), kvm_steal_time_set_preempted()",
        consequence="A kernel that another one has started (kexec) finds its memory written to from outside.",
        needs=("steal-time",),
        script=(
            *_SWITCHED,
            _read("before"),
            _write(0, "off"),
            _wait(),
            _read("off"),
            _on(label="on-again"),
            _read("new"),
            _wait("wait-again"),
            _read("after"),
        ),
        claims=(
            NoStealClaim(
                text="a page that is off is not written", seen=("steal-0-off",), expected="steal-0-before"
            ),
            _grows("after", since="new", by=("wait-again",)),
        ),
    ),
    Scenario(
        name="steal-restored",
        contract="A guest that is restored with the MSR as it was saved goes on with its steal time.",
        source="QEMU saves and restores MSR_KVM_STEAL_TIME (kvm_put_msrs())",
        consequence=f"{_WRONG} Top shows 100 % st for good, as after a steal time that ran back.",
        needs=("steal-time",),
        script=(
            *_SWITCHED,
            _read("before"),
            GetMsrs(vcpu=0, indices=("STEAL_TIME",), label="saved"),
            Sleep(ns=20 * MS),
            SetMsrs(vcpu=0, msrs=(("STEAL_TIME", Read("saved")),), label="restored"),
            _wait(),
            _read("after"),
        ),
        claims=(
            SameClaim(text="the MSR reads as it was written", seen="saved", expected="on-0"),
            _grows("after"),
        ),
    ),
    Scenario(
        name="steal-two-vcpus",
        contract="Each vCPU has a steal time of its own.",
        source=f"{_SELFTEST} (NR_VCPUS)",
        consequence=_WRONG,
        needs=("steal-time",),
        script=(
            *_SWITCHED,
            _guest(1),
            _on(1),
            _read("before"),
            _read("before", vcpu=1),
            _wait(),
            _read("after"),
            _wait("wait-again"),
            _read("after", vcpu=1),
        ),
        claims=(_grows("after"), _grows("after", vcpu=1)),
    ),
    Scenario(
        name="steal-moved",
        contract="A vCPU whose thread moves to another CPU goes on with its steal time.",
        source="kvm_arch_vcpu_load(), which asks for record_steal_time()",
        consequence=_WRONG,
        needs=("steal-time", "two-cpus"),
        script=(
            *_SWITCHED,
            _read("before"),
            MoveThread(to=1, label="move"),
            _wait(),
            _read("after"),
            MoveThread(to=0, label="back"),
            _read("again"),
        ),
        claims=(_grows("after", "again"),),
    ),
)
