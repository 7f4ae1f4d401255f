# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: when a deadline timer's interrupt comes, and when none does."""

import dataclasses

import pytest

from kvmharness.script import (
    AwaitTimer,
    CreateIrqchip,
    CreateVcpu,
    GetLapic,
    GetMsrs,
    MoveThread,
    Run,
    SetLapic,
    SetMsrs,
)
from kvmharness.trace import Event
from tests.hand_worked import HOST, KHZ, MS, create, offset, possible, set_offset, step

LVTT = 0x4001F
# vCPU 0 is created at 1000 ms, and its offset read: its TSC is the host's less 1000 ms.
CREATED = (
    step(CreateIrqchip(), 900 * MS),
    step(CreateVcpu(vcpu=0, guest="timer-16"), 1000 * MS, KHZ),
    offset(1001 * MS, -1000 * MS),
)
NEW = (*CREATED, step(SetLapic(vcpu=0), 1002 * MS, LVTT, 0))


def deadline(at: int, value: int) -> Event:
    return step(SetMsrs(vcpu=0, msrs=(("TSC_DEADLINE", value),)), at, value)


def read_deadline(at: int, value: int) -> Event:
    return step(GetMsrs(vcpu=0, indices=("TSC_DEADLINE",)), at, value)


def waits(at: int, fired: int, until: int = 0) -> Event:
    """A guest that waits for 20 ms at most, until the interrupt came, or it was stopped."""
    return step(AwaitTimer(vcpu=0), at, fired, width=(until or at + 20 * MS) - at)


def arms(at: int, value: int, armed: int, fired: int, until: int = 0) -> Event:
    return step(AwaitTimer(vcpu=0, deadline=0), at, value, armed, fired, width=(until or at + 20 * MS) - at)


def test_an_interrupt_comes_when_the_guests_tsc_is_at_the_deadline_and_later_in_real_time() -> None:
    # At 1010 ms the TSC is 10 ms; the deadline is 12 ms.
    armed = (*NEW, deadline(1009 * MS, 12 * MS))
    assert possible(*armed, waits(1010 * MS, 12 * MS))
    assert possible(*armed, waits(1010 * MS, 29 * MS))
    # 500 ppm of the 3 ms from the write to the deadline are what a clock may be slewed by: 1500 cycles.
    assert not possible(*armed, waits(1010 * MS, 12 * MS - 1600))
    assert not possible(*armed, waits(1010 * MS, 11 * MS))


def test_an_interrupt_that_does_not_come_is_possible_only_before_its_deadline() -> None:
    # The guest waits from 10 ms to 30 ms of its TSC.
    assert not possible(*NEW, deadline(1009 * MS, 29 * MS), waits(1010 * MS, 0))
    assert possible(*NEW, deadline(1009 * MS, 31 * MS), waits(1010 * MS, 0))
    assert not possible(*NEW, deadline(1009 * MS, 5 * MS), waits(1010 * MS, 0))


def test_where_instructions_are_counted_nobody_slews_the_clock_of_a_timer() -> None:
    # At 1010 ms the TSC is 10 ms. Ten seconds on, a clock that may be slewed is off by 5 ms, one that may not
    # by 10 us; and a guest has the interrupt 100 us later.
    armed = (*NEW, deadline(1010 * MS, 10_010 * MS))
    counting = dataclasses.replace(HOST, one_tsc=True)
    for early, possible_if_counted in ((0, True), (11_000, False), (1 * MS, False)):
        came = waits(11_000 * MS, 10_010 * MS - early)
        assert possible(*armed, came)
        assert possible(*armed, came, host=counting) is possible_if_counted
    # It waits until 10,010 ms and so much more.
    for late, possible_if_counted in ((100_000, True), (500_000, False)):
        silent = waits(11_000 * MS, 0, 11_010 * MS + late)
        silent = dataclasses.replace(silent, operation=AwaitTimer(vcpu=0, ns=10 * MS + late))
        assert possible(*armed, silent)
        assert possible(*armed, silent, host=counting) is possible_if_counted


def test_no_interrupt_comes_without_a_deadline_nor_twice_for_one() -> None:
    assert possible(*NEW, waits(1010 * MS, 0))
    assert not possible(*NEW, waits(1010 * MS, 15 * MS))
    came = (*NEW, deadline(1009 * MS, 12 * MS), waits(1010 * MS, 12 * MS, 1013 * MS))
    assert possible(*came, waits(1020 * MS, 0))
    assert not possible(*came, waits(1020 * MS, 25 * MS))


def test_a_deadline_of_zero_disarms() -> None:
    assert possible(*NEW, deadline(1009 * MS, 12 * MS), deadline(1010 * MS, 0), waits(1011 * MS, 0))
    assert not possible(*NEW, deadline(1009 * MS, 12 * MS), deadline(1010 * MS, 0), waits(1011 * MS, 12 * MS))


def test_a_deadline_that_was_passed_already_fires_at_once() -> None:
    assert possible(*NEW, deadline(1009 * MS, 5 * MS), waits(1010 * MS, 10 * MS, 1011 * MS))
    # Before the guest ran it cannot have been interrupted.
    assert not possible(*NEW, deadline(1009 * MS, 5 * MS), waits(1010 * MS, 9 * MS, 1011 * MS))


def test_a_deadline_is_dropped_before_the_lapic_is_in_tsc_deadline_mode() -> None:
    early = (*CREATED, deadline(1001 * MS + 2000, 12 * MS), step(SetLapic(vcpu=0), 1002 * MS, LVTT, 0))
    assert possible(*early, read_deadline(1003 * MS, 0), waits(1010 * MS, 0))
    assert not possible(*early, waits(1010 * MS, 12 * MS))
    assert not possible(*early, read_deadline(1003 * MS, 12 * MS))


@pytest.mark.parametrize(("ahead", "wakes"), [(100_000, 15), (-4, 15)])
def test_a_timer_goes_by_the_tsc_that_it_was_armed_against(ahead: int, wakes: int) -> None:
    # Armed at 9 ms for 15 ms: the host wakes up at 1015 ms, whatever the guest's TSC is by then.
    moved = (*NEW, deadline(1009 * MS, 15 * MS), set_offset(1010 * MS, (ahead - 1000) * MS))
    assert possible(*moved, waits(1011 * MS, (ahead + wakes) * MS))
    assert not possible(*moved, waits(1011 * MS, (ahead + wakes - 1) * MS))
    assert not possible(*moved, waits(1011 * MS, 0))


def test_setting_the_lapic_arms_a_deadline_again_against_the_tsc_as_it_is_then() -> None:
    # Set back by 4 ms at 1010 ms, and armed again, the TSC is 15 ms at 1019 ms.
    moved = (*NEW, deadline(1009 * MS, 15 * MS), set_offset(1010 * MS, -1004 * MS))
    again = (*moved, step(SetLapic(vcpu=0), 1010 * MS + 2000, LVTT, 0))
    assert possible(*again, waits(1011 * MS, 15 * MS))
    assert not possible(*again, waits(1011 * MS, 11 * MS))


def test_an_interrupt_that_waits_in_the_apic_comes_at_once() -> None:
    requested = (*CREATED, step(SetLapic(vcpu=0, requested=1), 1002 * MS, LVTT, 1))
    assert possible(*requested, step(GetLapic(vcpu=0), 1003 * MS, LVTT, 1), waits(1010 * MS, 10 * MS + 5))
    assert not possible(*requested, waits(1010 * MS, 0))
    assert not possible(*requested, step(GetLapic(vcpu=0), 1003 * MS, LVTT, 0))


def test_an_interrupt_that_waits_goes_on_waiting_when_the_apic_is_set_as_it_is() -> None:
    requested = (*CREATED, step(SetLapic(vcpu=0, requested=1), 1002 * MS, LVTT, 1))
    again = (*requested, step(SetLapic(vcpu=0), 1003 * MS, LVTT, 0))
    assert possible(*again, step(GetLapic(vcpu=0), 1004 * MS, LVTT, 1), waits(1010 * MS, 10 * MS + 5))
    assert not possible(*again, waits(1010 * MS, 0))


def test_a_guest_that_wrote_its_deadline_is_interrupted_unless_it_did_not_get_there() -> None:
    assert possible(*NEW, arms(1010 * MS, 12 * MS, 10 * MS + 900, 12 * MS))
    assert not possible(*NEW, arms(1010 * MS, 12 * MS, 10 * MS + 900, 0))
    assert not possible(*NEW, arms(1010 * MS, 12 * MS, 10 * MS + 900, 11 * MS))
    assert possible(*NEW, arms(1010 * MS, 12 * MS, 0, 0))


def test_more_than_two_to_the_64_millionths_of_cycles_wrap_around() -> None:
    # 2**64 / 10**6 cycles are 5.1 hours of 1 GHz. 2 ms more fire after 2 ms; a KVM that is mended does not.
    far = 2**64 // 10**6 + 2 * MS
    assert possible(*NEW, deadline(1009 * MS, 9 * MS + far), waits(1010 * MS, 11 * MS, 1012 * MS))
    assert possible(*NEW, deadline(1009 * MS, 9 * MS + far), waits(1010 * MS, 0))
    assert not possible(*NEW, deadline(1009 * MS, 9 * MS + far), waits(1010 * MS, 10 * MS, 1011 * MS))


def test_a_deadline_is_compared_with_a_tsc_that_has_not_wrapped_around_yet() -> None:
    # At 1008 ms the TSC is set to 4 ms before the end of its 64 bits; the deadline is 1 ms before that end.
    near = (*NEW, set_offset(1008 * MS, 2**64 - (1008 + 4) * MS))
    armed = (*near, deadline(1009 * MS, 2**64 - 1 * MS))
    assert possible(*armed, waits(1010 * MS, 2**64 - 1 * MS))
    assert not possible(*armed, waits(1010 * MS, 2**64 - 1 * MS - 2000))
    # The guest is interrupted only after its TSC wrapped around: it ran no earlier.
    assert possible(*armed, waits(1014 * MS, 2 * MS + 5))
    assert not possible(*armed, waits(1014 * MS, 0))
    # A deadline of the next round has come long ago.
    assert possible(*near, deadline(1009 * MS, 1 * MS), waits(1010 * MS, 2**64 - 2 * MS, 1011 * MS))


def test_nothing_is_said_where_a_tsc_may_have_wrapped_around_while_a_deadline_was_written() -> None:
    near = (*NEW, set_offset(1008 * MS, 2**64 - 1009 * MS - 500))
    armed = (*near, deadline(1009 * MS, 5 * MS))
    assert possible(*armed, waits(1010 * MS, 1 * MS, 1012 * MS))
    assert possible(*armed, waits(1010 * MS, 5 * MS))
    assert possible(*armed, waits(1010 * MS, 0))


def test_whether_the_interrupt_of_a_deadline_that_came_is_still_taken_after_a_second_one_is_open() -> None:
    came = (*NEW, deadline(1003 * MS, 4 * MS), deadline(1009 * MS, 12 * MS))
    assert possible(*came, waits(1010 * MS, 10 * MS, 1011 * MS))
    assert possible(*came, waits(1010 * MS, 12 * MS))


def test_a_second_deadline_takes_the_place_of_one_that_has_not_come() -> None:
    later = (*NEW, deadline(1003 * MS, 100 * MS), deadline(1009 * MS, 12 * MS))
    assert possible(*later, waits(1010 * MS, 12 * MS))
    assert not possible(*later, waits(1010 * MS, 10 * MS, 1011 * MS))
    assert not possible(*later, waits(1010 * MS, 0))


def test_a_requested_interrupt_leaves_a_deadline_as_it_was() -> None:
    armed = (*CREATED, step(SetLapic(vcpu=0, requested=1), 1002 * MS, LVTT, 1), deadline(1009 * MS, 30 * MS))
    taken = (*armed, waits(1010 * MS, 10 * MS + 5, 1011 * MS))
    assert possible(*taken, waits(1020 * MS, 30 * MS))
    assert not possible(*armed, waits(1010 * MS, 0))


def test_a_load_on_another_cpu_may_arm_a_timer_again_against_the_tsc_of_then() -> None:
    moved = (*NEW, deadline(1009 * MS, 15 * MS), set_offset(1010 * MS, (100_000 - 1000) * MS))
    elsewhere = (*moved, step(MoveThread(to=1), 1010 * MS + 4000, 0, 1))
    assert possible(*elsewhere, waits(1011 * MS, (100_000 + 15) * MS))
    assert possible(*elsewhere, waits(1011 * MS, (100_000 + 11) * MS + 5))
    # One whose TSC was left as it was has the same time to go.
    stays = (*NEW, deadline(1009 * MS, 15 * MS), step(MoveThread(to=1), 1010 * MS, 0, 1))
    assert not possible(*stays, waits(1011 * MS, 12 * MS))


def test_a_deadline_reads_as_it_was_written_until_it_comes() -> None:
    armed = (*NEW, deadline(1009 * MS, 12 * MS))
    assert possible(*armed, read_deadline(1010 * MS, 12 * MS))
    assert not possible(*armed, read_deadline(1010 * MS, 0))
    # Where interrupts are put into the APIC at once it reads 0 then.
    assert possible(*armed, read_deadline(1020 * MS, 0))
    assert possible(*armed, read_deadline(1020 * MS, 12 * MS))


def test_there_is_one_chip_and_it_comes_before_the_first_vcpu() -> None:
    chip = step(CreateIrqchip(), 900 * MS)
    assert possible(chip, step(CreateIrqchip(), 901 * MS, error="EEXIST"))
    assert not possible(chip, step(CreateIrqchip(), 901 * MS))
    assert possible(create(800 * MS), step(CreateIrqchip(), 901 * MS, error="EINVAL"))
    assert not possible(create(800 * MS), chip)
    assert not possible(step(CreateVcpu(vcpu=0, guest="timer-16"), 1000 * MS, KHZ), NEW[-1])


def test_nothing_is_said_of_an_interrupt_that_another_run_may_have_taken() -> None:
    ran = (*NEW, deadline(1009 * MS, 12 * MS), step(Run(vcpu=0), 1010 * MS, width=5 * MS))
    assert possible(*ran, waits(1020 * MS, 0))
    assert possible(*ran, waits(1020 * MS, 21 * MS))
