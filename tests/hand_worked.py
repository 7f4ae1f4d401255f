# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces worked out by hand, for the judge.

The host counts 1 GHz, so 1 ns is 1 cycle, and its TSC and its clock show the same number. Times are in
ms, MS cycles each. A step takes 1000 cycles unless it says otherwise: what the kernel read of its clocks
is known to 1000 cycles, and no better.
"""

from kvmharness.model.judge import Judgement, Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.state import Host
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscOffset,
    GuestWrite,
    Operation,
    Run,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
)
from kvmharness.trace import Bracket, Event, Trace

MS = 1_000_000
KHZ = 1_000_000
WIDTH = 1000
HOST = Host(
    khz=KHZ,
    khz_exact=True,
    tsc_clocksource=True,
    has_attribute=True,
    fraction_bits=0,
    refuses_khz=False,
    tolerance_ppm=250,
)
OLD, NEW = "mainline-before-6.7", "mainline-6.7"


def step(operation: Operation, at: int, *values: int, width: int = WIDTH, error: str = "") -> Event:
    """A step between host clock `at` and `at + width`, in cycles and ns."""
    return Event(
        operation, Bracket(at, at, at + width, at + width), tuple(value % 2**64 for value in values), error
    )


def create(at: int, vcpu: int = 0, khz: int = KHZ, guest: str = "rdtsc-16") -> Event:
    return step(CreateVcpu(vcpu=vcpu, guest=guest), at, khz)


def write(at: int, value: int, vcpu: int = 0, *, width: int = WIDTH, error: str = "") -> Event:
    return step(SetMsrs(vcpu=vcpu, msrs=(("TSC", value),)), at, value, width=width, error=error)


def tsc(at: int, value: int, vcpu: int = 0, *, width: int = WIDTH) -> Event:
    return step(GetMsrs(vcpu=vcpu, indices=("TSC",)), at, value, width=width)


def offset(at: int, value: int, vcpu: int = 0) -> Event:
    return step(GetTscOffset(vcpu=vcpu), at, value)


def set_offset(at: int, value: int, vcpu: int = 0) -> Event:
    return step(SetTscOffset(vcpu=vcpu, offset=value), at, value)


def run(at: int, *samples: int, vcpu: int = 0) -> Event:
    return step(Run(vcpu=vcpu), at, *samples)


def clock(at: int, flags: int) -> Event:
    return step(GetClock(), at, at, flags)


def guest_write(at: int, msr: str, value: int, before: int, after: int) -> Event:
    return step(GuestWrite(vcpu=0, msr=msr, value=value), at, value, before, after)


def set_khz(at: int, khz: int, vcpu: int = 0, *, error: str = "") -> Event:
    return step(SetTscKhz(vcpu=vcpu, khz=khz), at, khz, error=error)


def judged(*events: Event, policy: str = NEW, host: Host = HOST) -> Judgement:
    return judge(Trace("hand-worked", "none", events), POLICIES[policy], host)


def possible(*events: Event, policy: str = NEW, host: Host = HOST) -> bool:
    judgement = judged(*events, policy=policy, host=host)
    assert judgement.possibility is not Possibility.UNDECIDED, judgement
    return judgement.possibility is Possibility.POSSIBLE
