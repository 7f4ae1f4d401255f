# SPDX-License-Identifier: GPL-2.0-or-later
"""Proposed interfaces: what no release of Linux has, and a series of 2026 adds.

KVM_VCPU_TSC_SCALE reports a vCPU's scaling ratio. KVM_GET_CLOCK_GUEST and KVM_SET_CLOCK_GUEST save and
restore the VM's clock as a function of a vCPU's TSC. On a kernel without them these scenarios are skipped.
"""

from kvmharness.contract import EndClaim, LineClaim, PageClaim, ScaleClaim
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, SECOND, look_at_page, page_on
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetClockGuest,
    GetMsrs,
    GetTscOffset,
    GetTscScale,
    Ppm,
    Read,
    Run,
    SetClockGuest,
    SetMsrs,
    SetTscKhz,
    Sleep,
    Time,
)

_SERIES = "An unmerged series of 2026 ('Cleaning up the KVM clock mess')"
_FAR = Time(100 * SECOND)


def _set_clock_guest(reported: str, label: str, shift: int = 0) -> SetClockGuest:
    """The VM's clock is set to what a KVM_GET_CLOCK_GUEST reported, with another shift if one is given."""
    return SetClockGuest(
        vcpu=0,
        tsc_timestamp=Read(reported, place=1),
        system_time=Read(reported, place=2),
        multiplier=Read(reported, place=3),
        shift=Read(reported, shift, place=4),
        label=label,
    )


SCENARIOS = (
    Scenario(
        name="scale-of-half-rate",
        contract="KVM_VCPU_TSC_SCALE is the ratio by which a vCPU's TSC is the host's, at each of its rates.",
        source=f"{_SERIES}: kvm_arch_tsc_get_attr(), KVM_VCPU_TSC_SCALE",
        consequence="A VMM that computes a guest's TSC from the host's restores it wrong.",
        needs=("tsc-scaling", "offset-attribute", "tsc-scale-attribute"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            GetTscScale(vcpu=0, label="scale-created"),
            GetTscOffset(vcpu=0, label="offset-created"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-created"),
            SetTscKhz(vcpu=0, khz=Ppm(-500_000), label="slower"),
            GetTscScale(vcpu=0, label="scale"),
            GetTscOffset(vcpu=0, label="offset"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
            Sleep(ns=20 * MS),
            Run(vcpu=0, label="guest"),
        ),
        claims=(
            ScaleClaim(
                text="the ratio is right at the rate of the creation",
                seen=("tsc-created",),
                ratio="scale-created",
                offset="offset-created",
            ),
            ScaleClaim(
                text="the ratio is right at half that rate",
                seen=("tsc", "guest"),
                ratio="scale",
                offset="offset",
            ),
        ),
    ),
    Scenario(
        name="clock-guest-is-the-page",
        contract=(
            "At one TSC KVM_GET_CLOCK_GUEST reports the time that the guest's page and KVM_GET_CLOCK report."
        ),
        source=f"{_SERIES}: kvm_vcpu_ioctl_get_clock_guest()",
        consequence="A VMM saves a clock that is not the one that its guest reads.",
        needs=("clock-realtime", "clock-guest"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "first"),
            GetTscOffset(vcpu=0, label="offset"),
            GetClockGuest(vcpu=0, label="reported"),
            GetClock(label="clock"),
            Sleep(ns=SECOND),
            *look_at_page(0, "later"),
            GetClockGuest(vcpu=0, label="reported-later"),
            GetClock(label="clock-later"),
        ),
        claims=(
            LineClaim(
                text="what is reported and the page are on one line",
                seen=("reported", "page-0-later", "reported-later"),
                expected="page-0-first",
            ),
            LineClaim(
                text="what is reported and the clock are on one line",
                seen=("clock", "clock-later"),
                expected="reported",
            ),
        ),
    ),
    Scenario(
        name="clock-guest-restored",
        contract=(
            "A clock restored with KVM_SET_CLOCK_GUEST continues as the same function of the guest's TSC."
        ),
        source=f"{_SERIES}: kvm_vcpu_ioctl_set_clock_guest(), and the recipe for migrations in vcpu.rst",
        consequence="The guest's clock moves against its TSC at each migration.",
        needs=("tsc-write", "clock-realtime", "clock-guest"),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            page_on(0),
            *look_at_page(0, "before"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-saved"),
            GetClockGuest(vcpu=0, label="saved"),
            Sleep(ns=100 * MS),
            SetMsrs(vcpu=0, msrs=(("TSC", Read("tsc-saved", _FAR)),), label="tsc-restored"),
            _set_clock_guest("saved", label="restored"),
            *look_at_page(0, "after"),
            GetClockGuest(vcpu=0, label="reported-after"),
        ),
        claims=(
            EndClaim(text="the clock is restored", seen="restored"),
            PageClaim(text="the page is stable", seen="page-0-after", stable=True),
            LineClaim(
                text="the clock is what it was at each TSC",
                seen=("page-0-after", "reported-after"),
                expected="page-0-before",
            ),
        ),
    ),
    Scenario(
        name="clock-guest-of-another-rate",
        contract="KVM_SET_CLOCK_GUEST refuses a function of a TSC of another rate with ERANGE.",
        source=f"{_SERIES}: kvm_vcpu_ioctl_set_clock_guest()",
        consequence="The guest's clock is set from a number of cycles that its TSC never counts.",
        needs=("clock-guest",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            Run(vcpu=0, label="guest"),
            GetClockGuest(vcpu=0, label="reported"),
            _set_clock_guest("reported", label="twice-the-rate", shift=1),
            _set_clock_guest("reported", label="own-rate"),
        ),
        claims=(
            EndClaim(text="another rate is refused", seen="twice-the-rate", errors=("ERANGE",)),
            EndClaim(text="its own rate is taken", seen="own-rate"),
        ),
    ),
)
