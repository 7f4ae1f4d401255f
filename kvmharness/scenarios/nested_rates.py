# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested guests at another rate: a guest (L1) has the TSC of its own guest (L2) count faster or slower."""

from kvmharness.contract import Claim, L2RateClaim, OffsetClaim, RateClaim
from kvmharness.scenarios.nested import A_DAY_BACK, FAR, NEEDS
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, write
from kvmharness.script import (
    CreateVcpu,
    GetMsrs,
    GetTscKhz,
    Ppm,
    Read,
    Run,
    RunL2,
    Script,
    SetTscKhz,
    Sleep,
    Value,
)

_NEEDS = (*NEEDS, "nested-scaling")
_HALF, _DOUBLE, _ODD = 500_000, 2_000_000, 1_234_567
_SOURCE = "Intel SDM vol. 3, 'use TSC scaling'; kvm_calc_nested_tsc_multiplier(), prepare_vmcs02()"
_WRONG = "A guest that was migrated to a faster host, in a VM, has time that runs too fast."


def _tsc(label: str) -> GetMsrs:
    return GetMsrs(vcpu=0, indices=("TSC",), label=label)


def _l2(label: str, rate_ppm: int, offset: Value | None = None) -> Script:
    """A run of L2, between two readings of L1's TSC."""
    return (
        _tsc(f"before-{label}"),
        RunL2(vcpu=0, offset=offset, rate_ppm=rate_ppm, label=label),
        _tsc(f"after-{label}"),
    )


def _at_its_rate(*labels: str) -> tuple[Claim, ...]:
    return tuple(
        L2RateClaim(
            text=f"L2's TSC is L1's at the rate that L1 says, and what it adds ({label})",
            seen=label,
            before=f"before-{label}",
            after=f"after-{label}",
        )
        for label in labels
    )


_START: Script = (
    CreateVcpu(vcpu=0, guest="nested-64", label="create-0"),
    _tsc("tsc-new"),
    write(0, Read("tsc-new", FAR), "write"),
)

SCENARIOS = (
    Scenario(
        name="nested-ratio",
        contract="L2's TSC counts at the rate that L1 says, and goes on doing so; L1's stays as it was.",
        source=f"{_SOURCE}; KVM's selftest nested_tsc_scaling_test",
        consequence=_WRONG,
        needs=_NEEDS,
        script=(
            *_START,
            *_l2("l2", _HALF, A_DAY_BACK),
            Sleep(ns=50 * MS),
            *_l2("l2-later", _HALF),
            Run(vcpu=0, label="l1"),
        ),
        claims=(
            *_at_its_rate("l2", "l2-later"),
            OffsetClaim(
                text="L1 stays where it was", seen=("after-l2", "after-l2-later", "l1"), expected=("write",)
            ),
        ),
    ),
    Scenario(
        name="nested-ratio-again",
        contract="Each time that L1 enters L2, the rate that it then says counts, and none of before.",
        source=_SOURCE,
        consequence="A hypervisor in a VM gives the next of its guests the rate of the last one.",
        needs=_NEEDS,
        script=(
            *_START,
            *_l2("l2-slow", _HALF, A_DAY_BACK),
            *_l2("l2-fast", _DOUBLE, 0),
            *_l2("l2-odd", _ODD, A_DAY_BACK),
            RunL2(vcpu=0, offset=A_DAY_BACK, label="l2-same"),
            Run(vcpu=0, label="l1"),
            *_l2("l2-again", _HALF, 0),
        ),
        claims=(
            *_at_its_rate("l2-slow", "l2-fast", "l2-odd", "l2-again"),
            OffsetClaim(
                text="L1 stays where it was, and an L2 without a rate of its own counts as it does",
                seen=("after-l2-slow", "after-l2-fast", "after-l2-odd", "l2-same", "l1", "after-l2-again"),
                expected=("write",),
            ),
        ),
    ),
    Scenario(
        name="nested-ratio-host-write",
        contract="A TSC that is written while L2 is current is L1's, and L2's is that at its rate.",
        source="kvm_vcpu_write_tsc_offset(): L2's offset is computed again, with its multiplier",
        consequence="A VM is restored, or set back, while its own guest runs: that guest's clock jumps.",
        needs=_NEEDS,
        script=(
            *_START[:2],
            RunL2(vcpu=0, offset=A_DAY_BACK, rate_ppm=_HALF, label="l2-first"),
            write(0, Read("tsc-new", FAR), "write"),
            *_l2("l2", _HALF),
            Run(vcpu=0, label="l1"),
            *_l2("l2-again", _DOUBLE, A_DAY_BACK),
        ),
        claims=(
            *_at_its_rate("l2", "l2-again"),
            OffsetClaim(
                text="L1 continues from what was written",
                seen=("before-l2", "after-l2", "l1", "after-l2-again"),
                expected=("write",),
                instead="tsc-new",
                otherwise="it still counts as before",
            ),
        ),
    ),
    Scenario(
        name="nested-ratio-of-scaled",
        contract="Where L1 has a rate of its own, L2's is that by what L1 says, and L1 keeps its own.",
        source=f"{_SOURCE}; KVM's selftest nested_tsc_scaling_test",
        consequence=_WRONG,
        needs=(*_NEEDS, "tsc-scaling"),
        script=(
            _START[0],
            SetTscKhz(vcpu=0, khz=Ppm(-333_333), label="set-khz"),
            GetTscKhz(vcpu=0, label="khz"),
            # By its new rate the TSC of a host that has been up for long is below 0.
            write(0, FAR, "write"),
            *_l2("l2", _ODD, A_DAY_BACK),
            Sleep(ns=50 * MS),
            *_l2("l2-later", _ODD),
            Run(vcpu=0, label="l1"),
        ),
        claims=(
            *_at_its_rate("l2", "l2-later"),
            RateClaim(text="L1 keeps its rate", first="after-l2", last="l1", khz="khz", instead="create-0"),
        ),
    ),
)
