# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM_GET_CLOCK: what it says of the VM's clock, and when."""

from kvmharness.contract import ClockClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.script import CreateVcpu, GetClock, Run, SetMsrs, Time

MS = 1_000_000

SCENARIOS = (
    Scenario(
        name="clock-flags",
        contract="KVM_GET_CLOCK calls the clock stable once the vCPUs have run and count together.",
        source=(
            "Documentation/virt/kvm/api.rst, KVM_GET_CLOCK and KVM_CLOCK_TSC_STABLE; kvm_track_tsc_matching()"
        ),
        consequence="A VMM that asks whether the clock is stable gets the wrong answer, and migrates by it.",
        needs=("tsc-write", "masterclock"),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            GetClock(label="clock-new"),
            Run(vcpu=0, label="guest-0"),
            Run(vcpu=1, label="guest-1"),
            GetClock(label="clock-ran"),
            SetMsrs(vcpu=1, msrs=(("TSC", Time(100_000 * MS)),), label="part"),
            GetClock(label="clock-parted"),
            Run(vcpu=0, label="guest-0-again"),
            Run(vcpu=1, label="guest-1-again"),
            GetClock(label="clock-ran-again"),
        ),
        # What it says once they are apart is KVM's own affair, and the model's: all of them may still see one
        # clock.
        claims=(
            ClockClaim(text="the clock is stable once both vCPUs have run", seen="clock-ran", stable=True),
        ),
    ),
)
