# SPDX-License-Identifier: GPL-2.0-or-later
"""Unstable host TSC: what a guest is entitled to all the same.

KVM then sets each vCPU's offset again whenever it loads it, from the TSC it last had, and at the next run
moves it up to where the time that passed should have brought it (kvm_arch_vcpu_load,
kvm_guest_time_update). So no offset stays, and what userspace reads of a vCPU that does not run stands
still; only what guests read counts.
"""

from kvmharness.contract import ClockClaim, ForwardClaim, Promptly, RateClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, write
from kvmharness.script import CreateVcpu, GetClock, GetMsrs, Run, SetTscOffset, Sleep, Time

_LOAD = "kvm_arch_vcpu_load(): with an unstable TSC the vCPU continues from the TSC it last had"
_UNSTABLE = ("stable-tsc",)

SCENARIOS = (
    Scenario(
        name="unstable-forward",
        contract=(
            "On a host with an unstable TSC a guest's TSC never runs backwards, whatever ioctls and waits "
            "lie between its runs."
        ),
        source=f"Documentation/virt/kvm/x86/timekeeping.rst; {_LOAD}",
        consequence="A guest's time runs backwards.",
        needs=(),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            Run(vcpu=0, label="guest-0"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
            Sleep(ns=20 * MS),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-later"),
            Run(vcpu=0, label="guest-1"),
            Run(vcpu=0, label="guest-2"),
        ),
        # Not what userspace reads between: that is each time the last TSC, and what it takes to read it.
        claims=(ForwardClaim(text="the TSC never runs backwards", seen=("guest-0", "guest-1", "guest-2")),),
        lacks=_UNSTABLE,
    ),
    Scenario(
        name="unstable-keeps-pace",
        contract=(
            "On a host with an unstable TSC a guest's TSC keeps pace with the time, also while the guest "
            "does not run."
        ),
        source="kvm_guest_time_update(): KVM advances the TSC to what the time requires",
        consequence="A guest that sleeps much finds its clock behind.",
        needs=(),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            Run(vcpu=0, label="guest-0"),
            Sleep(ns=100 * MS),
            Run(vcpu=0, label="guest-1"),
        ),
        claims=(
            RateClaim(
                text="from run to run the TSC counts at its rate",
                first="guest-0",
                last="guest-1",
                khz="create",
            ),
        ),
        lacks=_UNSTABLE,
    ),
    Scenario(
        name="unstable-restore",
        contract="On a host with an unstable TSC a restored guest continues from the TSC that was written.",
        source=f"Documentation/virt/kvm/api.rst, KVM_SET_MSRS; {_LOAD}",
        consequence="Restored VMs do not get their saved TSC back on such hosts.",
        needs=(),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            write(0, Time(100_000 * MS), "restore"),
            Sleep(ns=20 * MS),
            Run(vcpu=0, label="guest-0"),
            Sleep(ns=20 * MS),
            Run(vcpu=0, label="guest-1"),
        ),
        claims=(
            RateClaim(
                text="the guest continues from the value written",
                first="restore",
                last="guest-0",
                khz="create",
            ),
            RateClaim(text="and at its second run as well", first="restore", last="guest-1", khz="create"),
        ),
        lacks=_UNSTABLE,
    ),
    Scenario(
        name="unstable-pair",
        contract=(
            "On a host with an unstable TSC two vCPUs that are restored to one TSC, one 300 ms after the "
            "other, count together."
        ),
        source=(
            "kvm_synchronize_tsc(): with an unstable TSC the elapsed time is added to a value that "
            "synchronizes"
        ),
        consequence="The TSCs of a restored guest are apart by as much as its VMM was slow.",
        needs=(),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            write(0, Time(100_000 * MS), "restore-0"),
            Sleep(ns=300 * MS),  # a rate that is 100 ppm off makes 30 us of it
            write(1, Time(100_000 * MS), "restore-1"),
            Run(vcpu=0, label="guest-0"),
            Run(vcpu=1, label="guest-1"),
        ),
        claims=(
            RateClaim(
                text="vCPU 0 continues from the value written",
                first="restore-0",
                last="guest-0",
                khz="create-0",
            ),
            RateClaim(
                text="vCPU 1 continues together with vCPU 0",
                first="restore-0",
                last="guest-1",
                khz="create-0",
            ),
        ),
        lacks=_UNSTABLE,
        promptly=Promptly("restore-0", "restore-1"),
    ),
    Scenario(
        name="unstable-offset",
        contract=(
            "On a host with an unstable TSC a guest whose offset is set starts from the TSC that this makes."
        ),
        source="Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET: guest_tsc = host_tsc + offset",
        consequence="A VMM that restores offsets gets another TSC on such hosts.",
        needs=("offset-attribute",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            SetTscOffset(vcpu=0, offset=Time(100_000 * MS), label="set"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-set"),
            Sleep(ns=20 * MS),
            Run(vcpu=0, label="guest-0"),
            Run(vcpu=0, label="guest-1"),
        ),
        claims=(
            RateClaim(
                text="the guest continues from there",
                first="tsc-set",
                last="guest-0",
                khz="create",
                stands_since="set",
            ),
            ForwardClaim(text="and never backwards", seen=("guest-0", "guest-1")),
        ),
        lacks=_UNSTABLE,
    ),
    Scenario(
        name="unstable-clock",
        contract="On a host with an unstable TSC KVM_GET_CLOCK never calls the clock stable.",
        source="Documentation/virt/kvm/api.rst, KVM_CLOCK_TSC_STABLE; kvm_check_tsc_unstable()",
        consequence="A guest trusts TSCs that the host itself does not trust.",
        needs=(),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetClock(label="clock-new"),
            Run(vcpu=0, label="guest-0"),
            GetClock(label="clock-ran"),
        ),
        claims=(
            ClockClaim(text="the clock is not stable before the first run", seen="clock-new", stable=False),
            ClockClaim(text="the clock is not stable after it", seen="clock-ran", stable=False),
        ),
        lacks=_UNSTABLE,
    ),
)
