# SPDX-License-Identifier: GPL-2.0-or-later
"""The offset attribute: userspace names the offset itself, and KVM is to leave it alone."""

from kvmharness.contract import Claim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.script import CreateVcpu, GetMsrs, GetTscOffset, Read, Run, SetTscOffset, Sleep, Time

MS = 1_000_000

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
)
