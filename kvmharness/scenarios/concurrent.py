# SPDX-License-Identifier: GPL-2.0-or-later
"""Two vCPUs that run at the same time, each on a CPU of its own, and hold their TSCs against each other's."""

from kvmharness.contract import NoWarpClaim, Promptly
from kvmharness.scenarios.scenario import Scenario
from kvmharness.script import (
    CreateVcpu,
    GetTscOffset,
    Read,
    RunTogether,
    Script,
    SetMsrs,
    SetTscOffset,
    Sleep,
    Time,
)

MS = 1_000_000

_CONSEQUENCE = (
    "The guest's kernel finds its TSCs unsynchronized and gives them up for a slow clock, or time runs "
    "backwards in it when a thread moves to another vCPU."
)
_MEET = RunTogether(vcpus=(0, 1), label="meet")
_NO_WARP = (NoWarpClaim("neither vCPU reads less than the other had before", "meet"),)


def _two(guest: str = "warp-64") -> Script:
    return tuple(CreateVcpu(vcpu=vcpu, guest=guest, label=f"create-{vcpu}") for vcpu in (0, 1))


def _write(vcpu: int, ms: int) -> SetMsrs:
    return SetMsrs(vcpu=vcpu, msrs=(("TSC", Time(ms * MS)),), label=f"restore-{vcpu}")


SCENARIOS = (
    Scenario(
        "new-pair-at-once",
        "Two vCPUs of a new VM that run at once have one TSC: neither reads less than the other has before.",
        "check_tsc_warp() (arch/x86/kernel/tsc_sync.c), which a guest's kernel runs when it brings up a CPU",
        _CONSEQUENCE,
        ("stable-tsc", "two-cpus"),
        (*_two(), _MEET),
        _NO_WARP,
    ),
    Scenario(
        "restored-pair-at-once",
        "Two vCPUs that were restored one after the other, as QEMU does it, and run at once have one TSC.",
        "check_tsc_warp() (arch/x86/kernel/tsc_sync.c); QEMU, cpu_synchronize_all_post_init()",
        _CONSEQUENCE,
        ("tsc-write", "two-cpus"),
        (*_two(), Sleep(ns=50 * MS), _write(0, 100_000), Sleep(ns=5 * MS), _write(1, 100_002), _MEET),
        _NO_WARP,
        promptly=Promptly("restore-0", "restore-1"),
    ),
    Scenario(
        "offset-pair-at-once",
        "Two vCPUs with one offset, set by the attribute, that run at once have one TSC.",
        "check_tsc_warp() (arch/x86/kernel/tsc_sync.c); OpenVMM and gVisor set one offset everywhere",
        _CONSEQUENCE,
        ("tsc-offset", "two-cpus"),
        (
            *_two(),
            GetTscOffset(vcpu=0, label="offset-new"),
            *(
                SetTscOffset(vcpu=vcpu, offset=Read("offset-new", Time(700 * MS)), label=f"set-{vcpu}")
                for vcpu in (0, 1)
            ),
            _MEET,
        ),
        _NO_WARP,
    ),
    Scenario(
        "hotplugged-at-once",
        "A vCPU that is added to a restored VM, and one that was there, have one TSC when they run at once.",
        "check_tsc_warp() (arch/x86/kernel/tsc_sync.c); QEMU's device_add of a vCPU",
        _CONSEQUENCE,
        ("tsc-write", "two-cpus"),
        (_two()[0], _write(0, 100_000), Sleep(ns=50 * MS), _two()[1], _MEET),
        _NO_WARP,
    ),
)
