# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on the VM's clock and its pages, on hand-worked traces. The host counts 1 GHz."""

import pytest

from kvmharness.contract import Claim, HostTimeClaim, PageClaim, RealtimeClaim, Status, TimeClaim
from kvmharness.contract.clock import page_time
from kvmharness.script import CreateVcpu, GetClock, GetTscKhz, ReadKvmclock, Run, SetClock
from kvmharness.trace import Bracket, Event, Trace

MS = 1_000_000
KHZ = 1_000_000
# A multiplier of 2**31 and a shift of 1: a cycle is a ns.
GHZ = (2**31, 1)


def event(operation: object, host: int, *values: int, width: int = 1000, error: str = "") -> Event:
    """A step whose ioctl took from `host` to `host + width`, in cycles and in ns."""
    return Event(operation, Bracket(host, host, host + width, host + width), values, error)  # type: ignore[arg-type]


def status(claim: Claim, *events: Event) -> Status:
    return claim.check(Trace("test", "test", events)).status


def reason(claim: Claim, *events: Event) -> str:
    return claim.check(Trace("test", "test", events)).reason


def page(host: int, *values: int) -> Event:
    return event(ReadKvmclock(vcpu=0, label="page"), host, *values)


CREATE = event(CreateVcpu(vcpu=0, label="create"), 1000 * MS, KHZ)
GUEST = event(Run(vcpu=0, label="guest"), 1010 * MS, 10 * MS)


# Pages


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ((2, 0, 0, *GHZ, 1), ""),
        ((0, 0, 0, 0, 0, 0), "step 'page' read version 0: KVM never wrote the page"),
        ((3, 0, 0, *GHZ, 1), "step 'page' read version 3, which is odd"),
        ((2, 0, 0, *GHZ, 0), "step 'page' read flags 0x0, without PVCLOCK_TSC_STABLE_BIT"),
        ((2, 0, 0, *GHZ, 3), "step 'page' read flags 0x3, with PVCLOCK_GUEST_STOPPED"),
    ],
)
def test_a_page_is_to_be_there_and_to_say_what_it_ought_to(values: tuple[int, ...], complaint: str) -> None:
    claim = PageClaim(text="it is", seen="page", stable=True, stopped=False)
    assert reason(claim, CREATE, page(1020 * MS, *values)) == complaint
    assert status(claim, CREATE) is Status.UNDECIDED
    there = PageClaim(text="it is there", seen="page")
    assert status(there, CREATE, page(1020 * MS, 2, 0, 0, *GHZ, 3)) is Status.KEPT


def test_a_pages_time_is_its_own_and_the_cycles_since_at_its_rate() -> None:
    assert page_time((2, 100, 7_000, *GHZ, 1), 150) == 7_050
    # 4 GHz: a shift of -1 (255 as a byte) and the same multiplier: four cycles a ns.
    assert page_time((2, 100, 7_000, 2**31, 255, 1), 100 + 400) == 7_100
    # Written 40 cycles behind the guest's reading of its TSC.
    assert page_time((2, 100, 7_000, *GHZ, 1), 60) == 6_960


# The time


def clock(label: str, host: int, *values: int) -> Event:
    return event(GetClock(label=label), host, *values)


def test_a_clock_goes_on_with_the_hosts_and_no_faster() -> None:
    # A reading is known to its bracket of 1000 ns, and to 3 ns of rounding; the clocks' rates agree.
    claim = TimeClaim(text="it goes on", seen=("later",), expected="first")
    first = clock("first", 1010 * MS, 500 * MS, 0)
    assert status(claim, CREATE, first, clock("later", 1030 * MS, 520 * MS, 0)) is Status.KEPT
    assert status(claim, CREATE, first, clock("later", 1030 * MS, 520 * MS + 1_006, 0)) is Status.KEPT
    late = (CREATE, first, clock("later", 1030 * MS, 521 * MS, 0))
    assert reason(claim, *late).startswith("step 'later' reported a time 0.999")
    assert reason(claim, *late).endswith("ms ahead of step 'first'")
    assert status(claim, CREATE, first) is Status.UNDECIDED


def test_what_was_set_is_a_time_like_one_that_was_read_unless_it_was_refused() -> None:
    claim = TimeClaim(text="it goes on", seen=("later",), expected="set")
    later = clock("later", 1030 * MS, 5_010 * MS, 0)
    was_set = event(SetClock(clock=5_000 * MS, label="set"), 1020 * MS, 5_000 * MS)
    assert status(claim, CREATE, was_set, later) is Status.KEPT
    refused = event(SetClock(clock=5_000 * MS, label="set"), 1020 * MS, 5_000 * MS, error="EINVAL")
    assert status(claim, CREATE, refused, later) is Status.UNDECIDED


def test_a_guests_time_is_what_its_page_makes_of_the_tsc_that_it_read_last() -> None:
    # The guest read 10 ms at 1010 ms; its page was written at a TSC of 9 ms and a time of 509 ms: 510 ms.
    claim = TimeClaim(text="it is the clock's", seen=("page",), expected="clock")
    its = clock("clock", 1020 * MS, 520 * MS, 0)
    assert status(claim, CREATE, GUEST, page(1015 * MS, 2, 9 * MS, 509 * MS, *GHZ, 1), its) is Status.KEPT
    ahead = (CREATE, GUEST, page(1015 * MS, 2, 9 * MS, 511 * MS, *GHZ, 1), its)
    assert status(claim, *ahead) is Status.BROKEN
    # Without a guest, or without a page, there is no time.
    assert status(claim, CREATE, page(1015 * MS, 2, 9 * MS, 509 * MS, *GHZ, 1), its) is Status.UNDECIDED
    assert status(claim, CREATE, GUEST, page(1015 * MS, 0, 0, 0, 0, 0, 0), its) is Status.UNDECIDED


def restored(after: int, real_after: int, *, width: int = 1000, error: str = "") -> Status:
    """A clock of 500 ms saved at 1010 ms, set at 1060 ms, and read at 1070 ms."""
    claim = RealtimeClaim(text="it goes on", before="saved", by="set", after="after")
    return status(
        claim,
        CREATE,
        clock("saved", 1010 * MS, 500 * MS, 14, 7_000 * MS, 1010 * MS),
        event(SetClock(clock=0, realtime=0, label="set"), 1060 * MS, 0, 0, width=width, error=error),
        clock("after", 1070 * MS, after, 14, real_after, 1070 * MS),
    )


def test_a_clock_that_is_set_with_the_real_time_goes_on_as_that_did() -> None:
    assert restored(560 * MS, 7_060 * MS) is Status.KEPT
    # 50 ms lost.
    assert restored(510 * MS, 7_060 * MS) is Status.BROKEN
    # The host's own clock was set by an hour meanwhile: the VM's has to follow, whatever the raw one did.
    assert restored(560 * MS + 3_600_000 * MS, 7_060 * MS + 3_600_000 * MS) is Status.KEPT
    # A setting that took 60 ms says nothing of 50, and one that was refused nothing at all.
    assert restored(510 * MS, 7_060 * MS, width=60 * MS) is Status.KEPT
    assert restored(560 * MS, 7_060 * MS, error="EINVAL") is Status.UNDECIDED


def test_a_kernel_that_tells_no_real_time_leaves_it_undecided() -> None:
    claim = RealtimeClaim(text="it goes on", before="saved", by="set", after="after")
    bare = (
        clock("saved", 1010 * MS, 500 * MS, 2),
        event(SetClock(clock=0, label="set"), 1060 * MS, 0),
        clock("after", 1070 * MS, 0, 2),
    )
    assert status(claim, CREATE, *bare) is Status.UNDECIDED
    tells = HostTimeClaim(text="it tells", seen="saved")
    assert reason(tells, CREATE, *bare) == "step 'saved': KVM_GET_CLOCK returned flags 0x2"
    assert status(tells, CREATE, clock("saved", 1010 * MS, 500 * MS, 14, 7, 1010 * MS)) is Status.KEPT
    assert status(tells, CREATE) is Status.UNDECIDED


def test_a_label_of_another_operation_tells_no_time() -> None:
    # A file may say anything.
    strange = event(GetTscKhz(vcpu=0, label="page"), 1020 * MS, KHZ)
    assert status(PageClaim(text="it is", seen="page"), CREATE, strange) is Status.UNDECIDED
    assert (
        status(TimeClaim(text="it is", seen=("page",), expected="page"), CREATE, strange) is Status.UNDECIDED
    )
    assert status(HostTimeClaim(text="it is", seen="page"), CREATE, strange) is Status.UNDECIDED
