# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: the runstate that a Xen tells a vCPU.

As in test_judge_line, the VM's clock at a host's TSC of t is t - 900 ms. A step takes 1000 ns.
"""

import dataclasses

import pytest

from kvmharness.script import (
    EnterXenRunstate,
    GetClock,
    ReadXenRunstate,
    RunTogether,
    SetClock,
    SetXen,
    SetXenRunstate,
    SetXenRunstateTimes,
    WaitForCpu,
    WriteTogether,
)
from kvmharness.trace import Event
from tests.hand_worked import HOST, MS, create, judged, possible, run, step
from tests.test_judge_line import KNOWS, clock

XEN = dataclasses.replace(KNOWS, has_xen=True, has_steal_time=True, keeps_runstate=False)
RUNNING, RUNNABLE, BLOCKED, OFFLINE = range(4)
FIRST = 102 * MS + 500  # the clock when the vCPU first ran


def look(at: int, state: int, entered: int, *times: int, waited: int = 700, vcpu: int = 0) -> Event:
    """A reading, while the thread's run_delay is `waited`."""
    return step(ReadXenRunstate(vcpu=vcpu), at, state, entered, *times, waited)


def new(at: int, waited: int = 700) -> Event:
    return look(at, RUNNING, *(0,) * 5, waited=waited)


def started(*more: Event) -> tuple[Event, ...]:
    """A vCPU whose runstate is told, which runs at 1002 ms."""
    return (
        create(1000 * MS),
        step(SetXen(), 1000 * MS + 5000),
        step(SetXenRunstate(vcpu=0), 1001 * MS - 5000),
        new(1001 * MS),
        run(1002 * MS, 2 * MS),
        clock(1003 * MS),
        *more,
    )


def ran(*more: Event) -> tuple[Event, ...]:
    """The same, read after it ran, at 1004 ms; after `more` it runs again at 1010 ms."""
    return started(look(1004 * MS, RUNNING, FIRST, 0, 0, 0, FIRST), *more, run(1010 * MS, 10 * MS))


@pytest.mark.parametrize(
    ("off", "may_be"), [(-304, False), (-303, True), (0, True), (702, True), (703, False)]
)
def test_a_vcpu_enters_a_state_at_the_clock_of_its_run(off: int, may_be: bool) -> None:
    now = 110 * MS + 300 + off
    assert possible(*ran(), look(1011 * MS, RUNNING, now, now - FIRST, 0, 0, FIRST), host=XEN) is may_be


def test_a_vcpu_was_offline_until_its_first_run() -> None:
    first = 101 * MS + 500
    events = (
        *started()[:4],
        step(GetClock(), 1001 * MS + 3000, 101 * MS + 3300, 0),
        run(1002 * MS, 2 * MS),
        clock(1003 * MS),
    )
    for at, may_be in ((FIRST, True), (first, False)):
        assert possible(*events, look(1004 * MS, RUNNING, at, 0, 0, 0, at), host=XEN) is may_be


@pytest.mark.parametrize("times", [(0, 0, 0, -1), (0, 0, 1, -1), (1, 0, 0, -1), (0, 1, 0, -1), (0, 0, 0, 1)])
def test_the_first_time_is_all_offline(times: tuple[int, int, int, int]) -> None:
    running, runnable, blocked, offline = times
    read = look(1004 * MS, RUNNING, FIRST, running, runnable, blocked, FIRST + offline)
    assert not possible(*started(read), host=XEN)


def test_the_time_between_two_runs_is_running_to_the_ns() -> None:
    now = 110 * MS + 300
    for off, may_be in ((0, True), (1, False), (-1, False)):
        read = look(1011 * MS, RUNNING, now, now - FIRST + off, 0, 0, FIRST)
        assert possible(*ran(), read, host=XEN) is may_be


def test_what_the_thread_waits_meanwhile_is_runnable_to_the_ns() -> None:
    now = 110 * MS + 300
    wait = step(WaitForCpu(ns=5000), 1005 * MS, 700, 5700)
    for runnable, may_be in ((5000, True), (4999, False), (5001, False)):
        read = look(1011 * MS, RUNNING, now, now - FIRST - runnable, runnable, 0, FIRST, waited=5700)
        assert possible(*ran(wait), read, host=XEN) is may_be


def test_a_thread_that_waited_elsewhere_may_have_been_preempted() -> None:
    now = 110 * MS + 300
    for state, runnable, may_be in (
        (RUNNING, 900, True),
        (RUNNABLE, 90_000, True),
        (RUNNABLE, 0, True),
        (OFFLINE + 1, 0, False),
    ):
        read = look(1011 * MS, state, now, now - FIRST - runnable, runnable, 0, FIRST, waited=1600)
        assert possible(*ran(), read, host=XEN) is may_be
        off = look(1011 * MS, state, now, now - FIRST - runnable, runnable + 1, 0, FIRST, waited=1600)
        assert not possible(*ran(), off, host=XEN)
        alone = look(1011 * MS, state, now, now - FIRST - runnable, runnable, 0, FIRST)
        assert possible(*ran(), alone, host=XEN) is (state == RUNNING and runnable == 0)


def test_a_run_delay_never_shrinks() -> None:
    assert not possible(*started(look(1004 * MS, RUNNING, FIRST, 0, 0, 0, FIRST, waited=699)), host=XEN)


@pytest.mark.parametrize("state", [RUNNABLE, BLOCKED, OFFLINE])
def test_a_state_that_the_vmm_says_lasts_until_the_next_run_whatever_the_thread_waits(state: int) -> None:
    said, now = 105 * MS + 400, 110 * MS + 300
    wait = step(WaitForCpu(ns=5000), 1006 * MS, 700, 5700)
    times = [0, 0, 0, FIRST]
    times[RUNNING] += said - FIRST
    read = look(1005 * MS + 2000, state, said, *times)
    first = ran(step(EnterXenRunstate(vcpu=0, state=state), 1005 * MS, 700, 700), read, wait)
    times[state] += now - said
    assert possible(*first, look(1011 * MS, RUNNING, now, *times, waited=5700), host=XEN)
    assert not possible(*first, look(1011 * MS, state, now, *times, waited=5700), host=XEN)
    times[state], times[RUNNABLE - (state == RUNNABLE)] = times[state] - 5000, 5000
    assert not possible(*first, look(1011 * MS, RUNNING, now, *times, waited=5700), host=XEN)


def test_times_that_are_set_show_once_the_page_is_written() -> None:
    at = 1005 * MS
    saved = (3 * MS, 1 * MS, 2 * MS, 4 * MS)
    put = step(SetXenRunstateTimes(vcpu=0, state=BLOCKED, times=saved), at, *saved)
    still = look(at + 2000, RUNNING, FIRST, 0, 0, 0, FIRST)
    shown = look(at + 6000, BLOCKED, 10 * MS, *saved)
    first = started(look(1004 * MS, RUNNING, FIRST, 0, 0, 0, FIRST), put)
    on = step(SetXenRunstate(vcpu=0), at + 4000)
    assert possible(*first, still, on, shown, host=XEN)
    assert not possible(*first, shown, host=XEN)
    assert not possible(*first, on, look(at + 6000, BLOCKED, 10 * MS, 3 * MS, 0, 3 * MS, 4 * MS), host=XEN)
    now = 110 * MS + 300
    after = look(1011 * MS, RUNNING, now, 3 * MS, 1 * MS, now - 8 * MS, 4 * MS)
    assert possible(*first, run(1010 * MS, 10 * MS), after, host=XEN)


def test_times_that_the_clock_has_not_reached_are_refused() -> None:
    for total, error, may_be in (
        (105 * MS + 1000, "EINVAL", True),
        (105 * MS + 1003, "", False),
        (105 * MS - 3, "", True),
        (105 * MS - 3, "EINVAL", False),
    ):
        times = (total, 0, 0, 0)
        put = step(SetXenRunstateTimes(vcpu=0, state=0, times=times), 1005 * MS, *times, error=error)
        assert possible(*started(put), host=XEN) is may_be


def test_a_clock_that_is_set_back_has_a_time_run_back_or_the_runstate_stands_still() -> None:
    back = ran(step(SetClock(clock=MS), 1005 * MS, MS))
    now = 6 * MS + 100
    wrapped = look(1011 * MS, RUNNING, now, now - FIRST, 0, 0, FIRST)
    still = look(1011 * MS, RUNNING, FIRST, 0, 0, 0, FIRST)
    for keeps, ran_back, stood in ((False, True, False), (True, False, True), (None, True, True)):
        host = dataclasses.replace(XEN, keeps_runstate=keeps)
        assert possible(*back, wrapped, host=host) is ran_back
        assert possible(*back, still, host=host) is stood


@pytest.mark.parametrize("keeps", [True, None])
def test_while_the_times_stand_still_the_state_changes(keeps: bool | None) -> None:
    host = dataclasses.replace(XEN, keeps_runstate=keeps)
    blocks = step(EnterXenRunstate(vcpu=0, state=BLOCKED), 1004 * MS + 5000, 700, 700)
    blocked = 104 * MS + 5500
    back = ran(blocks, step(SetClock(clock=MS), 1005 * MS, MS))
    for state, may_be in ((RUNNING, True), (BLOCKED, False)):
        still = look(1011 * MS, state, blocked, blocked - FIRST, 0, 0, FIRST)
        assert possible(*back, still, host=host) is may_be


@pytest.mark.parametrize("keeps", [True, False, None])
def test_no_more_is_taken_for_waited_than_has_passed_where_times_stand_still(keeps: bool | None) -> None:
    host = dataclasses.replace(XEN, keeps_runstate=keeps)
    wait = step(WaitForCpu(ns=5 * MS), 1006 * MS, 700, 5 * MS + 700, width=3 * MS)
    back = ran(step(SetClock(clock=100 * MS), 1005 * MS, 100 * MS), wait)
    now = 105 * MS + 100
    passed = now - FIRST
    for running, runnable, may_be in (
        (0, passed, keeps is not False),
        (passed - 5 * MS, 5 * MS, True),
        (passed - 5 * MS, 5 * MS - 1, False),
    ):
        read = look(1011 * MS, RUNNING, now, running, runnable, 0, FIRST, waited=5 * MS + 700)
        assert possible(*back, read, host=host) is may_be


def test_another_thread_waits_for_itself() -> None:
    both = (create(1000 * MS + 2000, vcpu=1, guest="warp-64"),)
    first = (*ran()[:1], *both, *ran()[1:])
    together = step(RunTogether(vcpus=(1,), ns=MS), 1012 * MS, 1, 5, 0, 0, width=MS)
    on = step(SetXenRunstate(vcpu=1), 1011 * MS)
    for runnable in (0, 77):
        ended = 112 * MS + 500
        read = look(1014 * MS, RUNNING, ended, ended - 100 - runnable, runnable, 0, 100, vcpu=1)
        assert possible(*first, on, together, read, host=XEN)
    off = look(1014 * MS, RUNNING, ended, ended, 1, 0, 0, vcpu=1)
    assert not possible(*first, on, together, off, host=XEN)


def test_a_thread_that_writes_at_once_with_others_may_be_preempted_unseen() -> None:
    now = 110 * MS + 300
    first = create(1000 * MS + 2000, vcpu=1)
    at_once = step(WriteTogether(vcpus=(0, 1), values=(0, 0)), 1005 * MS, 0, 0, 1, 0, width=MS)
    for more, runnable, may_be in (
        ((), 0, True),
        ((), 900, False),
        ((at_once,), 0, True),
        ((at_once,), 900, True),
    ):
        begun = ran(*more)
        read = look(1011 * MS, RUNNING, now, now - FIRST - runnable, runnable, 0, FIRST)
        assert possible(begun[0], first, *begun[1:], read, host=XEN) is may_be
        off = look(1011 * MS, RUNNING, now, now - FIRST - runnable, runnable + 1, 0, FIRST)
        assert not possible(begun[0], first, *begun[1:], off, host=XEN)


def test_a_page_that_is_off_is_empty_and_a_vm_that_is_no_xens_has_no_runstate() -> None:
    off = create(1000 * MS), step(SetXen(), 1000 * MS + 5000), run(1002 * MS, 2 * MS)
    assert possible(*off, new(1004 * MS), host=XEN)
    assert not possible(*off, look(1004 * MS, RUNNING, FIRST, 0, 0, 0, FIRST), host=XEN)
    plain = create(1000 * MS), step(SetXenRunstate(vcpu=0), 1001 * MS), run(1002 * MS, 2 * MS)
    assert possible(*plain, new(1004 * MS), host=XEN)
    assert not possible(*plain, look(1004 * MS, RUNNING, FIRST, 0, 0, 0, FIRST), host=XEN)


def test_a_kernel_without_xen_or_run_delays_refuses_it() -> None:
    for error, host, may_be in (
        ("EINVAL", HOST, True),
        ("EOPNOTSUPP", HOST, True),
        ("EINVAL", XEN, False),
        ("EOPNOTSUPP", XEN, False),
        ("EOPNOTSUPP", dataclasses.replace(XEN, has_steal_time=None), True),
    ):
        refused = step(SetXenRunstate(vcpu=0), 1001 * MS, error=error)
        assert possible(create(1000 * MS), refused, host=host) is may_be


def test_a_time_that_is_off_says_where_it_had_to_be() -> None:
    now = 110 * MS + 300
    mismatch = judged(*ran(), look(1011 * MS, RUNNING, now, now - FIRST, 7, 0, FIRST), host=XEN).mismatch
    assert mismatch
    assert "ns lower than observed" in mismatch.expected
    state = judged(*ran(), look(1011 * MS, BLOCKED, now, now - FIRST, 0, 0, FIRST), host=XEN).mismatch
    assert state
    assert "running" in state.expected
