# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: a vCPU's steal time is what the thread that runs it waited for a CPU."""

import dataclasses

import pytest

from kvmharness.guests.layout import steal_time_address
from kvmharness.script import GetMsrs, GuestWrite, ReadStealTime, RunTogether, SetMsrs, WaitForCpu
from kvmharness.trace import Event
from tests.hand_worked import HOST, MS, create, judged, possible, run, step

STEALS = dataclasses.replace(HOST, has_steal_time=True)
OWN = steal_time_address(0)


def msr(at: int, value: int = OWN + 1, error: str = "") -> Event:
    return step(SetMsrs(vcpu=0, msrs=(("STEAL_TIME", value),)), at, value, error=error)


def look(at: int, steal: int, version: int, waited: tuple[int, int], *rest: int) -> Event:
    """The guest reads so many ns, while the thread's run_delay goes from one of `waited` to the other."""
    flags, preempted, padding = rest or (0, 0, 0)
    values = steal, version, flags, preempted, padding, *waited, at + 500 - 1000 * MS
    return step(ReadStealTime(vcpu=0), at, *values)


def wait(at: int, before: int, after: int) -> Event:
    return step(WaitForCpu(ns=after - before), at, before, after)


def started(*more: Event) -> tuple[Event, ...]:
    return (create(1000 * MS, guest="steal-16"), msr(1001 * MS), *more)


@pytest.mark.parametrize(("steal", "may_be"), [(699, False), (700, True), (705, True), (706, False)])
def test_the_steal_time_is_the_run_delay_at_the_entry_to_the_guest(steal: int, may_be: bool) -> None:
    assert possible(*started(look(1002 * MS, steal, 2, (700, 705))), host=STEALS) is may_be


def test_each_entry_adds_two_to_the_version_at_the_least() -> None:
    for version, may_be in ((2, True), (4, True), (3, False), (0, False)):
        assert possible(*started(look(1002 * MS, 700, version, (700, 700))), host=STEALS) is may_be
    ran = run(1002 * MS, 2 * MS + 500)
    for version, may_be in ((2, False), (4, True)):
        assert possible(*started(ran, look(1003 * MS, 700, version, (700, 700))), host=STEALS) is may_be


@pytest.mark.parametrize("rest", [(1, 0, 0), (0, 1, 0), (0, 0, 8)])
def test_flags_padding_and_preempted_are_0_while_the_guest_runs(rest: tuple[int, int, int]) -> None:
    assert not possible(*started(look(1002 * MS, 700, 2, (700, 700), *rest)), host=STEALS)


def test_what_the_thread_waits_between_two_runs_was_stolen() -> None:
    first = started(look(1002 * MS, 700, 2, (700, 700)), wait(1003 * MS, 710, 2000))
    assert possible(*first, look(1004 * MS, 2000, 4, (2000, 2000)), host=STEALS)
    assert not possible(*first, look(1004 * MS, 1999, 4, (2000, 2000)), host=STEALS)


def test_a_run_delay_never_shrinks() -> None:
    assert not possible(*started(wait(1003 * MS, 700, 600)), host=STEALS)
    assert not possible(*started(wait(1003 * MS, 700, 800), wait(1005 * MS, 799, 900)), host=STEALS)


def test_a_page_that_is_off_is_left_alone() -> None:
    never = create(1000 * MS, guest="steal-16"), look(1002 * MS, 0, 0, (700, 700))
    assert possible(*never, host=STEALS)
    assert not possible(never[0], look(1002 * MS, 700, 2, (700, 700)), host=STEALS)
    off = started(look(1002 * MS, 700, 2, (700, 700)), msr(1003 * MS, OWN), wait(1004 * MS, 700, 900))
    assert possible(*off, look(1005 * MS, 700, 2, (900, 900)), host=STEALS)
    assert not possible(*off, look(1005 * MS, 900, 4, (900, 900)), host=STEALS)
    assert not possible(*off, look(1005 * MS, 700, 4, (900, 900)), host=STEALS)
    # What was waited meanwhile counts once it is on again: the kernel adds what the run_delay has grown by.
    assert possible(*off, msr(1005 * MS), look(1006 * MS, 900, 4, (900, 900)), host=STEALS)


def test_how_often_a_page_was_written_is_known_only_once_its_version_was_read() -> None:
    # A thread that was preempted in KVM_RUN loads its vCPU again, and the kernel writes the page each time.
    ran = started(run(1002 * MS, 2 * MS + 500), msr(1003 * MS, OWN))
    for version, may_be in ((2, True), (8, True), (3, False), (0, False)):
        assert possible(*ran, look(1004 * MS, 700, version, (700, 700)), host=STEALS) is may_be
    seen = look(1004 * MS, 700, 8, (700, 700))
    assert not possible(*ran, seen, look(1005 * MS, 700, 10, (700, 700)), host=STEALS)


def test_reserved_bits_are_refused_and_nothing_else_is() -> None:
    assert possible(*started(msr(1002 * MS, OWN + 3, error="EINVAL")), host=STEALS)
    assert not possible(*started(msr(1002 * MS, OWN + 3)), host=STEALS)
    assert not possible(create(1000 * MS), msr(1001 * MS, error="EINVAL"), host=STEALS)
    unknown = dataclasses.replace(STEALS, has_steal_time=None)
    assert possible(create(1000 * MS), msr(1001 * MS, error="EINVAL"), host=unknown)


def test_the_msr_reads_as_it_was_written_last() -> None:
    refused = started(msr(1002 * MS, OWN + 3, error="EINVAL"))
    for value, may_be in ((OWN + 1, True), (OWN + 3, False)):
        read = step(GetMsrs(vcpu=0, indices=("STEAL_TIME",)), 1003 * MS, value)
        assert possible(*refused, read, host=STEALS) is may_be


def test_a_guest_switches_it_on_as_the_host_does() -> None:
    written = step(
        GuestWrite(vcpu=0, msr="STEAL_TIME", value=OWN + 1), 1001 * MS, OWN + 1, MS + 400, MS + 600
    )
    first = create(1000 * MS, guest="steal-16"), written
    assert possible(*first, look(1002 * MS, 700, 4, (700, 700)), host=STEALS)
    assert not possible(*first, look(1002 * MS, 0, 0, (700, 700)), host=STEALS)


def test_of_a_page_elsewhere_nothing_is_predicted() -> None:
    other = started(msr(1002 * MS, steal_time_address(1) + 1), look(1003 * MS, 5, 1, (700, 700)))
    assert possible(*other, host=STEALS)


def test_another_thread_that_ran_the_vcpu_leaves_what_it_waited_itself() -> None:
    made = create(1000 * MS, guest="warp-64"), create(1001 * MS, vcpu=1, guest="warp-64"), msr(1002 * MS)
    at_once = step(RunTogether(vcpus=(0, 1), ns=MS), 1003 * MS, 0, 1, 0, 0, 1, 1, 0, 0, width=2 * MS)
    assert possible(*made, wait(1002 * MS + 5000, 700, 900), at_once, host=STEALS)


def test_a_step_that_is_impossible_says_what_the_steal_time_had_to_be() -> None:
    mismatch = judged(*started(look(1002 * MS, 706, 2, (700, 705))), host=STEALS).mismatch
    assert mismatch
    assert mismatch.allowed[0].text.startswith("700 to 705 ns stolen, 1 ns lower than observed")


def test_another_guest_is_refused_by_the_player() -> None:
    refused = step(ReadStealTime(vcpu=0), 1001 * MS, error="EINVAL")
    assert possible(create(1000 * MS), refused, host=STEALS)
    assert not possible(create(1000 * MS), look(1002 * MS, 700, 2, (700, 700)), host=STEALS)


def test_a_guest_that_switches_it_on_has_it_written_before_it_goes_on() -> None:
    written = step(
        GuestWrite(vcpu=0, msr="STEAL_TIME", value=OWN + 1), 1001 * MS, OWN + 1, MS + 400, MS + 600
    )
    first = create(1000 * MS, guest="steal-16"), written, msr(1002 * MS, OWN)
    assert possible(*first, look(1003 * MS, 650, 2, (700, 700)), host=STEALS)
    assert not possible(*first, look(1003 * MS, 0, 0, (700, 700)), host=STEALS)
