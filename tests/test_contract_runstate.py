# SPDX-License-Identifier: GPL-2.0-or-later
"""The claims on runstates, on hand-worked traces."""

from dataclasses import replace

import pytest

from kvmharness.contract import Claim, RunnableClaim, RunstateClaim, RunstateGrowthClaim, Status
from kvmharness.script import CreateVcpu, GetClock, ReadXenRunstate, WaitForCpu
from kvmharness.trace import Event, Trace
from tests.test_contract_line import MS, step

CREATE = step(CreateVcpu(vcpu=0), 900 * MS, 1_000_000)
RUNNING, RUNNABLE, BLOCKED, OFFLINE = range(4)
WHOLE = RunstateClaim(text="it is whole", seen=("look",))


def look(label: str, *times: int, state: int = RUNNING, off: int = 0, waited: int = 700) -> Event:
    values = state, sum(times) + off, *times, waited
    return step(ReadXenRunstate(vcpu=0, label=label), 1005 * MS, *values)


def clock(label: str, value: int) -> Event:
    return step(GetClock(label=label), 1004 * MS, value, 14, 77, 77)


def wait(before: int, after: int, label: str = "wait") -> Event:
    return step(WaitForCpu(ns=MS, label=label), 1006 * MS, before, after)


def found(claim: Claim, *events: Event) -> tuple[Status, str]:
    finding = claim.check(Trace("test", "test", (CREATE, *events)))
    return finding.status, finding.reason


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (look("look", 0, 0, 0, 0), "never wrote"),
        (look("look", 50, 0, 0, 50, off=1), "1 ns less than the clock"),
        (look("look", 50, 0, 0, 50, off=-1), "1 ns more than the clock"),
        (look("look", 50, 0, 0, 50, state=BLOCKED), "the vCPU is blocked"),
        (look("look", 50, 0, 0, 50, state=9), "in state 9"),
    ],
)
def test_a_runstate_that_is_not_whole_breaks_it(read: Event, words: str) -> None:
    status, reason = found(WHOLE, read)
    assert status is Status.BROKEN
    assert words in reason
    assert found(WHOLE, look("look", 50, 0, 0, 50))[0] is Status.KEPT


def test_a_runnable_vcpu_shows_nothing_only_if_its_thread_may_have_been_preempted() -> None:
    read = look("look", 50, 0, 0, 50, state=RUNNABLE)
    assert found(WHOLE, read)[0] is Status.UNDECIDED
    assert found(WHOLE, look("before", 1, 0, 0, 1), read)[0] is Status.BROKEN
    assert found(WHOLE, look("before", 1, 0, 0, 1, waited=600), read)[0] is Status.UNDECIDED


def test_a_vcpu_is_runnable_until_it_next_runs_whenever_its_thread_was_preempted() -> None:
    read = look("look", 50, 0, 0, 50, state=RUNNABLE, waited=705)
    first, later = look("new", 0, 0, 0, 0), look("before", 50, 0, 0, 50, state=RUNNABLE, waited=705)
    assert found(WHOLE, first, later, read)[0] is Status.UNDECIDED
    assert found(WHOLE, first, wait(700, 705), later, read)[0] is Status.BROKEN


@pytest.mark.parametrize(
    ("first", "last", "status"),
    [
        (100, 100, Status.KEPT),
        (90, 110, Status.KEPT),
        (101, 110, Status.BROKEN),
        (90, 99, Status.BROKEN),
    ],
)
def test_the_state_is_entered_between_two_readings_of_the_clock(
    first: int, last: int, status: Status
) -> None:
    between = RunstateClaim(text="between", seen=("look",), after="first", before="last")
    read = look("look", 50, 0, 0, 50)
    assert found(between, clock("first", first), read, clock("last", last))[0] is status
    offline = RunstateClaim(text="offline", seen=("look",), is_first=True, after="first", before="last")
    read = look("look", 7, 0, 0, 100)
    assert found(offline, clock("first", first), read, clock("last", last))[0] is status


def test_a_vcpu_that_was_preempted_before_its_first_run_was_offline_until_then() -> None:
    offline = RunstateClaim(text="offline", seen=("look",), is_first=True, after="first", before="last")
    steps = clock("first", 101), look("look", 7, 5, 0, 100, waited=705), clock("last", 200)
    assert found(offline, look("new", 0, 0, 0, 0), *steps)[0] is Status.BROKEN
    assert found(offline, look("new", 0, 0, 0, 100, state=RUNNABLE), *steps)[0] is Status.UNDECIDED


@pytest.mark.parametrize(
    ("times", "status"),
    [
        ((50, 0, 30, 50), Status.KEPT),
        ((50, 0, 20, 50), Status.KEPT),
        ((51, 0, 20, 50), Status.BROKEN),
        ((50, 1, 20, 50), Status.BROKEN),
        ((50, 0, 19, 50), Status.BROKEN),
        ((50, 0, 20, 49), Status.BROKEN),
    ],
)
def test_only_the_times_that_may_grow_do_and_none_runs_back(times: tuple[int, ...], status: Status) -> None:
    grows = RunstateGrowthClaim(text="it grows", seen=("after",), expected="before", grows=(BLOCKED,))
    assert found(grows, look("before", 50, 0, 20, 50), look("after", *times))[0] is status


@pytest.mark.parametrize("times", [(50, 9, 20, 50), (59, 0, 20, 50), (53, 6, 20, 50)])
def test_a_vcpu_whose_thread_was_preempted_may_have_been_runnable_and_running(
    times: tuple[int, int, int, int],
) -> None:
    grows = RunstateGrowthClaim(text="it grows", seen=("after",), expected="before", grows=(BLOCKED,))
    before = look("before", 50, 0, 20, 50)
    assert found(grows, before, look("after", *times, waited=709))[0] is Status.UNDECIDED
    assert found(grows, before, look("after", *times))[0] is Status.BROKEN


def test_a_wait_without_the_vcpu_excuses_no_time_in_which_it_was_to_be_blocked() -> None:
    grows = RunstateGrowthClaim(text="it grows", seen=("after",), expected="before", grows=(BLOCKED,))
    before, waits = look("before", 50, 0, 20, 50), wait(702, 709)
    assert found(grows, before, waits, look("after", 50, 7, 20, 50, waited=707))[0] is Status.BROKEN
    assert found(grows, before, waits, look("after", 50, 7, 20, 50, waited=709))[0] is Status.UNDECIDED
    assert found(grows, before, waits, look("after", 50, 0, 27, 50, waited=707))[0] is Status.KEPT


def test_a_vcpu_that_was_preempted_before_goes_on_being_runnable() -> None:
    grows = RunstateGrowthClaim(text="it grows", seen=("after",), expected="before", grows=(BLOCKED,))
    new, after = look("new", 0, 0, 0, 0), look("after", 50, 9, 20, 50, waited=709)
    for state, waited, status in (
        (RUNNABLE, 709, Status.UNDECIDED),
        (BLOCKED, 709, Status.BROKEN),
        (RUNNABLE, 700, Status.BROKEN),
    ):
        before = look("before", 50, 0, 20, 50, state=state, waited=waited)
        assert found(grows, new, before, replace(after, values=(*after.values[:-1], waited)))[0] is status
    ran = look("after", 59, 0, 20, 50, waited=709)
    before = look("before", 50, 0, 20, 50, state=RUNNABLE, waited=709)
    assert found(grows, new, before, ran)[0] is Status.BROKEN


def test_a_vcpu_of_another_state_is_runnable_once_its_thread_was_preempted() -> None:
    blocked = RunstateClaim(text="it is blocked", seen=("look",), state=BLOCKED)
    before, read = look("before", 1, 0, 0, 1), look("look", 50, 0, 0, 50, state=RUNNABLE)
    assert found(blocked, before, read)[0] is Status.BROKEN
    assert (
        found(blocked, before, look("look", 50, 0, 0, 50, state=RUNNABLE, waited=701))[0] is Status.UNDECIDED
    )


RUNNABLE_FOR = RunnableClaim(text="it waits", seen="after", expected="before", first="new", by=("wait",))


@pytest.mark.parametrize(
    ("runnable", "waited", "status"),
    [
        (5000, 5700, Status.KEPT),
        (4999, 5700, Status.BROKEN),
        (5001, 5700, Status.BROKEN),
        (5001, 5701, Status.KEPT),
        (5002, 5701, Status.UNDECIDED),
    ],
)
def test_a_vcpu_was_runnable_while_its_thread_waited(runnable: int, waited: int, status: Status) -> None:
    steps = look("new", 0, 0, 0, 0), look("before", 50, 0, 0, 50), wait(700, 5700)
    after = look("after", 90, runnable, 0, 50, waited=waited)
    assert found(RUNNABLE_FOR, *steps, after)[0] is status


def test_without_a_competitor_or_a_reading_nothing_is_said() -> None:
    steps = look("new", 0, 0, 0, 0), look("before", 50, 0, 0, 50)
    assert found(RUNNABLE_FOR, *steps, wait(700, 700), look("after", 90, 0, 0, 50))[0] is Status.UNDECIDED
    assert found(RUNNABLE_FOR, *steps)[0] is Status.UNDECIDED
    assert found(WHOLE)[0] is Status.UNDECIDED
