# SPDX-License-Identifier: GPL-2.0-or-later
"""The offset attribute: userspace names the offset itself, and KVM is to leave it alone."""

from kvmharness.contract import Claim, ClockClaim, EndClaim, SameClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, READ_ONE, look_at, write
from kvmharness.script import (
    CreateVcpu,
    GetMsrs,
    GetTscOffset,
    Ppm,
    Read,
    Run,
    Script,
    SetTscKhz,
    SetTscOffset,
    Sleep,
    Time,
)

_DOCUMENTED = "Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET"


def _has_it(instead: str, expected: str = "set", *, vcpu: int | None = None) -> Claim:
    """The vCPU, read by READ_ONE or by look_at(), has the offset that a step set."""
    which = "the vCPU" if vcpu is None else f"vCPU {vcpu}"
    seen = ("offset", "tsc", "guest") if vcpu is None else (f"offset-{vcpu}", f"guest-{vcpu}")
    otherwise = "it has the offset it had before, or another"
    return Claim(f"{which} has the offset that was set", seen, (expected,), instead, otherwise)


def _set_both(apart_ms: int) -> Script:
    """Both vCPUs are given an offset of 5 s, vCPU 1's so much more, and run."""
    return (
        CreateVcpu(vcpu=0, label="create-0"),
        CreateVcpu(vcpu=1, label="create-1"),
        SetTscOffset(vcpu=0, offset=Time(5000 * MS), label="set-0"),
        SetTscOffset(vcpu=1, offset=Time((5000 + apart_ms) * MS), label="set-1"),
        *look_at(2),
    )


SCENARIOS = (
    Scenario(
        "offset-across-run",
        "An offset set by KVM_VCPU_TSC_OFFSET is the vCPU's offset, before its first run and after it.",
        "Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET; Sean Christopherson's reply of "
        "29 June 2023 to Like Xu's patch, which overrides it when the thread moves to another CPU",
        "A VMM that sets the offset itself, the way the kernel's documentation recommends for migration, "
        "does not get it: its guest's TSC jumps.",
        ("tsc-offset",),
        (
            CreateVcpu(vcpu=0, label="create"),
            GetTscOffset(vcpu=0, label="offset-new"),
            Sleep(ns=50 * MS),
            SetTscOffset(vcpu=0, offset=Read("offset-new", Time(700 * MS)), label="set"),
            GetTscOffset(vcpu=0, label="offset-set"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
            Run(vcpu=0, label="guest"),
            GetTscOffset(vcpu=0, label="offset-after"),
            Sleep(ns=20 * MS),
            Run(vcpu=0, label="guest-again"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-after"),
        ),
        (
            Claim(
                "the vCPU keeps the offset that was set",
                seen=("offset-set", "tsc", "guest", "offset-after", "guest-again", "tsc-after"),
                expected=("set",),
                instead="offset-new",
                otherwise="it still has the offset of its creation",
            ),
        ),
    ),
    Scenario(
        "offset-after-write",
        "An offset set by KVM_VCPU_TSC_OFFSET holds whatever TSC was written before.",
        f"{_DOCUMENTED}: guest_tsc = host_tsc + KVM_VCPU_TSC_OFFSET",
        "A VMM that corrects by the attribute what it wrote before does not get what it set.",
        ("tsc-write", "tsc-offset"),
        (
            CreateVcpu(vcpu=0, label="create"),
            GetTscOffset(vcpu=0, label="offset-new"),
            write(0, Time(100_000 * MS), "write"),
            SetTscOffset(vcpu=0, offset=Read("offset-new", Time(100_300 * MS)), label="set"),
            *READ_ONE,
        ),
        (_has_it("write"),),
    ),
    Scenario(
        "offset-then-far-write",
        "A vCPU whose offset was set by the attribute goes on from a TSC that is then written 100 s off.",
        "Documentation/virt/kvm/api.rst, KVM_SET_MSRS",
        "The attribute cannot be taken back by a write.",
        ("tsc-write", "tsc-offset"),
        (
            CreateVcpu(vcpu=0, label="create"),
            SetTscOffset(vcpu=0, offset=0, label="set"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-set"),
            write(0, Read("tsc-set", Time(100_000 * MS)), "write"),
            *READ_ONE,
        ),
        (
            Claim(
                "the vCPU goes on from the TSC that was written",
                seen=("offset", "tsc", "guest"),
                expected=("write",),
                instead="set",
                otherwise="it still has the offset that was set",
            ),
        ),
    ),
    Scenario(
        "offset-then-zero",
        "A write of 0 leaves the offset that was set by the attribute.",
        "kvm_synchronize_tsc(): a write of 0 synchronizes, and the attribute's offset is what there is to "
        "synchronize with",
        "A VMM that writes 0 to each vCPU when it starts undoes the offsets that were restored.",
        ("tsc-write", "tsc-offset"),
        (
            CreateVcpu(vcpu=0, label="create"),
            GetTscOffset(vcpu=0, label="offset-new"),
            SetTscOffset(vcpu=0, offset=Read("offset-new", Time(100_000 * MS)), label="set"),
            write(0, 0, "write"),
            *READ_ONE,
        ),
        (_has_it("write"),),
    ),
    Scenario(
        "offset-extreme",
        "An offset may be any number of 64 bits: one of 2**63 is kept, and reads back to the cycle.",
        f"{_DOCUMENTED}: a 64-bit unsigned offset; KVM selftest system_counter_offset_test",
        "A guest that comes from a host that was up for very long, or not for long enough, gets another TSC.",
        ("tsc-offset",),
        (
            CreateVcpu(vcpu=0, label="create"),
            SetTscOffset(vcpu=0, offset=2**63, label="set"),
            GetTscOffset(vcpu=0, label="offset"),
            Run(vcpu=0, label="guest"),
            GetTscOffset(vcpu=0, label="offset-after"),
        ),
        (
            SameClaim("it reads back what was set", "offset", "set"),
            SameClaim("it reads back what was set after a run", "offset-after", "set"),
            Claim("the guest counts by it", seen=("guest",), expected=("set",), instead="create"),
        ),
    ),
    Scenario(
        "offset-for-both",
        "Two vCPUs that are given one offset count together, and the VM's clock is stable.",
        f"{_DOCUMENTED}; kvm_arch_tsc_set_attr(): an equal offset matches",
        "A VM restored by the documented recipe has no masterclock: its clock is slower, and may warp.",
        ("tsc-offset", "masterclock"),
        _set_both(0),
        (
            _has_it("", "set-0", vcpu=0),
            _has_it("create-1", "set-0", vcpu=1),
            ClockClaim("the clock is stable", "clock", stable=True),
        ),
    ),
    Scenario(
        "offset-rates-apart",
        "Two vCPUs that are given one offset but count at different rates have no clock that is called "
        "stable.",
        "Documentation/virt/kvm/api.rst, KVM_CLOCK_TSC_STABLE; kvm_arch_tsc_set_attr(): an equal offset "
        "matches only at an equal rate",
        "A guest is told that its vCPUs have one time when they drift apart.",
        ("tsc-offset", "masterclock", "tsc-scaling"),
        (
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            SetTscKhz(vcpu=1, khz=Ppm(-500_000), label="set-khz"),
            SetTscOffset(vcpu=0, offset=Time(5000 * MS), label="set-0"),
            SetTscOffset(vcpu=1, offset=Read("set-0"), label="set-1"),
            *look_at(2),
        ),
        (
            EndClaim("the rate is accepted", "set-khz"),
            SameClaim("both have one offset", "offset-1", "offset-0"),
            ClockClaim("the clock is not stable", "clock", stable=False),
        ),
    ),
    Scenario(
        "offsets-apart",
        "Two vCPUs that are given offsets 1 ms apart have them, to the cycle.",
        f"{_DOCUMENTED}; kvm_arch_tsc_set_attr(): another offset begins a generation of its own",
        "A guest that was saved with TSCs apart comes back with others.",
        ("tsc-offset", "masterclock"),
        _set_both(1),
        (
            _has_it("", "set-0", vcpu=0),
            _has_it("create-1", "set-1", vcpu=1),
        ),
    ),
)
