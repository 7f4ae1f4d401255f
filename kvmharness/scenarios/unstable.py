# SPDX-License-Identifier: GPL-2.0-or-later
"""Unstable host TSC: what a guest is entitled to all the same.

KVM then sets each vCPU's offset anew whenever it loads it, from the TSC it last had, and at the next run
moves it up to where the time that passed should have brought it (kvm_arch_vcpu_load,
kvm_guest_time_update). So no offset stays, and what userspace reads of a vCPU that does not run stands
still; only what guests read counts.
"""

from kvmharness.contract import ClockClaim, ForwardClaim, Promptly, RateClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, write
from kvmharness.script import CreateVcpu, GetClock, GetMsrs, Run, SetTscOffset, Sleep, Time

_LOAD = "kvm_arch_vcpu_load(): with an unstable TSC the vCPU goes on from the TSC it last had"
_UNSTABLE = ("stable-tsc",)

SCENARIOS = (
    Scenario(
        "unstable-forward",
        "On a host with an unstable TSC a guest's TSC never runs backwards, whatever ioctls and waits lie "
        "between its runs.",
        f"Documentation/virt/kvm/x86/timekeeping.rst; {_LOAD}",
        "A guest's time runs backwards.",
        (),
        (
            CreateVcpu(vcpu=0, label="create"),
            Run(vcpu=0, label="guest-0"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
            Sleep(ns=20 * MS),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-later"),
            Run(vcpu=0, label="guest-1"),
            Run(vcpu=0, label="guest-2"),
        ),
        # Not what userspace reads between: that is each time the last TSC, and what it takes to read it.
        (ForwardClaim("the TSC never runs backwards", ("guest-0", "guest-1", "guest-2")),),
        lacks=_UNSTABLE,
    ),
    Scenario(
        "unstable-keeps-pace",
        "On a host with an unstable TSC a guest's TSC keeps pace with the time, also while the guest does "
        "not run.",
        "kvm_guest_time_update(): the TSC is caught up with what the time comes to",
        "A guest that sleeps much finds its clock behind.",
        (),
        (
            CreateVcpu(vcpu=0, label="create"),
            Run(vcpu=0, label="guest-0"),
            Sleep(ns=100 * MS),
            Run(vcpu=0, label="guest-1"),
        ),
        (RateClaim("from run to run the TSC counts at its rate", "guest-0", "guest-1", "create"),),
        lacks=_UNSTABLE,
    ),
    Scenario(
        "unstable-restore",
        "On a host with an unstable TSC a restored guest goes on from the TSC that was written.",
        f"Documentation/virt/kvm/api.rst, KVM_SET_MSRS; {_LOAD}",
        "Restored VMs do not get their saved TSC back on such hosts.",
        (),
        (
            CreateVcpu(vcpu=0, label="create"),
            write(0, Time(100_000 * MS), "restore"),
            Sleep(ns=20 * MS),
            Run(vcpu=0, label="guest-0"),
            Sleep(ns=20 * MS),
            Run(vcpu=0, label="guest-1"),
        ),
        (
            RateClaim("the guest goes on from the value written", "restore", "guest-0", "create"),
            RateClaim("and at its second run as well", "restore", "guest-1", "create"),
        ),
        lacks=_UNSTABLE,
    ),
    Scenario(
        "unstable-pair",
        "On a host with an unstable TSC two vCPUs that are restored to one TSC, one 5 ms after the other, "
        "count together.",
        "kvm_synchronize_tsc(): with an unstable TSC the elapsed time is added to a value that synchronizes",
        "The TSCs of a restored guest are apart by as much as its VMM was slow.",
        (),
        (
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            write(0, Time(100_000 * MS), "restore-0"),
            Sleep(ns=5 * MS),
            write(1, Time(100_000 * MS), "restore-1"),
            Run(vcpu=0, label="guest-0"),
            Run(vcpu=1, label="guest-1"),
        ),
        (
            RateClaim("vCPU 0 goes on from the value written", "restore-0", "guest-0", "create-0"),
            RateClaim("vCPU 1 goes on together with vCPU 0", "restore-0", "guest-1", "create-0"),
        ),
        lacks=_UNSTABLE,
        promptly=Promptly("restore-0", "restore-1"),
    ),
    Scenario(
        "unstable-offset",
        "On a host with an unstable TSC a guest whose offset is set starts from the TSC that this makes.",
        "Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET: guest_tsc = host_tsc + offset",
        "A VMM that restores offsets gets another TSC on such hosts.",
        ("offset-attribute",),
        (
            CreateVcpu(vcpu=0, label="create"),
            SetTscOffset(vcpu=0, offset=Time(100_000 * MS), label="set"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-set"),
            Sleep(ns=20 * MS),
            Run(vcpu=0, label="guest-0"),
            Run(vcpu=0, label="guest-1"),
        ),
        (
            RateClaim("the guest goes on from there", "tsc-set", "guest-0", "create", stands_since="set"),
            ForwardClaim("and never backwards", ("guest-0", "guest-1")),
        ),
        lacks=_UNSTABLE,
    ),
    Scenario(
        "unstable-clock",
        "On a host with an unstable TSC KVM_GET_CLOCK never calls the clock stable.",
        "Documentation/virt/kvm/api.rst, KVM_CLOCK_TSC_STABLE; kvm_check_tsc_unstable()",
        "A guest trusts TSCs that the host itself does not trust.",
        (),
        (
            CreateVcpu(vcpu=0, label="create"),
            GetClock(label="clock-new"),
            Run(vcpu=0, label="guest-0"),
            GetClock(label="clock-ran"),
        ),
        (
            ClockClaim("the clock is not stable before the first run", "clock-new", stable=False),
            ClockClaim("the clock is not stable after it", "clock-ran", stable=False),
        ),
        lacks=_UNSTABLE,
    ),
)
