# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of the pages in which KVM tells a guest something."""

from typing import NamedTuple

from kvmharness.model.arithmetic import WORD
from kvmharness.model.interval import Interval

# More than any thread has waited, in ns.
EVER_NS = 2**62


class Page(NamedTuple):
    """What is known of a vCPU's kvmclock page (struct pvclock_vcpu_time_info). None where it is not known.

    version      its least version
    stable       PVCLOCK_TSC_STABLE_BIT, if the host's own clock runs on the TSC
    stopped      PVCLOCK_GUEST_STOPPED
    tsc, ns      its tsc_timestamp (cycles) and system_time
    khz          the rate that its multiplier and shift stand for; 0: not known
    """

    version: int = 0
    stable: bool | None = None
    stopped: bool | None = None
    tsc: Interval | None = None
    ns: Interval | None = None
    khz: int = 0


class StealPage(NamedTuple):
    """What is known of a vCPU's steal time (struct kvm_steal_time).

    on           whether it is switched on, at its place (layout.py); None: elsewhere
    msr          what MSR STEAL_TIME holds
    least, most  the time in the page, in ns: the run_delay of the thread that last entered the guest with it
    version      its least version
    is_read      whether that is its version, read since it was last written
    is_whole     False once it was switched on elsewhere, where a part of the time then is
    """

    on: bool | None = False
    msr: int = 0
    least: int = 0
    most: int = 0
    version: int = 0
    is_read: bool = True
    is_whole: bool = True


NO_STEAL_TIME = StealPage()


class XenClock(NamedTuple):
    """What is known of the wall clock that a Xen shares with its guest: how often it was written, and what it
    then said (ns; None: not known)."""

    times: int
    ns: Interval | None


class Runstate(NamedTuple):
    """What is known of a runstate (struct vcpu_runstate_info). None where it is not known.

    state     its state; at first running, though it counts as offline until the vCPU was first entered
    entered   the VM's clock when that was entered (ns), 0 before it was first
    times     how long it was running, runnable, blocked and offline until then (ns)
    """

    state: int | None = 0
    entered: Interval | None = Interval(0, 0)
    times: tuple[Interval | None, ...] = (Interval(0, 0),) * 4


class RunstatePage(NamedTuple):
    """What is known of the runstate of a Xen's vCPU.

    on      whether its page is switched on
    kept    what KVM keeps
    page    what is in the page if that is something else
    steal   the run_delay (ns) that KVM noted of the playing thread when it last entered the guest; None: of
            another thread
    since   what that was when `kept` had its times: what it has grown by is still to be added to them
    least   as much as that (ns) is added, and no more may be; None: however much it is
    """

    on: bool = False
    kept: Runstate = Runstate()
    page: Runstate | None = Runstate()
    steal: Interval | None = Interval(0, 0)
    since: Interval | None = Interval(0, 0)
    least: int | None = None


NO_RUNSTATE = RunstatePage()


def sum_of(one: Interval, other: Interval) -> Interval:
    """What the sum of two may be."""
    return Interval(one.low + other.low, one.high + other.high)


def hull(one: Interval | None, other: Interval | None) -> Interval | None:
    """What holds both; None where one is not known, or they are half the circle of 64 bits apart."""
    if one is None or other is None:
        return None
    moved = other.near(one)
    low, high = min(one.low, moved.low), max(one.high, moved.high)
    return Interval(low, high) if high - low < WORD // 2 else None


def either(old: Page, new: Page) -> Page:
    """A page that is one of the two: that it was written is not certain."""
    return Page(
        version=old.version,
        stable=old.stable if old.stable is new.stable else None,
        stopped=old.stopped if old.stopped is new.stopped else None,
        tsc=hull(old.tsc, new.tsc),
        ns=hull(old.ns, new.ns),
        khz=old.khz if old.khz == new.khz else 0,
    )


def written(old: Page | None, new: Page, request: bool | None) -> Page | None:
    """A page after an entry to the guest: written if that was asked for, and perhaps if it was not."""
    if request is True:
        return new._replace(version=(old.version + 1 | 1) + 1 if old else 2)
    return either(old or Page(), new) if request is None or old else None
