# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: where nothing can be said, and how an impossible step is told."""

import pytest

from kvmharness.model.judge import Possibility
from kvmharness.model.mismatch import Allowed, Mismatch
from kvmharness.script import GetMsrs, Run, Sleep
from kvmharness.trace import Bracket, Event
from tests.hand_worked import MS, create, judged, offset, set_khz, step, tsc, write


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((write(1010 * MS, 5, error="ENOMEM"),), "it failed with ENOMEM, which says nothing about the rule"),
        ((step(Run(vcpu=0), 1010 * MS, error="EFAULT"),), "it failed with EFAULT"),
        ((tsc(990 * MS, 0),), "the host's clocks ran backwards before this step"),
        (
            (
                Event(
                    GetMsrs(vcpu=0, indices=("TSC",)),
                    Bracket(5000 * MS, 1001 * MS, 1002 * MS, 5001 * MS),
                    (0,),
                ),
            ),
            "the host's two clocks disagree before this step: was it suspended?",
        ),
        ((tsc(1010 * MS, 0, width=2**50),), "the trace takes too long for a judgement"),
        ((tsc(1010 * MS, 0, vcpu=3),), "vCPU 3 was never created"),
        ((set_khz(1010 * MS, 2**40),), "1099511627776 kHz is no rate of a TSC"),
    ],
)
def test_what_says_nothing_about_the_rule_is_undecided(events: tuple[Event, ...], why: str) -> None:
    judgement = judged(create(1000 * MS), *events)
    assert (judgement.possibility, judgement.step, judgement.doubt) == (Possibility.UNDECIDED, 2, why)


@pytest.mark.parametrize(
    ("tsc_before", "asleep"), [(1101 * MS, True), (1010 * MS, False), (1002 * MS, False)]
)
def test_a_host_that_slept_is_told_from_a_player_that_was_held_up(tsc_before: int, asleep: bool) -> None:
    # By the clock the step came 10 ms behind the creation. A TSC 101 ms on: the host slept. One that was
    # read at 2 ms, and again at 200, is of a player held up: the clock is read between the two.
    bracket = Bracket(tsc_before, 1010 * MS, 1011 * MS, 1200 * MS)
    judgement = judged(create(1000 * MS), Event(GetMsrs(vcpu=0, indices=("TSC",)), bracket, (12 * MS,)))
    assert (judgement.possibility is Possibility.UNDECIDED) is asleep


def test_a_host_that_slept_within_a_step_is_noticed_at_the_next_one() -> None:
    # By the clock the wait took 10 ms; by the TSC, before it and behind it, a minute.
    long = 60_000 * MS
    wait = Event(Sleep(ns=10 * MS), Bracket(1001 * MS, 1001 * MS, 1011 * MS, 1011 * MS + long))
    behind = Event(
        GetMsrs(vcpu=0, indices=("TSC",)),
        Bracket(1012 * MS + long, 1012 * MS, 1013 * MS, 1013 * MS + long),
        (12 * MS,),
    )
    judgement = judged(create(1000 * MS), wait, behind)
    assert (judgement.possibility, judgement.step) == (Possibility.UNDECIDED, 3)
    assert "was it suspended?" in judgement.doubt


def test_what_was_impossible_before_a_doubt_stays_impossible() -> None:
    judgement = judged(create(1000 * MS), tsc(1010 * MS, 77 * MS), write(1020 * MS, 5, error="ENOMEM"))
    assert (judgement.possibility, judgement.step) == (Possibility.IMPOSSIBLE, 2)


def test_an_impossible_step_says_what_was_observed_what_was_expected_and_why() -> None:
    judgement = judged(create(1000 * MS), write(1050 * MS, 900 * MS), offset(1060 * MS, -1000 * MS))
    assert judgement.mismatch
    assert judgement.mismatch.because.startswith("at step 2 the write takes effect: ")
    assert judgement.mismatch == Mismatch(
        "read the TSC offset of vCPU 0",
        "offset -1000000000",
        (
            Allowed(
                "offset -150001000 to -150000000",
                "849999000 cycles (850.0 ms) higher than observed",
                "the write takes effect: userspace had not set a TSC of this VM before",
                2,
            ),
        ),
    )
