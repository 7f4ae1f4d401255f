# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: the time that a Xen tells a vCPU is on the line of its kvmclock.

As in test_judge_line, the VM's clock at a host's TSC of t is t - 900 ms, and the vCPU's TSC is t - 1000 ms.
"""

import dataclasses

import pytest

from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.script import (
    KvmclockCtrl,
    ReadXenTime,
    ReadXenVcpuInfo,
    ReadXenWallClock,
    SetClock,
    SetXen,
    SetXenTime,
)
from kvmharness.trace import Bracket, Event, Trace
from tests.hand_worked import HOST, MS, create, judged, offset, possible, run, step
from tests.test_judge_line import AGE, KNOWS, OF, STABLE, clock, page, page_on

XEN = dataclasses.replace(KNOWS, has_xen=True)
STOPPED = 2
READINGS = (ReadXenTime(vcpu=0), ReadXenVcpuInfo(vcpu=0))


def told(at: int, off: int = 0, *, version: int = 2, flags: int = STABLE, info: bool = False) -> Event:
    """A page of Xen's that was written of the masterclock of OF, `off` by so many ns."""
    values = version, OF - 1000 * MS, OF - AGE + off, 2**31, 1, flags
    return step(READINGS[info], at, *values)


def started(*more: Event) -> tuple[Event, ...]:
    """A vCPU with Xen's time and a kvmclock page, which runs at 1002 ms."""
    return (
        create(1000 * MS),
        step(SetXen(), 1000 * MS + 5000),
        step(SetXenTime(vcpu=0), 1001 * MS - 5000),
        page_on(1001 * MS),
        offset(1001 * MS + 5000, -1000 * MS),
        run(1002 * MS, 2 * MS),
        *more,
    )


@pytest.mark.parametrize("info", [False, True])
def test_xens_time_is_on_the_line_of_the_clock_to_the_ns(info: bool) -> None:
    first = started(clock(1003 * MS))
    for off, may_be in ((-1, True), (0, True), (3, True), (-2, False), (4, False)):
        assert possible(*first, told(1004 * MS, off, info=info), host=XEN) is may_be


def test_xens_time_and_the_kvmclock_page_are_on_one_line() -> None:
    first = started(page(1003 * MS, OF))
    assert possible(*first, told(1004 * MS), host=XEN)
    assert not possible(*first, told(1004 * MS, 2), host=XEN)


def test_a_version_is_even_and_grows_with_each_page_that_is_written() -> None:
    for version, may_be in ((2, True), (4, True), (0, False), (3, False)):
        assert possible(*started(told(1004 * MS, version=version)), host=XEN) is may_be


def test_a_page_that_is_not_switched_on_is_empty() -> None:
    first = create(1000 * MS), page_on(1001 * MS), run(1002 * MS, 2 * MS)
    empty = step(ReadXenTime(vcpu=0), 1003 * MS, *(0,) * 6)
    assert possible(*first, empty, host=XEN)
    assert not possible(*first, told(1003 * MS), host=XEN)
    assert not possible(*started(empty), host=XEN)


def test_a_mark_of_the_kvmclock_page_may_get_into_xens_and_stays_there() -> None:
    marked = started(told(1003 * MS), step(KvmclockCtrl(vcpu=0), 1004 * MS), run(1005 * MS, 5 * MS))
    for flags in (STABLE, STABLE | STOPPED):
        assert possible(*marked, told(1006 * MS, flags=flags, version=4), host=XEN)
    for marks, flags in ((True, STABLE | STOPPED), (False, STABLE)):
        known = dataclasses.replace(XEN, marks_xen=marks)
        assert possible(*marked, told(1006 * MS, flags=flags, version=4), host=known)
        assert not possible(*marked, told(1006 * MS, flags=flags ^ STOPPED, version=4), host=known)
    assert not possible(*started(told(1003 * MS, flags=STABLE | STOPPED)), host=XEN)
    assert not possible(*started(told(1003 * MS, flags=0)), host=XEN)


def test_a_clock_that_is_set_has_xens_page_written_again() -> None:
    at = 1004 * MS
    first = started(told(1003 * MS), step(SetClock(clock=0), at, 0), run(1005 * MS, 5 * MS))
    assert not possible(*first, told(1006 * MS), host=XEN)
    values = 4, at + 400 - 1000 * MS, 0, 2**31, 1, STABLE
    assert possible(*first, step(ReadXenTime(vcpu=0), 1006 * MS, *values), host=XEN)


def test_a_page_that_is_shared_again_may_have_xens_time_written_again_or_not() -> None:
    again = step(SetXen(), 1004 * MS)
    first = started(told(1003 * MS), again, run(1005 * MS, 5 * MS))
    looked_at = step(ReadXenTime(vcpu=0), 1006 * MS, 4, 5 * MS, 105 * MS, 2**31, 1, STABLE)
    assert possible(*first, told(1006 * MS), host=XEN)
    assert possible(*first, looked_at, host=XEN)
    more = step(SetXen(), 1007 * MS), run(1008 * MS, 8 * MS)
    assert possible(*first, told(1006 * MS), *more, told(1009 * MS), host=XEN)
    for version in (0, 3):
        assert not possible(*first, told(1006 * MS, version=version), host=XEN)
    assert not possible(*first, told(1006 * MS, 4), host=XEN)


def walled(*more: Event) -> Trace:
    """A VM of a machine that counts instructions, whose real time is 5 s above its raw clock."""
    seen = dataclasses.replace(clock(1001 * MS), values=(101 * MS, 14, 6001 * MS, 1001 * MS))
    events = (create(1000 * MS), run(1000 * MS + 5000, 5500), seen, *more)
    return Trace(
        "hand-worked", "none", events, created=Bracket(900 * MS, 900 * MS, 900 * MS + 500, 900 * MS + 500)
    )


@pytest.mark.parametrize(
    ("off", "may_be"), [(0, True), (900, True), (-900, True), (2200, False), (-2200, False)]
)
def test_a_wall_clock_is_the_real_time_less_the_clock_to_the_width_of_two_steps(
    off: int, may_be: bool
) -> None:
    host = dataclasses.replace(XEN, one_tsc=True)
    wall = step(ReadXenWallClock(), 1003 * MS, 2, 5000 * MS + AGE + off)
    judgement = judge(walled(step(SetXen(), 1002 * MS), wall), POLICIES["mainline-6.7"], host)
    assert (judgement.possibility is Possibility.POSSIBLE) is may_be


def test_a_wall_clock_has_a_version_that_counts_how_often_it_was_written() -> None:
    for version, may_be in ((2, False), (4, True), (5, False), (6, False)):
        twice = step(SetXen(), 1002 * MS), step(SetXen(), 1003 * MS)
        read = step(ReadXenWallClock(), 1004 * MS, version, 77)
        assert possible(create(1000 * MS), *twice, read, host=XEN) is may_be
    none = step(ReadXenWallClock(), 1004 * MS, 0, 0)
    assert possible(create(1000 * MS), none, host=XEN)
    assert not possible(create(1000 * MS), step(SetXen(), 1002 * MS), none, host=XEN)


def test_a_kernel_without_xen_refuses_it_and_one_with_it_does_not() -> None:
    refused = create(1000 * MS), step(SetXen(), 1001 * MS, error="EINVAL")
    assert possible(*refused, host=HOST)
    assert not possible(*refused, host=XEN)
    assert not possible(*refused, step(SetXenTime(vcpu=0), 1002 * MS), host=HOST)


def test_a_page_that_is_off_says_where_it_had_to_be() -> None:
    mismatch = judged(*started(page(1003 * MS, OF), told(1004 * MS, 50_000)), host=XEN).mismatch
    assert mismatch
    assert "ns lower than observed" in mismatch.expected
