# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim that kvmclock stays the same function of the TSC, on hand-worked traces."""

import pytest

from kvmharness.contract import LineClaim, Status
from kvmharness.contract.clock import page_time
from kvmharness.model.masterclock import scale
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetClockGuest,
    GetTscOffset,
    ReadKvmclock,
    Run,
    SetTscKhz,
)
from kvmharness.trace import Bracket, DebugfsReading, Event, Trace

MS = 1_000_000
# 1 GHz: a cycle is a ns.
GHZ = (2**31, 1)
STABLE = 1


def step(operation: object, at: int, *values: int, debugfs: tuple[DebugfsReading, ...] = ()) -> Event:
    """A step between 1000 ns from `at` on."""
    bracket = Bracket(at, at, at + 1000, at + 1000)
    return Event(operation, bracket, values, debugfs=debugfs)  # type: ignore[arg-type]


def guest(at: int, tsc: int, vcpu: int = 0) -> Event:
    return step(Run(vcpu=vcpu), at, tsc)


def page(label: str, at: int, *values: int, vcpu: int = 0, flags: int = STABLE) -> Event:
    return step(ReadKvmclock(vcpu=vcpu, label=label), at, 2, *values, flags)


def clock(at: int, time: int, host_tsc: int) -> Event:
    return step(GetClock(label="clock"), at, time, 14, 77, host_tsc)


CREATE = step(CreateVcpu(vcpu=0), 900 * MS, 1_000_000)
FIRST = (CREATE, guest(1000 * MS, 10 * MS), page("first", 1001 * MS, 5 * MS, 105 * MS, *GHZ))


def found(*events: Event, seen: str = "later") -> tuple[Status, str]:
    claim = LineClaim(text="it stays", seen=(seen,), expected="first")
    finding = claim.check(Trace("test", "test", (*FIRST, *events)))
    return finding.status, finding.reason


@pytest.mark.parametrize("tsc", [5 * MS, 7 * MS, 2**62])
@pytest.mark.parametrize("khz", [1_000_000, 999_951, 2_100_000, 50_000, 5_000_000])
def test_a_pages_time_is_what_the_abi_says_it_is(tsc: int, khz: int) -> None:
    # Documentation/virt/kvm/x86/msr.rst: take the cycles since tsc_timestamp; shift them left by tsc_shift,
    # or right if that is negative; multiply by tsc_to_system_mul, drop 32 bits, and add system_time.
    multiplier, shift = scale(khz)
    by = int.from_bytes(bytes([shift]), signed=True)
    cycles = (tsc - 3 * MS) << by if by >= 0 else (tsc - 3 * MS) >> -by
    time = (7 + (cycles * multiplier >> 32)) % 2**64
    assert page_time((2, 3 * MS, 7, multiplier, shift, 1), tsc) == time


def test_a_page_that_was_written_anew_tells_the_same_time_at_the_same_tsc() -> None:
    for off, status in ((0, Status.KEPT), (2, Status.KEPT), (3, Status.BROKEN), (-3, Status.BROKEN)):
        later = page("later", 1101 * MS, 105 * MS, 205 * MS + off, *GHZ)
        # 100 ms later the host's raw clock, with a multiplier of 24 bits, may be 6 ns off.
        allowed = found(guest(1100 * MS, 110 * MS), later)[0]
        assert allowed is (Status.KEPT if abs(off) <= 8 else status)
    early = page("later", 1002 * MS, 6 * MS, 106 * MS + 3, *GHZ)
    assert found(guest(1001 * MS, 11 * MS), early)[0] is Status.BROKEN
    assert (
        found(guest(1001 * MS, 11 * MS), page("later", 1002 * MS, 6 * MS, 106 * MS + 2, *GHZ))[0]
        is Status.KEPT
    )


def test_what_a_new_masterclock_may_be_off_grows_from_the_one_before_not_from_the_page() -> None:
    # The pages are read within 2 ms at TSC 310 ms; the first one's masterclock is of TSC 5 ms, and 305 ms may
    # be 18 ns off.
    old = step(ReadKvmclock(vcpu=0, label="first"), 1301 * MS, 2, 5 * MS, 105 * MS, *GHZ, STABLE)
    for off, status in ((14, Status.KEPT), (-14, Status.KEPT), (24, Status.BROKEN), (-24, Status.BROKEN)):
        again = page("later", 1302 * MS, 305 * MS, 405 * MS + off, *GHZ)
        claim = LineClaim(text="it stays", seen=("later",), expected="first")
        events = (CREATE, guest(1300 * MS, 310 * MS), old, guest(1301 * MS, 311 * MS), again)
        assert claim.check(Trace("test", "test", events)).status is status


def test_a_step_back_is_told_with_its_size_and_its_share_of_the_time() -> None:
    # At 999,951 kHz KVM makes 49 us too much of a second; a new masterclock takes them back.
    later = page("later", 2001 * MS, 1_005 * MS, 1_105 * MS - 49_000, *GHZ)
    assert found(guest(2000 * MS, 1_010 * MS), later) == (
        Status.BROKEN,
        "at one TSC step 'later' reports a time 49.0 us behind step 'first', 49.0 millionths of the 1.000 s "
        "between them",
    )


def test_a_page_of_another_rate_is_asked_at_the_tsc_that_the_guest_read() -> None:
    # At a TSC of 110 ms the first page tells 210 ms. So does one of twice the rate, and of 157.5 ms at 5 ms.
    half = page("later", 1101 * MS, 5 * MS, 157_500_000, 2**31, 0)
    assert found(guest(1100 * MS, 110 * MS), half)[0] is Status.KEPT
    assert found(guest(1100 * MS, 111 * MS), half)[0] is Status.BROKEN


def test_another_vcpus_page_is_held_against_it_at_its_own_guests_tsc() -> None:
    other = page("later", 1101 * MS, 105 * MS, 205 * MS, *GHZ, vcpu=1)
    assert found(guest(1100 * MS, 110 * MS, vcpu=1), other)[0] is Status.KEPT
    # Its guest has read nothing.
    assert found(other)[0] is Status.UNDECIDED


def test_a_clock_is_held_against_a_page_by_the_vcpus_offset_and_ratio() -> None:
    # The host's TSC is 990 ms more than the vCPU's.
    shown = step(GetTscOffset(vcpu=0), 1002 * MS, -990 * MS % 2**64)
    assert found(shown, clock(1003 * MS, 113 * MS, 1003 * MS), seen="clock")[0] is Status.KEPT
    assert found(shown, clock(1003 * MS, 113 * MS + 9, 1003 * MS), seen="clock")[0] is Status.BROKEN
    # Without any offset nothing can be said, nor without the host's TSC.
    assert found(clock(1003 * MS, 113 * MS, 1003 * MS), seen="clock")[0] is Status.UNDECIDED
    bare = step(GetClock(label="clock"), 1003 * MS, 113 * MS, 2)
    assert found(shown, bare, seen="clock")[0] is Status.UNDECIDED


@pytest.mark.parametrize("bits", [32, 48])
def test_the_ratio_is_taken_by_its_own_fraction_bits(bits: int) -> None:
    # Half the host's rate, and an offset with which the vCPU's TSC is 13 ms at a host's of 1003 ms.
    offset = 13 * MS - 1003 * MS // 2
    shown = (DebugfsReading(offset % 2**64, 1 << bits - 1),)
    # The ratio is shown when it is set, and not with each step.
    rate = step(SetTscKhz(vcpu=0, khz=500_000), 1001 * MS, 500_000, debugfs=shown)
    run = step(Run(vcpu=0), 1002 * MS, 12 * MS, debugfs=(DebugfsReading(offset % 2**64),))
    assert found(rate, run, clock(1003 * MS, 113 * MS, 1003 * MS), seen="clock")[0] is Status.KEPT
    assert found(rate, run, clock(1003 * MS, 114 * MS, 1003 * MS), seen="clock")[0] is Status.BROKEN


def test_without_a_masterclock_there_is_no_line() -> None:
    apart = page("later", 1101 * MS, 105 * MS, 305 * MS, *GHZ, flags=0)
    assert found(guest(1100 * MS, 110 * MS), apart)[0] is Status.UNDECIDED
    assert found(seen="later")[0] is Status.UNDECIDED


def test_a_page_that_was_never_written_breaks_it() -> None:
    claim = LineClaim(text="it stays", seen=("later",), expected="first")
    empty = step(ReadKvmclock(vcpu=0, label="first"), 1001 * MS, 0, 0, 0, 0, 0, 0)
    assert claim.check(Trace("test", "test", (CREATE, empty))).status is Status.BROKEN


def reported(label: str, at: int, *values: int, flags: int = STABLE) -> Event:
    """What KVM_GET_CLOCK_GUEST reports, whose version is 0."""
    return step(GetClockGuest(vcpu=0, label=label), at, 0, *values, flags)


def test_what_kvm_get_clock_guest_reports_is_on_the_line_of_the_page() -> None:
    # The page says 105 ms at 5 ms, so 115 ms at 15 ms; the guest read 20 ms last.
    ran = guest(1010 * MS, 20 * MS)
    for off, status in ((0, Status.KEPT), (2, Status.KEPT), (-3, Status.BROKEN), (3, Status.BROKEN)):
        assert found(ran, reported("later", 1011 * MS, 15 * MS, 115 * MS + off, *GHZ))[0] is status
    unstable = reported("later", 1011 * MS, 15 * MS, 115 * MS, *GHZ, flags=0)
    assert found(ran, unstable)[0] is Status.UNDECIDED


def test_a_page_and_the_clock_are_on_the_line_of_what_kvm_get_clock_guest_reported() -> None:
    # The host's TSC is 990 ms more than the guest's.
    offset = step(GetTscOffset(vcpu=0), 1000 * MS, (-990 * MS) % 2**64)
    before = (CREATE, offset, guest(1000 * MS, 10 * MS), reported("first", 1001 * MS, 5 * MS, 105 * MS, *GHZ))
    claim = LineClaim(text="it stays", seen=("clock", "page"), expected="first")
    for off, status in ((0, Status.KEPT), (3, Status.BROKEN)):
        for late in ((off, 0), (0, off)):
            events = (
                clock(1002 * MS, 112 * MS + late[0], 1002 * MS),
                page("page", 1003 * MS, 5 * MS, 105 * MS + late[1], *GHZ),
            )
            assert claim.check(Trace("test", "test", (*before, *events))).status is status
