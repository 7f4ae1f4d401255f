# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals of cycles on the circle of 64-bit numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.model.interval import Interval, signed
from tests.strategies import intervals


def test_signed_is_twos_complement() -> None:
    assert [signed(value) for value in (0, 1, 2**63 - 1, 2**63, 2**64 - 1)] == [
        0,
        1,
        2**63 - 1,
        -(2**63),
        -1,
    ]


def test_what_two_intervals_share_is_their_intersection() -> None:
    assert Interval(1, 5).intersection(Interval(4, 9)) == Interval(4, 5)
    assert Interval(1, 5).intersection(Interval(5, 9)) == Interval(5, 5)
    assert Interval(1, 5).intersection(Interval(6, 9)) is None


def test_intervals_meet_across_the_wrap_around() -> None:
    assert Interval(-3, 2).intersection(Interval(2**64 - 2, 2**64 + 7)) == Interval(-2, 2)


def test_a_gap_says_how_far_and_in_which_direction() -> None:
    assert Interval(10, 20).gap(Interval(25, 30)) == 5
    assert Interval(10, 20).gap(Interval(0, 7)) == -3
    assert Interval(10, 20).gap(Interval(20, 30)) == 0
    assert Interval(10, 20).gap(Interval(2**64 + 21, 2**64 + 30)) == 1


@pytest.mark.parametrize(("low", "high"), [(1, 0), (0, 2**63)])
def test_what_is_backwards_or_half_the_circle_is_no_interval(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="is not an interval"):
        Interval(low, high)


@given(intervals, intervals)
def test_no_gap_means_an_intersection_and_the_other_way_round(one: Interval, other: Interval) -> None:
    assert (one.gap(other) == 0) == (one.intersection(other) is not None)


@given(intervals, st.integers(-3, 3))
def test_turns_of_the_circle_change_nothing(one: Interval, turns: int) -> None:
    moved = Interval(one.low + turns * 2**64, one.high + turns * 2**64)
    assert one.intersection(moved) == one
