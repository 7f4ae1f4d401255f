# SPDX-License-Identifier: GPL-2.0-or-later
"""Protected TSCs: where userspace cannot set a guest's TSC, nothing that it tries may move it."""

from kvmharness.contract import ForwardClaim, OffsetClaim, SameClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, READ_BOTH, READ_ONE, write
from kvmharness.script import CreateVcpu, GetMsrs, GetTscOffset, Read, Run, SetTscOffset, Time

_SOURCE = (
    "kvm_vcpu_write_tsc_offset() and __kvm_synchronize_tsc() with guest_tsc_protected (SEV-SNP Secure TSC, "
    "TDX); judged on a KVM that ignores writes for whatever reason"
)
_CONSEQUENCE = "A guest whose TSC is to be out of the host's reach finds it moved."
_READABLE = ("stable-tsc", "guest-16")
_PROTECTED = ("tsc-write", "tsc-offset")

SCENARIOS = (
    Scenario(
        name="protected-write",
        contract=(
            "A guest whose TSC is protected continues as before when userspace writes its TSC, near or far."
        ),
        source=_SOURCE,
        consequence=_CONSEQUENCE,
        needs=_READABLE,
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            write(0, Read("tsc-new", Time(500 * MS)), "near"),
            write(0, Time(100_000 * MS), "far"),
            write(0, 0, "zero"),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the TSC continues as before",
                seen=("offset", "tsc", "guest"),
                expected=("tsc-new",),
                instead="far",
                otherwise="the write was honoured",
            ),
        ),
        lacks=_PROTECTED,
    ),
    Scenario(
        name="protected-offset",
        contract=(
            "A guest whose TSC is protected continues as before when userspace sets its offset, and the "
            "offset reads back as it was."
        ),
        source=_SOURCE,
        consequence=_CONSEQUENCE,
        needs=_READABLE,
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
            GetTscOffset(vcpu=0, label="offset-new"),
            SetTscOffset(vcpu=0, offset=Read("offset-new", Time(100_000 * MS)), label="set"),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the TSC continues as before",
                seen=("offset", "tsc", "guest"),
                expected=("tsc-new",),
                instead="set",
                otherwise="the attribute was honoured",
            ),
            SameClaim(text="the offset reads back as it was", seen="offset", expected="offset-new"),
        ),
        lacks=_PROTECTED,
    ),
    Scenario(
        name="protected-pair",
        contract=(
            "vCPUs whose TSCs are protected count together, whatever is written to one of them, and forward."
        ),
        source=_SOURCE,
        consequence="The vCPUs of a protected guest disagree about the time.",
        needs=_READABLE,
        script=(
            CreateVcpu(vcpu=0, label="create-0"),
            CreateVcpu(vcpu=1, label="create-1"),
            Run(vcpu=0, label="guest-before"),
            write(1, Time(100_000 * MS), "write-1"),
            *READ_BOTH,
        ),
        claims=(
            OffsetClaim(
                text="vCPU 1 counts together with vCPU 0",
                seen=("offset-1", "tsc-1", "guest-1"),
                expected=("offset-0", "tsc-0", "guest-0"),
                instead="write-1",
                otherwise="the write was honoured",
            ),
            ForwardClaim(
                text="from vCPU to vCPU their TSCs never run backwards",
                seen=("guest-before", "guest-0", "guest-1"),
            ),
        ),
        lacks=_PROTECTED,
    ),
)
