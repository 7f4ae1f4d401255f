# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: a kernel whose KVM_SET_TSC_KHZ writes the vCPU's own TSC as well."""

from itertools import product

import pytest

from kvmharness.model import arithmetic
from kvmharness.model.state import Host
from kvmharness.trace import Event
from tests.hand_worked import KHZ, MS, NEW, WIDTH, create, offset, possible, run, set_khz, write

SERIES = "clock-series-2026-khz"
SCALING = Host(khz=KHZ, khz_exact=True, has_attribute=True, fraction_bits=32, tolerance_ppm=250)


def both(*events: Event, host: Host | None = None) -> tuple[bool, bool]:
    """Whether events are possible where KVM_SET_TSC_KHZ writes, and where it does not."""
    where = {"host": host} if host else {}
    return possible(*events, policy=SERIES, **where), possible(*events, policy=NEW, **where)


def test_the_creation_of_a_vcpu_counts_as_a_tsc_that_userspace_set() -> None:
    # 500 ms into a VM of 10 ms: with the gate open the write snaps, and the vCPU counts from its creation.
    restored = (create(1000 * MS), write(1010 * MS, 500 * MS))
    honoured, overridden = offset(1020 * MS, (500 - 1010) * MS), offset(1020 * MS, -1000 * MS)
    assert both(*restored, honoured) == (False, True)
    assert both(*restored, overridden) == (True, False)


def test_a_rate_that_is_set_snaps_where_the_vcpu_goes_on_with_the_last_write() -> None:
    # 1500 ms after a write of 0 its TSC is 1500 ms: what was expected, so the generation's offset stays.
    events = (create(1000 * MS), offset(1100 * MS, -1000 * MS - 400), set_khz(2500 * MS, KHZ))
    assert both(*events, offset(2600 * MS, -1000 * MS - 400)) == (True, True)
    assert both(*events, offset(2600 * MS, -1000 * MS - 401)) == (False, False)


def test_a_rate_that_is_set_far_from_the_last_write_begins_a_generation() -> None:
    # v1 counts from the creation of v0, which was since set to 100 s; its own TSC of 15 ms is far from that.
    # So is then 100.002 s from 15 ms: v1 does not get the offset of v0.
    events = (
        create(1000 * MS),
        create(1001 * MS, 1),
        write(1010 * MS, 100_000 * MS),
        set_khz(1015 * MS, KHZ, 1),
        write(1020 * MS, 100_002 * MS, 1),
    )
    matched, own = offset(1030 * MS, (100_000 - 1010) * MS, 1), offset(1030 * MS, (100_002 - 1020) * MS, 1)
    assert both(*events, own) == (True, False)
    assert both(*events, matched) == (False, True)


@pytest.mark.parametrize(("lost", "allowed"), [(-1, False), (0, True), (WIDTH, True), (WIDTH + 1, False)])
def test_between_reading_and_writing_its_tsc_a_vcpu_loses_no_more_than_the_bracket(
    lost: int, allowed: bool
) -> None:
    # The kernel reads the host's TSC for the value, and once more for the offset: both in 1000 cycles.
    events = (
        create(1000 * MS),
        create(1001 * MS, 1),
        offset(1005 * MS, -1000 * MS - 400, 1),
        write(1010 * MS, 100_000 * MS),
        set_khz(1015 * MS, KHZ, 1),
        offset(1030 * MS, -1000 * MS - 400 - lost, 1),
    )
    assert both(*events) == (allowed, lost == 0)


def test_a_rate_that_is_refused_writes_nothing() -> None:
    events = (
        create(1000 * MS),
        create(1001 * MS, 1),
        offset(1005 * MS, -1000 * MS - 400, 1),
        write(1010 * MS, 100_000 * MS),
        set_khz(1015 * MS, 500_000, 1, error="EINVAL"),
    )
    assert both(*events, offset(1030 * MS, -1000 * MS - 400, 1)) == (True, True)
    assert both(*events, offset(1030 * MS, -1000 * MS - 401, 1)) == (False, False)


def test_with_scaling_a_tsc_goes_on_from_where_it_was_before_its_rate_changed() -> None:
    # 100 s at 1010 ms, half the rate from 2000 ms on: 100.99 s' cycles there, and 10 ms later 5 ms' more.
    # Where nothing is written, half of the host's TSC counts from the old offset: 98.99 s, and 1.005 s' more.
    events = (create(1000 * MS), write(1010 * MS, 100_000 * MS), set_khz(2000 * MS, 500_000))
    goes_on, jumps = run(2010 * MS, 100_995 * MS), run(2010 * MS, (98_990 + 1005) * MS)
    assert both(*events, goes_on, host=SCALING) == (True, False)
    assert both(*events, jumps, host=SCALING) == (False, True)


def test_a_tsc_that_wraps_around_as_its_rate_is_set_may_have_been_0() -> None:
    # v1 is at 0 somewhere in the 1000 cycles of the ioctl; a write of 0 snaps to v0, at 100 s.
    wraps = 1015 * MS + 500
    events = (
        create(1000 * MS),
        create(1001 * MS, 1),
        write(1005 * MS, (-10 * MS - 500) % 2**64, 1),
        offset(1007 * MS, -wraps, 1),
        write(1010 * MS, 100_000 * MS),
        set_khz(1015 * MS, KHZ, 1),
    )
    assert possible(*events, offset(1030 * MS, -wraps - 3, 1), policy=SERIES)
    assert possible(*events, offset(1030 * MS, (100_000 - 1010) * MS, 1), policy=SERIES)


@pytest.mark.parametrize("window", [1, 5, 7])
def test_what_a_window_answers_of_an_interval_is_what_it_answers_of_some_value_in_it(window: int) -> None:
    word = arithmetic.WORD
    for least, most in ((-3, 4), (word - 9, word - 2), (10, 10), (word // 2, word // 2 + 6)):
        for low, high in ((-4, -1), (0, 12), (5, 5), (word // 2 - 3, word // 2)):
            found = {
                arithmetic.in_window(value % word, place, window)
                for value in range(least, most + 1)
                for place in range(low, high + 1)
            }
            assert arithmetic.window_answers_within(least, most, low, high, window) == found


def test_of_numbers_that_wrap_around_one_may_be_less_or_equal_where_some_pair_of_them_is() -> None:
    word = arithmetic.WORD
    near = range(-3, 3)
    intervals = [(low, high) for low in near for high in near if low <= high <= low + 3]
    for (low, high), (other_low, other_high) in product(intervals, intervals):
        ours = [value % word for value in range(low, high + 1)]
        theirs = [value % word for value in range(other_low, other_high + 1)]
        ends = (
            low % word,
            low % word + high - low,
            other_low % word,
            other_low % word + other_high - other_low,
        )
        assert arithmetic.may_be_less(*ends) is (min(ours) < max(theirs))
        assert arithmetic.may_be_at_most(*ends) is (min(ours) <= max(theirs))
