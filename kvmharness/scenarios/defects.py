# SPDX-License-Identifier: GPL-2.0-or-later
"""Known defects: what mainline does to this day, though userspace asked for something else.

Most come from one cause: KVM records the value that a write that snaps has written, not the TSC that
the vCPU got instead, and compares the next write with that. See also restore-one-by-one, young-restore-twice,
three-writes, zero-then-young-restore, khz-refused and QEMU's young restores.
"""

from kvmharness.contract import ClockClaim, OffsetClaim
from kvmharness.scenarios.qemu_steps import put, put_full, reset
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, count_together, look_at, write
from kvmharness.script import CreateVcpu, GetTscOffset, Ppm, Read, Run, SetTscKhz, SetTscOffset, Sleep, Time

_RAW = "kvm_synchronize_tsc() records the value written, also when the vCPU was given another TSC"
_APART = "One vCPU of a restored guest disagrees with the others about the time."

SCENARIOS = (
    Scenario(
        name="third-write-behind",
        contract=(
            "Three vCPUs that are written within a second of the first one's TSC, the second ahead of it and "
            "the third behind, count together."
        ),
        source=f"{_RAW}; a series of 2026 changes that",
        consequence=_APART,
        needs=("tsc-write",),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(3)),
            write(0, Time(100_000 * MS), "write-0"),
            write(1, Time(100_700 * MS), "write-1"),
            write(2, Time(99_300 * MS), "write-2"),
            *look_at(3),
        ),
        claims=count_together(3, "write", first="write-0", within_ns=200 * MS),
    ),
    Scenario(
        name="write-behind-a-zero",
        contract=(
            "Of three vCPUs the first and the third are written one TSC, the second 0, by which it joins the "
            "first: all count together."
        ),
        source=f"{_RAW}, here the 0",
        consequence=_APART,
        needs=("tsc-write",),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(3)),
            write(0, Time(100_000 * MS), "write-0"),
            write(1, 0, "write-1"),
            write(2, Time(99_990 * MS), "write-2"),
            *look_at(3),
        ),
        claims=count_together(3, "write", first="write-0"),
    ),
    Scenario(
        name="offset-copied-to-the-other",
        contract=(
            "Two vCPUs that have one rate and one offset, to the cycle, have a stable clock, however they "
            "got it."
        ),
        source="kvm_arch_tsc_set_attr() compares an offset with the one set last, not with the other vCPUs'",
        consequence=(
            "A VMM that gives vCPU 1 the offset of vCPU 0, but not vCPU 0 its own once more, gets no "
            "masterclock."
        ),
        needs=("tsc-write", "tsc-offset", "masterclock"),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            write(1, Time(100_000 * MS), "write-1"),
            GetTscOffset(vcpu=0, label="copied"),
            SetTscOffset(vcpu=1, offset=Read("copied"), label="copy-1"),
            *look_at(2),
        ),
        claims=(
            OffsetClaim(
                text="both have the offset of vCPU 0",
                seen=("offset-0", "guest-0", "offset-1", "guest-1"),
                expected=("copied",),
                instead="write-1",
                otherwise="it kept the TSC that was written",
            ),
            ClockClaim(text="the clock is stable", seen="clock", stable=True),
        ),
    ),
    Scenario(
        name="qemu-hotplug-tsc-frequency",
        contract=(
            "A vCPU that QEMU adds to a VM with a tsc-frequency of its own counts together with the one that "
            "is there."
        ),
        source=(
            "two recordings of QEMU 7.2 in one, device_add and tsc-frequency: the vCPU is created at the "
            "host's rate, gets its own after that, then a TSC of 0"
        ),
        consequence=(
            "A vCPU plugged into such a guest counts from 0: KVM synchronizes it neither when it is created, "
            "for its rate is still another, nor by the 0, for the last writer was itself at that other rate."
        ),
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            SetTscKhz(vcpu=0, khz=Ppm(63), label="set-0"),
            *put_full(0, 0, "zero-0", 63),
            *reset(1, "one"),
            Run(vcpu=0, label="ran-0"),
            Sleep(ns=300 * MS),
            CreateVcpu(vcpu=1, label="create-1"),
            SetTscKhz(vcpu=1, khz=Ppm(63), label="set-1"),
            put(1, 0, "plug-1"),
            *look_at(2),
        ),
        claims=(
            OffsetClaim(
                text="vCPU 1 counts together with vCPU 0",
                seen=("guest-1",),
                expected=("guest-0",),
                instead="plug-1",
                otherwise="it counts from 0",
            ),
        ),
    ),
)
