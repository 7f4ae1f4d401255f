# SPDX-License-Identifier: GPL-2.0-or-later
"""Hotplug: a vCPU that comes later must count together with those that are there."""

from kvmharness.contract import OffsetClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import READ_BOTH
from kvmharness.script import CreateVcpu, GetTscOffset, Read, Run, SetMsrs, SetTscOffset, Sleep, Time

MS = 1_000_000

SCENARIOS = (
    Scenario(
        name="hotplug-after-restore",
        contract="A vCPU added to a restored, running VM counts together with the restored one.",
        source=(
            "kvm_synchronize_tsc(), whose comment keeps kvmclock stable after vCPU hotplug; QEMU's "
            "device_add of a vCPU"
        ),
        consequence="A vCPU plugged into a restored VM disagrees with the others about the time.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            Sleep(ns=50 * MS),
            SetMsrs(vcpu=0, msrs=(("TSC", Time(100_000 * MS)),), label="restore"),
            Run(vcpu=0, label="guest-before"),
            Sleep(ns=200 * MS),
            CreateVcpu(vcpu=1, label="create-1"),
            *READ_BOTH,
        ),
        claims=(
            OffsetClaim(
                text=(
                    "the restored vCPU continues from the TSC that was written, also after the other was "
                    "added"
                ),
                seen=("guest-before", "offset-0", "tsc-0", "guest-0"),
                expected=("restore",),
                instead="create-0",
                otherwise="it counts from its creation",
            ),
            OffsetClaim(
                text="the added vCPU counts together with the restored one",
                seen=("offset-1", "tsc-1", "guest-1"),
                expected=("offset-0", "tsc-0", "guest-0"),
                instead="create-1",
                otherwise="it counts from its own creation",
            ),
        ),
    ),
    Scenario(
        name="hotplug-after-offset",
        contract=(
            "A vCPU added to a VM whose offset was set by KVM_VCPU_TSC_OFFSET counts together with the one "
            "it was set for."
        ),
        source="kvm_arch_tsc_set_attr(): an offset that is set begins a generation, which new vCPUs join",
        consequence="A VMM that restores offsets cannot add a vCPU without setting that one's, too.",
        needs=("tsc-offset",),
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            GetTscOffset(vcpu=0, label="offset-new"),
            SetTscOffset(vcpu=0, offset=Read("offset-new", Time(100_000 * MS)), label="set"),
            Run(vcpu=0, label="guest-before"),
            Sleep(ns=20 * MS),
            CreateVcpu(vcpu=1, label="create-1"),
            *READ_BOTH,
        ),
        claims=(
            OffsetClaim(
                text="both vCPUs have the offset that was set",
                seen=("offset-0", "guest-0", "offset-1", "tsc-1", "guest-1"),
                expected=("set",),
                instead="create-1",
                otherwise="it counts from its own creation",
            ),
        ),
    ),
)
