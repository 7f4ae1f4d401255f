# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: the host's clock leaves the TSC, and comes back to it."""

import dataclasses

import pytest

from kvmharness.model.host_clocks import clocks_disagree
from kvmharness.model.judge import Possibility
from kvmharness.script import ReadKvmclock, SetClocksource, Sleep
from kvmharness.trace import Event, Trace
from tests.hand_worked import HOST, MS, create, judged, possible, run, step
from tests.test_judge_clock import BORN, STABLE, clock, page, page_on, set_clock

# Nothing but the player has this machine's time.
QUIET = dataclasses.replace(HOST, one_tsc=True)


def leave(at: int, *, error: str = "") -> Event:
    return step(SetClocksource(tsc=False), at, error=error)


def come_back(at: int) -> Event:
    return step(SetClocksource(tsc=True), at)


# The page is written on the way into the guest, with the masterclock of then.
BEFORE = (
    create(1000 * MS),
    page_on(1001 * MS),
    run(1002 * MS, 2 * MS + 500),
    page(1003 * MS, 2, STABLE, of=1002 * MS),
    leave(1010 * MS),
)


def test_a_page_is_stable_no_longer_once_the_hosts_clock_left_the_tsc() -> None:
    again = run(1110 * MS, 110 * MS + 500)
    assert possible(*BEFORE, again, page(1111 * MS, 4, 0, of=1110 * MS + 500), host=QUIET)
    # A worker asked for that long ago: it cannot be the page of before.
    assert not possible(*BEFORE, again, page(1111 * MS, 2, STABLE, of=1002 * MS), host=QUIET)
    assert not possible(*BEFORE, again, page(1111 * MS, 4, STABLE, of=1110 * MS + 500), host=QUIET)


def test_how_soon_a_worker_asks_for_it_is_not_known_where_others_have_the_cpu() -> None:
    again = run(1110 * MS, 110 * MS + 500)
    for host in (HOST, QUIET):
        at_once = run(1011 * MS, 11 * MS + 500)
        assert possible(*BEFORE, at_once, page(1012 * MS, 2, STABLE, of=1002 * MS), host=host)
        assert possible(*BEFORE, at_once, page(1012 * MS, 4, 0, of=1011 * MS + 500), host=host)
    assert possible(*BEFORE, again, page(1111 * MS, 2, STABLE, of=1002 * MS))
    assert possible(*BEFORE, again, page(1111 * MS, 4, 0, of=1110 * MS + 500))


def test_what_a_worker_asked_for_may_have_been_done_at_an_entry_before_it_was_due_for_certain() -> None:
    # The clock was set, so there is no masterclock any more that the entry would have ended.
    entered = (*BEFORE, set_clock(1011 * MS, 5000 * MS), run(1012 * MS, 12 * MS + 500))
    again = run(1110 * MS, 110 * MS + 500)

    def written(version: int, of: int) -> Event:
        values = version, of - 1000 * MS, of - 1011 * MS + 5000 * MS, 2**31, 1, 0
        return step(ReadKvmclock(vcpu=0), 1111 * MS, *values)

    assert possible(*entered, again, written(4, 1012 * MS + 500), host=QUIET)
    assert possible(*entered, again, written(6, 1110 * MS + 500), host=QUIET)
    assert not possible(*entered[:-1], again, written(2, 1002 * MS + 500), host=QUIET)


def test_kvm_get_clock_calls_the_clock_stable_until_a_vcpu_runs() -> None:
    # It counts from the same moment, without the host's time.
    assert possible(*BEFORE, clock(1100 * MS, 1100 * MS - BORN), host=QUIET)
    assert not possible(*BEFORE, clock(1100 * MS, 1100 * MS - BORN, 0), host=QUIET)
    ran = (*BEFORE, run(1110 * MS, 110 * MS + 500))
    assert possible(*ran, clock(1120 * MS, 1120 * MS - BORN, 0), host=QUIET)
    assert not possible(*ran, clock(1120 * MS, 1120 * MS - BORN), host=QUIET)


def test_a_clock_that_came_back_to_the_tsc_is_stable_only_after_it_was_set() -> None:
    back = (*BEFORE, run(1110 * MS, 110 * MS + 500), come_back(1120 * MS))
    assert possible(*back, run(1200 * MS, 200 * MS + 500), clock(1210 * MS, 1210 * MS - BORN, 0), host=QUIET)
    assert not possible(
        *back, run(1200 * MS, 200 * MS + 500), clock(1210 * MS, 1210 * MS - BORN, 2), host=QUIET
    )
    assert possible(*back, set_clock(1200 * MS, 5000 * MS), clock(1210 * MS, 5010 * MS, 2), host=QUIET)


def test_a_clock_that_is_set_while_the_hosts_is_off_the_tsc_is_not_stable() -> None:
    was_set = (*BEFORE, set_clock(1100 * MS, 5000 * MS))
    assert possible(*was_set, clock(1110 * MS, 5010 * MS, 0), host=QUIET)
    assert not possible(*was_set, clock(1110 * MS, 5010 * MS, 2), host=QUIET)


def test_where_the_clocksource_is_not_to_be_changed_nothing_changes() -> None:
    kept = (*BEFORE[:-1], leave(1010 * MS, error="ENODEV"), run(1110 * MS, 110 * MS + 500))
    assert possible(*kept, page(1111 * MS, 2, STABLE, of=1002 * MS), host=QUIET)
    assert not possible(*kept, page(1111 * MS, 4, 0, of=1110 * MS + 500), host=QUIET)
    assert not possible(*BEFORE[:-1], leave(1010 * MS, error="EINVAL"), host=QUIET)


def test_nothing_is_said_of_a_host_whose_clock_may_have_run_on_anything() -> None:
    unknown = dataclasses.replace(HOST, tsc_clocksource=None)
    assert judged(*BEFORE, host=unknown).possibility is Possibility.UNDECIDED


@pytest.mark.parametrize(("by", "agree"), [(200, True), (2_000, False)])
def test_another_clock_may_be_off_the_tsc_by_its_own_unit(by: int, agree: bool) -> None:
    # In 10 us it may go another way by 1 %, 100 ns, and by a unit of the ACPI timer. Each step is of 1000 ns.
    left = leave(1010 * MS)
    later = step(Sleep(ns=0), 1010 * MS + 10_000 + 1000)
    moved = dataclasses.replace(
        later,
        bracket=later.bracket._replace(
            ns_before=later.bracket.ns_before + by, ns_after=later.bracket.ns_after + by
        ),
    )
    # Read between the two readings of the TSC, the clock may be 1000 ns off already.
    narrow = [
        dataclasses.replace(
            each,
            bracket=each.bracket._replace(
                tsc_after=each.bracket.tsc_before + 10, ns_after=each.bracket.ns_before
            ),
        )
        for each in (left, moved)
    ]
    assert (clocks_disagree(Trace("hand-worked", "none", tuple(narrow)), HOST) == "") is agree
    on_tsc = dataclasses.replace(narrow[0], operation=Sleep(ns=0))
    assert clocks_disagree(Trace("hand-worked", "none", (on_tsc, narrow[1])), HOST)
