# SPDX-License-Identifier: GPL-2.0-or-later
"""The offset attribute: userspace names the offset itself, and KVM is to leave it alone."""

from kvmharness.contract import ClockClaim, EndClaim, OffsetClaim, SameClaim
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


def _has_it(instead: str, expected: str = "set", *, vcpu: int | None = None) -> OffsetClaim:
    """The vCPU, read by READ_ONE or by look_at(), has the offset that a step set."""
    which = "the vCPU" if vcpu is None else f"vCPU {vcpu}"
    seen = ("offset", "tsc", "guest") if vcpu is None else (f"offset-{vcpu}", f"guest-{vcpu}")
    otherwise = "it has the offset it had before, or another"
    return OffsetClaim(
        text=f"{which} has the offset that was set",
        seen=seen,
        expected=(expected,),
        instead=instead,
        otherwise=otherwise,
    )


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
        name="offset-across-run",
        contract=(
            "An offset set by KVM_VCPU_TSC_OFFSET is the vCPU's offset, before its first run and after it."
        ),
        source=(
            "Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET; Sean Christopherson's reply of 29 "
            "June 2023 to Like Xu's patch, which overrides it when the thread moves to another CPU"
        ),
        consequence=(
            "A VMM that sets the offset itself, the way the kernel's documentation recommends for migration, "
            "does not get it: its guest's TSC jumps."
        ),
        needs=("tsc-offset",),
        script=(
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
        claims=(
            OffsetClaim(
                text="the vCPU keeps the offset that was set",
                seen=("offset-set", "tsc", "guest", "offset-after", "guest-again", "tsc-after"),
                expected=("set",),
                instead="offset-new",
                otherwise="it still has the offset of its creation",
            ),
        ),
    ),
    Scenario(
        name="offset-after-write",
        contract="An offset set by KVM_VCPU_TSC_OFFSET holds whatever TSC was written before.",
        source=f"{_DOCUMENTED}: guest_tsc = host_tsc + KVM_VCPU_TSC_OFFSET",
        consequence="A VMM that corrects by the attribute what it wrote before does not get what it set.",
        needs=("tsc-write", "tsc-offset"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetTscOffset(vcpu=0, label="offset-new"),
            write(0, Time(100_000 * MS), "write"),
            SetTscOffset(vcpu=0, offset=Read("offset-new", Time(100_300 * MS)), label="set"),
            *READ_ONE,
        ),
        claims=(_has_it("write"),),
    ),
    Scenario(
        name="offset-then-far-write",
        contract=(
            "A vCPU whose offset was set by the attribute continues from a TSC that is then written 100 s "
            "off."
        ),
        source="Documentation/virt/kvm/api.rst, KVM_SET_MSRS",
        consequence="The attribute cannot be taken back by a write.",
        needs=("tsc-write", "tsc-offset"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            SetTscOffset(vcpu=0, offset=0, label="set"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-set"),
            write(0, Read("tsc-set", Time(100_000 * MS)), "write"),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the vCPU continues from the TSC that was written",
                seen=("offset", "tsc", "guest"),
                expected=("write",),
                instead="set",
                otherwise="it still has the offset that was set",
            ),
        ),
    ),
    Scenario(
        name="offset-then-zero",
        contract="A write of 0 leaves the offset that was set by the attribute.",
        source=(
            "kvm_synchronize_tsc(): a write of 0 synchronizes, and the attribute's offset is what the "
            "write synchronizes with"
        ),
        consequence="A VMM that writes 0 to each vCPU when it starts undoes the offsets that were restored.",
        needs=("tsc-write", "tsc-offset"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetTscOffset(vcpu=0, label="offset-new"),
            SetTscOffset(vcpu=0, offset=Read("offset-new", Time(100_000 * MS)), label="set"),
            write(0, 0, "write"),
            *READ_ONE,
        ),
        claims=(_has_it("write"),),
    ),
    Scenario(
        name="offset-extreme",
        contract="An offset may be any number of 64 bits: one of 2**63 is kept, and reads back to the cycle.",
        source=f"{_DOCUMENTED}: a 64-bit unsigned offset; KVM selftest system_counter_offset_test",
        consequence=(
            "A guest that comes from a host that was up for very long, or not for long enough, gets another "
            "TSC."
        ),
        needs=("tsc-offset",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            SetTscOffset(vcpu=0, offset=2**63, label="set"),
            GetTscOffset(vcpu=0, label="offset"),
            Run(vcpu=0, label="guest"),
            GetTscOffset(vcpu=0, label="offset-after"),
        ),
        claims=(
            SameClaim(text="it reads back what was set", seen="offset", expected="set"),
            SameClaim(text="it reads back what was set after a run", seen="offset-after", expected="set"),
            OffsetClaim(text="the guest counts by it", seen=("guest",), expected=("set",), instead="create"),
        ),
    ),
    Scenario(
        name="offset-for-both",
        contract="Two vCPUs that are given one offset count together, and the VM's clock is stable.",
        source=f"{_DOCUMENTED}; kvm_arch_tsc_set_attr(): an equal offset matches",
        consequence=(
            "A VM restored by the documented recipe has no masterclock: its clock is slower, and may warp."
        ),
        needs=("tsc-offset", "masterclock"),
        script=_set_both(0),
        claims=(
            _has_it("", "set-0", vcpu=0),
            _has_it("create-1", "set-0", vcpu=1),
            ClockClaim(text="the clock is stable", seen="clock", stable=True),
        ),
    ),
    Scenario(
        name="offset-rates-apart",
        contract=(
            "Two vCPUs that are given one offset but count at different rates have no clock that is called "
            "stable."
        ),
        source=(
            "Documentation/virt/kvm/api.rst, KVM_CLOCK_TSC_STABLE; kvm_arch_tsc_set_attr(): an equal offset "
            "matches only at an equal rate"
        ),
        consequence="The guest's clock claims that its vCPUs have one time while they drift apart.",
        needs=("tsc-offset", "masterclock", "tsc-scaling"),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            SetTscKhz(vcpu=1, khz=Ppm(-500_000), label="set-khz"),
            SetTscOffset(vcpu=0, offset=Time(5000 * MS), label="set-0"),
            SetTscOffset(vcpu=1, offset=Read("set-0"), label="set-1"),
            *look_at(2),
        ),
        claims=(
            EndClaim(text="the rate is accepted", seen="set-khz"),
            SameClaim(text="both have one offset", seen="offset-1", expected="offset-0"),
            ClockClaim(text="the clock is not stable", seen="clock", stable=False),
        ),
    ),
    Scenario(
        name="offsets-apart",
        contract="Two vCPUs that are given offsets 1 ms apart have them, to the cycle.",
        source=f"{_DOCUMENTED}; kvm_arch_tsc_set_attr(): another offset begins a generation of its own",
        consequence="A guest that was saved with TSCs apart comes back with others.",
        needs=("tsc-offset", "masterclock"),
        script=_set_both(1),
        claims=(
            _has_it("", "set-0", vcpu=0),
            _has_it("create-1", "set-1", vcpu=1),
        ),
    ),
)
