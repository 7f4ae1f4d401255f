# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: KVM_GET_CLOCK_GUEST, KVM_SET_CLOCK_GUEST and KVM_VCPU_TSC_SCALE.

The host counts 1 GHz, which is a multiplier of 2**31 and a shift of 1. The VM's clock counts ns from 900 ms,
vCPU 0's TSC cycles from 1000 ms: at one moment the TSC is 100 ms less than the clock.
"""

import dataclasses

import pytest

from kvmharness.model.policies import POLICIES
from kvmharness.model.time_function import TimeFunction
from kvmharness.script import GetClockGuest, GetTscScale, ReadKvmclock, SetClockGuest
from kvmharness.trace import Event
from tests.hand_worked import HOST, KHZ, MS, create, offset, possible, run, set_khz, step, write
from tests.test_judge_clock import clock, page_on

KNOWS = dataclasses.replace(HOST, knows_realtime=True, has_clock_guest=True)
KNOWS_NOT = dataclasses.replace(KNOWS, has_clock_guest=False)
SCALES = dataclasses.replace(HOST, fraction_bits=32, has_scale=True)
HALF = 2**31

RAN = (create(1000 * MS), offset(1001 * MS, -1000 * MS), run(1002 * MS, 2 * MS))


def reported(at: int, tsc: int, ns: int, *, flags: int = 1, error: str = "") -> Event:
    values = () if error else (0, tsc, ns, 2**31, 1, flags)
    return step(GetClockGuest(vcpu=0), at, *values, error=error)


def set_to(at: int, tsc: int, ns: int, multiplier: int = 2**31, shift: int = 1, *, error: str = "") -> Event:
    operation = SetClockGuest(vcpu=0, tsc_timestamp=tsc, system_time=ns, multiplier=multiplier, shift=shift)
    return step(operation, at, tsc, ns, multiplier, shift, error=error)


def scale(at: int, *values: int, error: str = "") -> Event:
    return step(GetTscScale(vcpu=0), at, *values, error=error)


def page(at: int, tsc: int, ns: int) -> Event:
    return step(ReadKvmclock(vcpu=0), at, 2, tsc, ns, 2**31, 1, 1)


def test_the_clock_is_reported_as_of_the_masterclocks_snapshot() -> None:
    # The snapshot is of 1002 ms to 1002.001 ms, when the TSC was 2 ms and the clock 102 ms.
    assert possible(*RAN, reported(1003 * MS, 2 * MS, 102 * MS), host=KNOWS)
    assert possible(*RAN, reported(1003 * MS, 2 * MS + 1000, 102 * MS + 1000), host=KNOWS)
    assert not possible(*RAN, reported(1003 * MS, 2 * MS + 1001, 102 * MS + 1001), host=KNOWS)
    assert not possible(*RAN, reported(1003 * MS, 2 * MS - 1, 102 * MS - 1), host=KNOWS)
    assert not possible(*RAN, reported(1003 * MS, 2 * MS, 102 * MS, flags=0), host=KNOWS)


def test_what_is_reported_is_on_the_line_of_the_clock_to_two_ns() -> None:
    # At 1003 ms the host's TSC the clock was 103.0005 ms; the TSC 2.0004 ms is that of 1002.0004 ms.
    read = (*RAN, clock(1003 * MS, 103 * MS + 500, 14, 77, 1003 * MS + 400))
    for off, fits in ((-1, True), (0, True), (1, True), (2, True), (4, False), (-4, False)):
        event = reported(1004 * MS, 2 * MS + 400, 102 * MS + 500 + off)
        assert possible(*read, event, host=KNOWS) is fits, off


def test_what_is_reported_is_on_the_line_of_the_page_to_the_ns() -> None:
    looked = (*RAN[:2], page_on(1001 * MS + 500_000), RAN[2], page(1003 * MS, 2 * MS + 400, 102 * MS + 300))
    assert possible(*looked, reported(1004 * MS, 2 * MS + 400, 102 * MS + 300), host=KNOWS)
    assert not possible(*looked, reported(1004 * MS, 2 * MS + 400, 102 * MS + 305), host=KNOWS)


@pytest.mark.parametrize("error", ["EINVAL", "ENXIO", "ENOTTY"])
def test_a_kernel_that_does_not_know_the_ioctls_refuses_both(error: str) -> None:
    refused_read, refused_write = reported(1003 * MS, 0, 0, error=error), set_to(1004 * MS, 0, 0, error=error)
    assert possible(*RAN, refused_read, refused_write, host=KNOWS_NOT)
    assert possible(*RAN, refused_read, refused_write, host=dataclasses.replace(KNOWS, has_clock_guest=None))
    assert not possible(*RAN, refused_read, host=KNOWS)
    assert not possible(*RAN, reported(1003 * MS, 2 * MS, 102 * MS), host=KNOWS_NOT)
    # One that knows one of them knows the other.
    vague = dataclasses.replace(KNOWS, has_clock_guest=None)
    taken = set_to(1005 * MS, 2 * MS, 102 * MS)
    assert not possible(*RAN, refused_read, taken, host=vague)
    assert possible(*RAN, reported(1003 * MS, 2 * MS, 102 * MS), taken, host=vague)


@pytest.mark.parametrize("error", ["EINVAL", "ENODATA"])
def test_without_a_masterclock_there_is_nothing_to_report(error: str) -> None:
    without = dataclasses.replace(KNOWS, tsc_clocksource=False)
    assert possible(*RAN, reported(1003 * MS, 0, 0, error=error), host=without)
    assert possible(*RAN, set_to(1003 * MS, 0, 0, error=error), host=without)
    assert not possible(*RAN, reported(1003 * MS, 2 * MS, 102 * MS), host=without)
    assert not possible(*RAN, set_to(1003 * MS, 2 * MS, 102 * MS), host=without)


def test_a_clock_that_is_set_goes_on_as_that_function_of_the_tsc() -> None:
    # At a TSC of 2 ms it is 5000 ms; so at 1004 ms, a TSC of 4 ms, it is 5002 ms.
    was_set = (*RAN, set_to(1003 * MS, 2 * MS, 5000 * MS))
    for off, fits in ((0, True), (-2, True), (2, True), (6, False), (-6, False), (1000, False)):
        # Of the host's TSC that comes with the clock the vCPU's is known to the cycle.
        read = clock(1004 * MS, 5002 * MS + 500 + off, 14, 77, 1004 * MS + 500)
        assert possible(*was_set, read, host=KNOWS) is fits, off
    assert not possible(*was_set, clock(1004 * MS, 104 * MS), host=KNOWS)


def test_a_restored_tsc_takes_the_clock_with_it() -> None:
    # The TSC goes from 3 ms to 100 s; the function stays, so the clock goes there as well.
    restored = (
        *RAN,
        reported(1003 * MS, 2 * MS + 400, 102 * MS + 500),
        write(1004 * MS, 100_000 * MS),
        offset(1005 * MS, 100_000 * MS - 1004 * MS - 300),
        set_to(1006 * MS, 2 * MS + 400, 102 * MS + 500),
    )
    # At 1007 ms, in the host's cycles, the TSC is 100 s and 3 ms less 300.
    at_tsc = 100_003 * MS - 300
    time = at_tsc - (2 * MS + 400) + 102 * MS + 500
    assert possible(*restored, clock(1007 * MS, time, 14, 77, 1007 * MS), host=KNOWS)
    assert not possible(*restored, clock(1007 * MS, time + 8, 14, 77, 1007 * MS), host=KNOWS)


def test_a_function_of_a_tsc_of_another_rate_is_refused_beyond_one_khz() -> None:
    # 1 GHz is a multiplier of 2**31; 1 kHz more is 1 part in a million less of that, 2147.
    for less, fits, refused in ((0, True, False), (2_000, True, False), (2_300, False, True)):
        event = set_to(1003 * MS, 2 * MS, 102 * MS, multiplier=2**31 - less)
        error = dataclasses.replace(event, error="ERANGE")
        assert possible(*RAN, event, host=KNOWS) is fits, less
        assert possible(*RAN, error, host=KNOWS) is refused, less
    assert possible(*RAN, set_to(1003 * MS, 2 * MS, 102 * MS, shift=2, error="ERANGE"), host=KNOWS)


def test_what_is_no_function_is_refused() -> None:
    for multiplier, shift in ((0, 1), (2**31, 33), (2**31, 256 - 33)):
        event = set_to(1003 * MS, 2 * MS, 102 * MS, multiplier, shift)
        assert not possible(*RAN, event, host=KNOWS)
        assert possible(*RAN, dataclasses.replace(event, error="EINVAL"), host=KNOWS)


def test_the_rate_of_a_function_is_worked_out_from_multiplier_and_shift() -> None:
    assert TimeFunction(0, 0, 2**31, 1).hz == 1_000_000_000
    assert TimeFunction(0, 0, 2**31, 0).hz == 2_000_000_000
    assert TimeFunction(0, 0, 2**31, 255).hz == 4_000_000_000
    assert TimeFunction(100, 7, 2**31, 0).time_at(140) == 27
    assert TimeFunction(100, 7, 2**31, 255).time_at(140) == 17
    assert TimeFunction(100, 7, 2**31, 0).time_at(99) is None


def test_the_scaling_ratio_is_reported_to_the_bit() -> None:
    first = (create(1000 * MS), scale(1001 * MS, 2**32, 32))
    assert possible(*first, host=SCALES)
    slower = (*first, set_khz(1002 * MS, KHZ // 2))
    assert possible(*slower, scale(1003 * MS, HALF, 32), host=SCALES)
    for ratio, bits in ((HALF + 1, 32), (HALF - 1, 32), (2**32, 32), (HALF, 48)):
        assert not possible(*slower, scale(1003 * MS, ratio, bits), host=SCALES)


def test_without_scaling_there_is_no_ratio() -> None:
    without = dataclasses.replace(SCALES, fraction_bits=0)
    assert possible(create(1000 * MS), scale(1001 * MS, error="ENXIO"), host=without)
    assert not possible(create(1000 * MS), scale(1001 * MS, 2**32, 32), host=without)
    assert not possible(create(1000 * MS), scale(1001 * MS, error="ENXIO"), host=SCALES)


def test_a_ratio_tells_which_kind_of_scaling_there_is() -> None:
    vague = dataclasses.replace(SCALES, fraction_bits=None, has_scale=None)
    seen = (create(1000 * MS), scale(1001 * MS, 2**48, 48), set_khz(1002 * MS, KHZ // 2))
    assert possible(*seen, scale(1003 * MS, 2**47, 48), host=vague)
    assert not possible(*seen, scale(1003 * MS, HALF, 32), host=vague)
    assert not possible(*seen, scale(1003 * MS, error="ENXIO"), host=vague)


def test_a_kvm_that_ignores_writes_may_answer_anything() -> None:
    assert not POLICIES["tsc-protected"].honours_writes
    for event in (
        reported(1003 * MS, 5, 7),
        set_to(1003 * MS, 5, 7),
        reported(1003 * MS, 0, 0, error="EINVAL"),
    ):
        assert possible(*RAN[:1], event, policy="tsc-protected", host=KNOWS)
