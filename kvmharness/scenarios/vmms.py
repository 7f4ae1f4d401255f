# SPDX-License-Identifier: GPL-2.0-or-later
"""Other VMMs: what they do, each in the order of its own code.

Firecracker, Cloud Hypervisor, crosvm, gVisor, OpenVMM, kvmtool; and the kernel documentation's recipe for a
migration.
"""

from dataclasses import replace

from kvmharness.contract import ClockClaim, EndClaim, OffsetClaim, SameClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, READ_ONE, count_together, goes_on, look_at, write
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscOffset,
    Operation,
    Ppm,
    Read,
    Run,
    Script,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    Sleep,
    Time,
)

_APART = "After a restore the guest's vCPUs disagree about the time, and KVM considers its clock unstable."
_FIRECRACKER = "Firecracker, restore of a snapshot: all vCPUs are created, then each is given its MSRs"

# How far behind the previous one each vCPU's TSC was saved, in ns: the threads answer as they come.
_SAVED_APART = MS


def _firecracker(vcpus: int, saved_ms: int) -> Script:
    """vCPU by vCPU a chunk of MSRs with the TSC, and the deadline in a chunk of its own after it."""
    steps: list[Operation] = [CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(vcpus)]
    steps.append(GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"))
    steps.append(Sleep(ns=5 * MS))
    for vcpu in range(vcpus):
        saved = Time(saved_ms * MS - vcpu * _SAVED_APART)
        steps.append(SetMsrs(vcpu=vcpu, msrs=(("TSC", saved), ("TSC_ADJUST", 0)), label=f"restore-{vcpu}"))
        steps.append(SetMsrs(vcpu=vcpu, msrs=(("TSC_DEADLINE", saved),)))
    return tuple(steps)


def _copy_offset(vcpus: int) -> Script:
    """vCPU 0's offset is read, and set on every vCPU."""
    return (
        GetTscOffset(vcpu=0, label="copied"),
        *(SetTscOffset(vcpu=vcpu, offset=Read("copied"), label=f"copy-{vcpu}") for vcpu in range(vcpus)),
    )


def _same_offset(vcpus: int) -> tuple[OffsetClaim, ...]:
    """Every vCPU has the offset that was copied from vCPU 0."""
    return tuple(
        OffsetClaim(
            text=f"vCPU {vcpu} has the offset of vCPU 0",
            seen=(f"offset-{vcpu}", f"guest-{vcpu}"),
            expected=("copied",),
            instead=f"restore-{vcpu}" if vcpu else "",
            otherwise="it kept the TSC that was restored",
        )
        for vcpu in range(vcpus)
    )


def _at_one_khz(vcpu: int) -> Script:
    """A vCPU is slowed down, written 1 s worth of its cycles, and given back its rate."""
    return (
        SetTscKhz(vcpu=vcpu, khz=1, label=f"slow-{vcpu}"),
        write(vcpu, 1_000, f"write-{vcpu}"),
        SetTscKhz(vcpu=vcpu, khz=Ppm(0), label=f"fast-{vcpu}"),
    )


_FIRST = goes_on("vCPU 0 continues from its saved TSC", "restore-0", "tsc-new")

_ONE_BY_ONE: Script = (
    CreateVcpu(vcpu=0, label="create-0"),
    SetTscKhz(vcpu=0, khz=Ppm(0)),
    SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", 0), ("TSC", Time(100_000 * MS))), label="restore-0"),
    CreateVcpu(vcpu=1, label="create-1"),
    SetTscKhz(vcpu=1, khz=Ppm(0)),
    SetMsrs(vcpu=1, msrs=(("TSC_ADJUST", 0), ("TSC", Time(100_000 * MS))), label="restore-1"),
)

SCENARIOS = (
    Scenario(
        name="firecracker-restore",
        contract="The four vCPUs of a Firecracker snapshot continue from the first one's saved TSC, "
        "together.",
        source=_FIRECRACKER,
        consequence=_APART,
        needs=("tsc-write",),
        script=(*_firecracker(4, 100_000), *look_at(4)),
        claims=(_FIRST, *count_together(4, "restore", first="restore-0")),
    ),
    Scenario(
        name="firecracker-restore-young",
        contract=(
            "The two vCPUs of a Firecracker snapshot that was taken within a second of their creation "
            "continue from the first one's saved TSC, together."
        ),
        source=(
            f"{_FIRECRACKER}; nothing was written before, so this is the VMM that commit bf328e22e472 helps"
        ),
        consequence=(
            "Fast snapshots are what Firecracker is for, and a young one comes back with the wrong TSC."
        ),
        needs=("tsc-write",),
        script=(*_firecracker(2, 500), *look_at(2)),
        claims=(
            replace(_FIRST, together=("create-0", "restore-0")),
            *count_together(2, "restore", first="restore-0"),
        ),
    ),
    Scenario(
        name="firecracker-copied-offset",
        contract=(
            "vCPUs that are restored one after the other and then all given vCPU 0's offset have one offset, "
            "to the cycle, and a stable clock."
        ),
        source=f"Firecracker pull request 6200 (2026); {_FIRECRACKER}",
        consequence=_APART,
        needs=("tsc-write", "tsc-offset", "masterclock"),
        script=(*_firecracker(2, 100_000), *_copy_offset(2), *look_at(2)),
        claims=(_FIRST, *_same_offset(2), ClockClaim(text="the clock is stable", seen="clock", stable=True)),
    ),
    Scenario(
        name="cloud-hypervisor-copied-offset",
        contract=(
            "vCPUs that are created and restored one by one, and then given vCPU 0's offset, have one offset."
        ),
        source="Cloud Hypervisor pull request 8437 (2026): the restore alone left each vCPU a TSC of its own",
        consequence=_APART,
        needs=("tsc-write", "tsc-offset"),
        script=(*_ONE_BY_ONE, *_copy_offset(2), *look_at(2)),
        claims=(goes_on("vCPU 0 continues from its saved TSC", "restore-0", "create-0"), *_same_offset(2)),
    ),
    Scenario(
        name="crosvm-restore",
        contract=(
            "vCPUs that get their MSRs one ioctl each, in the order of the MSRs' numbers, continue from the "
            "first one's saved TSC, together."
        ),
        source="crosvm, restore: one KVM_SET_MSRS an MSR, in index order, so TSC comes before TSC_ADJUST",
        consequence=_APART,
        needs=("tsc-write",),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            *(
                step
                for vcpu in range(2)
                for step in (
                    write(vcpu, Time(100_000 * MS - vcpu * _SAVED_APART), f"restore-{vcpu}"),
                    SetMsrs(vcpu=vcpu, msrs=(("TSC_ADJUST", Time(50 * MS)),)),
                    SetMsrs(vcpu=vcpu, msrs=(("TSC_DEADLINE", 0),)),
                )
            ),
            *look_at(2),
        ),
        claims=(
            goes_on("vCPU 0 continues from its saved TSC", "restore-0", "create-0"),
            *count_together(2, "restore", first="restore-0"),
        ),
    ),
    Scenario(
        name="gvisor-offset-zero",
        contract="vCPUs whose offset is set to 0 have the host's own TSC.",
        source=(
            "gVisor, setTSCOffset(), on Linux 5.16 and later: its vDSO reads time by the host's parameters"
        ),
        consequence="Time runs backwards for programs that move between vCPUs and the host.",
        needs=("tsc-offset",),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            *(SetTscOffset(vcpu=vcpu, offset=0, label=f"set-{vcpu}") for vcpu in range(2)),
            *look_at(2),
        ),
        claims=tuple(
            goes_on(f"vCPU {vcpu} has the host's TSC", f"set-{vcpu}", "create-0", vcpu=vcpu)
            for vcpu in range(2)
        ),
    ),
    Scenario(
        name="gvisor-calibrated-writes",
        contract=(
            "A vCPU whose TSC is written again and again, each time with a better value, continues from the "
            "last one."
        ),
        source=(
            "gVisor, setSystemTimeLegacy(), for kernels without the attribute: it writes until the value "
            "comes near"
        ),
        consequence=(
            "The first guess stays, whatever is written after it: such a VMM cannot come nearer to the "
            "host's time."
        ),
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            *(write(0, Time(100_000 * MS + 10 * MS * number), f"guess-{number}") for number in range(3)),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the vCPU continues from the value that was written last",
                seen=("offset", "tsc", "guest"),
                expected=("guess-2",),
                instead="guess-0",
                otherwise="the write was overridden, it continues from the first",
                together=("guess-0", "guess-2"),
            ),
        ),
    ),
    Scenario(
        name="gvisor-at-one-khz",
        contract=(
            "Two vCPUs that are written one TSC while they count at 1 kHz, one 20 ms after the other, and "
            "then get their rate back, count together."
        ),
        source=(
            "gVisor, setSystemTime(), for kernels without the attribute: at 1 kHz a write need not be quick"
        ),
        consequence="Time runs backwards for programs that move between vCPUs.",
        needs=("tsc-write", "tsc-scaling"),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            *_at_one_khz(0),
            Sleep(ns=20 * MS),
            *_at_one_khz(1),
            *look_at(2),
        ),
        claims=(
            EndClaim(text="1 kHz is accepted", seen="slow-0"),
            EndClaim(text="so is its own rate again", seen="fast-0"),
            OffsetClaim(
                text="vCPU 1 counts together with vCPU 0",
                seen=("offset-1", "guest-1"),
                expected=("offset-0", "guest-0"),
                instead="create-1",
                otherwise="the write was ignored",
            ),
        ),
    ),
    Scenario(
        name="openvmm-common-offset",
        contract=(
            "Sixteen vCPUs that are given one offset have it, read it back to the cycle, and have a stable "
            "clock."
        ),
        source="OpenVMM on KVM: one offset for all vCPUs, read back from each",
        consequence="A VMM that checks what it set finds something else, and cannot give its vCPUs one time.",
        needs=("tsc-offset", "masterclock"),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(16)),
            GetTscOffset(vcpu=0, label="offset-new"),
            *(
                SetTscOffset(vcpu=vcpu, offset=Read("offset-new", Time(5000 * MS)), label=f"set-{vcpu}")
                for vcpu in range(16)
            ),
            *(GetTscOffset(vcpu=vcpu, label=f"offset-{vcpu}") for vcpu in range(16)),
            Run(vcpu=0, label="guest-0"),
            Run(vcpu=15, label="guest-15"),
            GetClock(label="clock"),
        ),
        claims=(
            *(
                SameClaim(
                    text=f"vCPU {vcpu} reads back what was set", seen=f"offset-{vcpu}", expected="set-0"
                )
                for vcpu in range(16)
            ),
            goes_on("vCPU 0 counts by the offset", "set-0", "offset-new"),
            goes_on("vCPU 15 counts by the offset", "set-0", "offset-new", vcpu=15),
            ClockClaim(text="the clock is stable", seen="clock", stable=True),
        ),
    ),
    Scenario(
        name="kvmtool-start",
        contract="A vCPU that is written 0 when the first one already runs counts together with it.",
        source=(
            "recorded from kvmtool: each vCPU's thread writes 0 and enters the guest, 2.7 ms after the other"
        ),
        consequence="The guest finds its TSCs unsynchronized when it boots, and uses a slower clock.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            Sleep(ns=1 * MS),
            write(0, 0, "zero-0"),
            Run(vcpu=0, label="ran-0"),
            Sleep(ns=3 * MS),
            write(1, 0, "zero-1"),
            *look_at(2),
        ),
        claims=count_together(2, "zero", first="zero-0"),
    ),
    Scenario(
        name="migration-recipe",
        contract=(
            "vCPUs that get back their offsets by the attribute continue as though nothing had been written "
            "since."
        ),
        source=(
            "Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET, steps 1, 2, 5 and 7, from a host "
            "to itself: the terms for the two hosts cancel"
        ),
        consequence="A migration by the documented recipe loses the guest's time.",
        needs=("tsc-write", "tsc-offset", "masterclock"),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(2)),
            *look_at(2),
            *(GetTscOffset(vcpu=vcpu, label=f"saved-{vcpu}") for vcpu in range(2)),
            *(write(vcpu, Time((200_000 + 5_000 * vcpu) * MS), f"lost-{vcpu}") for vcpu in range(2)),
            GetClock(label="clock-destination"),
            *(
                SetTscOffset(vcpu=vcpu, offset=Read(f"saved-{vcpu}"), label=f"give-back-{vcpu}")
                for vcpu in range(2)
            ),
            *(Run(vcpu=vcpu, label=f"after-{vcpu}") for vcpu in range(2)),
            GetClock(label="clock-after"),
        ),
        claims=(
            *(
                OffsetClaim(
                    text=f"vCPU {vcpu} continues as before",
                    seen=(f"after-{vcpu}",),
                    expected=(f"saved-{vcpu}", f"guest-{vcpu}"),
                    instead=f"lost-{vcpu}",
                    otherwise="it continues from what was written since",
                )
                for vcpu in range(2)
            ),
            ClockClaim(text="the clock is stable", seen="clock-after", stable=True),
        ),
    ),
)
