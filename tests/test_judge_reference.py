# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: a Hyper-V's reference time is the VM's clock in units of 100 ns.

The host counts 1 GHz, and its TSC and its clock show the same number. The VM's clock at a host's TSC of t is
t - 900 ms, and the vCPU's TSC is t - 1000 ms: so the clock is 100 ms, which are a million units, ahead of it.
"""

import dataclasses

import pytest

from kvmharness.guests.layout import TSC_PAGE, kvmclock_address
from kvmharness.model import simulate
from kvmharness.model.arithmetic import scaled_khz
from kvmharness.model.policies import POLICIES
from kvmharness.model.state import Host
from kvmharness.script import (
    CreateVcpu,
    GetMsrs,
    ReadReferenceTime,
    ReadTscPage,
    Run,
    SetClock,
    SetHvCpuid,
    SetMsrs,
    SetTscKhz,
)
from kvmharness.trace import Event
from tests.hand_worked import HOST, MS, create, judged, offset, possible, run, step, write
from tests.test_judge_line import KNOWS, clock

HYPERV = dataclasses.replace(KNOWS, has_hyperv=True, keeps_tsc_page=True)
# A cycle is a hundredth of a unit, as a fraction of 2**64.
SCALE = 2**64 // 100
AHEAD = 1_000_000


def page_on(at: int, value: int = TSC_PAGE + 1) -> Event:
    return step(SetMsrs(vcpu=0, msrs=(("HV_REFERENCE_TSC", value),)), at, value)


def look(at: int, off: int = 0, *, sequence: int = 1, scale: int = SCALE, ahead: int = AHEAD) -> Event:
    """The guest's reading of counter and page at a TSC of `at`, the counter `off` by so many units."""
    tsc = at + 500 - 1000 * MS
    count = tsc // 100 + AHEAD + off
    return step(ReadReferenceTime(vcpu=0), at, tsc, count, tsc, sequence, scale, ahead)


def started(*more: Event) -> tuple[Event, ...]:
    """A vCPU with a TSC page, whose offset and clock are known."""
    return (
        create(1000 * MS, guest="hyperv-16"),
        step(SetHvCpuid(vcpu=0), 1000 * MS + 5000),
        page_on(1001 * MS),
        offset(1001 * MS + 5000, -1000 * MS),
        look(1002 * MS),
        clock(1003 * MS),
        *more,
    )


def test_a_counter_may_be_off_by_what_is_rounded_and_by_its_bracket_of_ten_units() -> None:
    for off, may_be in ((-7, True), (0, True), (6, True), (-8, False), (8, False)):
        assert possible(*started(look(1010 * MS, off)), host=HYPERV) is may_be


def test_a_page_is_on_the_line_of_the_clock_to_two_units() -> None:
    for off, may_be in ((-1, True), (0, True), (1, True), (-3, False), (3, False)):
        page = step(ReadTscPage(), 1010 * MS, 1, SCALE, AHEAD + off)
        assert possible(*started(page), host=HYPERV) is may_be


def test_the_scale_of_a_page_is_that_of_the_vcpus_khz_to_the_bit() -> None:
    for off in (-1, 1, SCALE * 2 // 1_000_000):
        assert not possible(*started(look(1010 * MS, scale=SCALE + off)), host=HYPERV)


def test_a_page_is_written_once_for_one_masterclock() -> None:
    assert possible(*started(look(1010 * MS)), host=HYPERV)
    for sequence in (0, 2):
        assert not possible(*started(look(1010 * MS, sequence=sequence)), host=HYPERV)


def test_a_clock_that_is_set_makes_a_new_page_under_the_next_sequence() -> None:
    # To 100 s at a TSC within the bracket, where the vCPU's is 10 ms.
    ahead = (100_000 - 10) * 10_000
    first = started(step(SetClock(clock=100_000 * MS), 1010 * MS, 100_000 * MS))
    at = 1011 * MS

    def later(sequence: int, ahead: int) -> Event:
        tsc = at + 500 - 1000 * MS
        return step(ReadReferenceTime(vcpu=0), at, tsc, tsc // 100 + ahead, tsc, sequence, SCALE, ahead)

    assert possible(*first, later(2, ahead - 5), host=HYPERV)
    assert not possible(*first, later(1, ahead - 5), host=HYPERV)
    assert not possible(*first, later(2, AHEAD), host=HYPERV)
    assert not possible(*first, later(2, ahead - 20), host=HYPERV)


def test_before_a_vcpu_has_run_again_the_counter_goes_by_the_clock_that_was_set() -> None:
    first = started(step(SetClock(clock=100_000 * MS), 1010 * MS, 100_000 * MS))
    for count, may_be in (((100_000 + 1) * 10_000, True), (110_000, False), (101_000 * 10_000, False)):
        read = step(GetMsrs(vcpu=0, indices=("HV_TIME_REF_COUNT",)), 1011 * MS, count)
        assert possible(*first, read, host=HYPERV) is may_be


def test_a_page_that_is_off_stays_as_it_is() -> None:
    first = started(page_on(1004 * MS, TSC_PAGE), step(SetClock(clock=0), 1005 * MS, 0))
    for sequence, may_be in ((1, True), (2, False), (0, False)):
        assert possible(*first, step(ReadTscPage(), 1006 * MS, sequence, SCALE, AHEAD), host=HYPERV) is may_be


def test_a_page_that_could_not_be_written_is_given_up() -> None:
    # A second vCPU counts from 50 s: there is no masterclock.
    second = CreateVcpu(vcpu=1)
    first = started(
        step(second, 1004 * MS, 1_000_000),
        write(1005 * MS, 50_000 * MS, 1),
        run(1005 * MS + 2000, 50_000 * MS + 2500, vcpu=1),
        look(1006 * MS, sequence=0),
    )
    again = (*first, page_on(1008 * MS))
    assert possible(*first, look(1007 * MS, sequence=0), host=HYPERV)
    assert not possible(*first, look(1007 * MS, sequence=1), host=HYPERV)
    # Still there is none, and KVM tries once more and fails again.
    assert possible(*again, look(1009 * MS, sequence=0), host=HYPERV)


@pytest.mark.parametrize(("control", "sequence"), [(0, 2), (1, 1)])
def test_a_guest_that_is_to_be_told_first_keeps_its_page(control: int, sequence: int) -> None:
    msr = step(SetMsrs(vcpu=0, msrs=(("HV_TSC_EMULATION_CONTROL", control),)), 1004 * MS, control)
    first = started(msr, step(SetClock(clock=0), 1005 * MS, 0))
    kept = sequence == 1
    tsc = 6 * MS + 500
    ahead = AHEAD if kept else -(5 * MS) // 100 - 5
    seen = step(
        ReadReferenceTime(vcpu=0), 1006 * MS, tsc, tsc // 100 + ahead, tsc, sequence, SCALE, ahead % 2**64
    )
    other = dataclasses.replace(seen, values=(*seen.values[:3], 3 - sequence, *seen.values[4:]))
    assert possible(*first, seen, host=HYPERV)
    assert not possible(*first, other, host=HYPERV)


@pytest.mark.parametrize(("known", "may_be"), [(None, True), (False, True), (True, False)])
def test_a_kernel_without_a_hyperv_refuses_its_cpuid(known: bool | None, may_be: bool) -> None:
    host: Host = dataclasses.replace(HOST, has_hyperv=known)
    for error in ("EINVAL", "ENOTTY"):
        refused = step(SetHvCpuid(vcpu=0), 1001 * MS, error=error)
        assert possible(create(1000 * MS, guest="hyperv-16"), refused, host=host) is may_be


def test_a_page_that_is_off_its_line_is_told_by_how_much() -> None:
    page = step(ReadTscPage(), 1010 * MS, 1, SCALE, AHEAD + 50)
    mismatch = judged(*started(page), host=HYPERV).mismatch
    assert mismatch
    assert "ns lower than observed" in mismatch.expected


def test_of_a_kernel_that_writes_the_page_at_any_time_nothing_is_predicted() -> None:
    before = dataclasses.replace(HYPERV, keeps_tsc_page=None)
    assert possible(*started(look(1010 * MS, 5000, sequence=7, ahead=3)), host=before)
    # Save that it is a page of the vCPU's TSC, which its guest read.
    seen = look(1010 * MS)
    other = dataclasses.replace(seen, values=(seen.values[0] + MS, *seen.values[1:]))
    assert not possible(*started(other), host=before)


def test_a_guest_that_does_not_read_it_is_not_run() -> None:
    made = create(1000 * MS), step(SetHvCpuid(vcpu=0), 1000 * MS + 5000)
    assert possible(*made, step(ReadReferenceTime(vcpu=0), 1001 * MS, error="EINVAL"), host=HYPERV)
    assert not possible(*made, look(1002 * MS), host=HYPERV)


def test_where_the_hosts_clock_is_not_the_tsc_the_page_is_never_valid() -> None:
    # Seen on machines with an unstable TSC: sequence 0, and nothing else in the page.
    other = dataclasses.replace(HYPERV, tsc_clocksource=False)
    address = kvmclock_address(0) + 1
    first = (
        create(1000 * MS, guest="hyperv-16"),
        step(SetHvCpuid(vcpu=0), 1000 * MS + 5000),
        step(SetMsrs(vcpu=0, msrs=(("SYSTEM_TIME", address),)), 1000 * MS + 9000, address),
        page_on(1001 * MS),
    )
    assert possible(*first, look(1002 * MS, sequence=0, scale=0, ahead=0), host=other)
    assert not possible(*first, look(1002 * MS), host=other)


@pytest.mark.parametrize(("khz", "sequence"), [(9_999, 0), (10_100, 1)])
def test_a_tsc_of_10_mhz_and_less_has_no_page(khz: int, sequence: int) -> None:
    script = (
        CreateVcpu(vcpu=0, guest="hyperv-16"),
        SetHvCpuid(vcpu=0),
        SetTscKhz(vcpu=0, khz=khz),
        SetMsrs(vcpu=0, msrs=(("HV_REFERENCE_TSC", TSC_PAGE + 1),)),
        Run(vcpu=0),
        ReadTscPage(),
    )
    host = dataclasses.replace(simulate.HOST, khz=50_000, fraction_bits=48)
    found = simulate.simulate("", script, POLICIES["mainline-6.7"], host)
    assert found.events[-1].value("hv_sequence") == sequence


def test_the_rate_of_a_page_is_never_taken_for_one_that_is_not_known() -> None:
    assert scaled_khz(3_000, 1 << 31, 32) == 1_500
    assert scaled_khz(3, 1 << 30, 32) == 1
