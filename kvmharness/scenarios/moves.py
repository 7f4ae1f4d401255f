# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves to another CPU: nothing may depend on where a thread runs before its vCPU first does."""

from kvmharness.contract import OffsetClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import READ_ONE
from kvmharness.script import (
    CreateVcpu,
    GetMsrs,
    GetTscOffset,
    MoveThread,
    Read,
    SetMsrs,
    SetTscOffset,
    Sleep,
    Time,
)

MS = 1_000_000

_SOURCE = (
    "Sean Christopherson's reply of 29 June 2023 to Like Xu's patch, which sets the offset again at a vCPU "
    "load on another CPU"
)
_CONSEQUENCE = "Whether a restored VM has the right TSC depends on where the scheduler puts its threads."

_RESTORED = OffsetClaim(
    text="the restored vCPU continues from the TSC that was written",
    seen=("offset", "tsc", "guest"),
    expected=("restore",),
    instead="tsc-new",
    otherwise="the write was overridden, the vCPU still counts from its creation",
    together=("create", "restore"),
)

SCENARIOS = (
    Scenario(
        name="offset-moved",
        contract=(
            "An offset set by KVM_VCPU_TSC_OFFSET stays when the thread moves to another CPU before the "
            "first run."
        ),
        source=_SOURCE,
        consequence=_CONSEQUENCE,
        needs=("tsc-offset", "two-cpus"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetTscOffset(vcpu=0, label="offset-new"),
            Sleep(ns=50 * MS),
            SetTscOffset(vcpu=0, offset=Read("offset-new", Time(700 * MS)), label="set"),
            MoveThread(to=1, label="move"),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the vCPU keeps the offset that was set",
                seen=("offset", "tsc", "guest"),
                expected=("set",),
                instead="offset-new",
                otherwise="it still has the offset of its creation",
            ),
        ),
    ),
    Scenario(
        name="young-restore-moved",
        contract="A young restore holds when the thread moves to another CPU before the first run.",
        source=_SOURCE,
        consequence=_CONSEQUENCE,
        needs=("tsc-write", "two-cpus"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            Sleep(ns=50 * MS),
            SetMsrs(vcpu=0, msrs=(("TSC", Time(900 * MS)),), label="restore"),
            MoveThread(to=1, label="move"),
            *READ_ONE,
        ),
        claims=(_RESTORED,),
    ),
    Scenario(
        name="young-restore-after-move",
        contract="A young restore holds when the thread moved to another CPU before it.",
        source=_SOURCE,
        consequence=_CONSEQUENCE,
        needs=("tsc-write", "two-cpus"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            Sleep(ns=50 * MS),
            MoveThread(to=1, label="move"),
            SetMsrs(vcpu=0, msrs=(("TSC", Time(900 * MS)),), label="restore"),
            *READ_ONE,
        ),
        claims=(_RESTORED,),
    ),
    Scenario(
        name="ioctl-from-another-cpu",
        contract="An ioctl on a vCPU from another CPU, before its first run, leaves its TSC alone.",
        source=_SOURCE,
        consequence=_CONSEQUENCE,
        needs=("tsc-write", "two-cpus"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            Sleep(ns=100 * MS),
            MoveThread(to=1, label="move"),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the vCPU still counts from its creation",
                seen=("offset", "tsc", "guest"),
                expected=("tsc-new",),
            ),
        ),
    ),
)
