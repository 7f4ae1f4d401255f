# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps and claims that several scenarios have in common."""

from kvmharness.contract import TOGETHER_NS, OffsetClaim
from kvmharness.guests.layout import kvmclock_address
from kvmharness.script import GetClock, GetMsrs, GetTscOffset, ReadKvmclock, Run, Script, SetMsrs, Value

MS = 1_000_000  # ns
SECOND = 1000 * MS

# Reads the TSCs of vCPUs 0 and 1 in every way there is: by the offset, which kernels before 5.16
# lack, by the MSR, and by a guest; and whether KVM takes them to be the same.
READ_BOTH: Script = (
    GetTscOffset(vcpu=0, label="offset-0"),
    GetTscOffset(vcpu=1, label="offset-1"),
    GetMsrs(vcpu=0, indices=("TSC",), label="tsc-0"),
    GetMsrs(vcpu=1, indices=("TSC",), label="tsc-1"),
    Run(vcpu=0, label="guest-0"),
    Run(vcpu=1, label="guest-1"),
    GetClock(label="clock"),
)

# The same of vCPU 0 alone.
READ_ONE: Script = (
    GetTscOffset(vcpu=0, label="offset"),
    GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
    Run(vcpu=0, label="guest"),
)


def write(vcpu: int, value: Value, label: str) -> SetMsrs:
    """A write of MSR_IA32_TSC."""
    return SetMsrs(vcpu=vcpu, msrs=(("TSC", value),), label=label)


def look_at(vcpus: int) -> Script:
    """Reads the TSCs of so many vCPUs, by the offset and by a guest: offset-0, guest-0, offset-1, ...

    And then the clock, which says whether KVM takes the TSCs to be the same.
    """
    return (
        *(
            step
            for vcpu in range(vcpus)
            for step in (
                GetTscOffset(vcpu=vcpu, label=f"offset-{vcpu}"),
                Run(vcpu=vcpu, label=f"guest-{vcpu}"),
            )
        ),
        GetClock(label="clock"),
    )


def goes_on(
    text: str, expected: str, instead: str, *, vcpu: int = 0, together: tuple[str, ...] = ()
) -> OffsetClaim:
    """A vCPU, read by look_at(), continues from a step's TSC and not from another's."""
    return OffsetClaim(
        text=text,
        seen=(f"offset-{vcpu}", f"guest-{vcpu}"),
        expected=(expected,),
        instead=instead,
        otherwise="it still counts as before",
        together=together,
    )


def count_together(
    vcpus: int, written: str, *, first: str = "", within_ns: int = TOGETHER_NS
) -> tuple[OffsetClaim, ...]:
    """All vCPUs, read by look_at(), have the TSC of vCPU 0.

    `written` begins the labels of the last write to each, by which a vCPU would have a TSC of its own;
    with `first`, the label of the first of them, they have to come within `within_ns` of it.
    """
    return tuple(
        OffsetClaim(
            text=f"vCPU {vcpu} counts together with vCPU 0",
            seen=(f"offset-{vcpu}", f"guest-{vcpu}"),
            expected=("offset-0", "guest-0"),
            instead=f"{written}-{vcpu}",
            otherwise="it was given a TSC of its own",
            together=(first, f"{written}-{vcpu}") if first else (),
            within_ns=within_ns,
        )
        for vcpu in range(1, vcpus)
    )


def page_on(vcpu: int) -> SetMsrs:
    """The host switches a vCPU's kvmclock page on, as VMMs do at a restore."""
    return SetMsrs(vcpu=vcpu, msrs=(("SYSTEM_TIME", kvmclock_address(vcpu) + 1),), label=f"page-on-{vcpu}")


def look_at_page(vcpu: int, when: str) -> Script:
    """A run, after which KVM has written the vCPU's page if it was to, and a look at the page."""
    return (
        Run(vcpu=vcpu, label=f"guest-{vcpu}-{when}"),
        ReadKvmclock(vcpu=vcpu, label=f"page-{vcpu}-{when}"),
    )
