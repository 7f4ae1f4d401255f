# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: the VM's clock, and the guest's kvmclock pages.

A VM's clock counts ns from its creation, here at 900 ms; the host's counts 1 GHz, which is a multiplier of
2**31 and a shift of 1.
"""

import dataclasses

import pytest

from kvmharness.guests.layout import kvmclock_address
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.mismatch import Allowed
from kvmharness.model.policies import POLICIES
from kvmharness.model.state import Host
from kvmharness.script import (
    GetClock,
    GuestWrite,
    KvmclockCtrl,
    ReadKvmclock,
    SetClock,
    SetClockDuringRun,
    SetMsrs,
)
from kvmharness.trace import Bracket, Event, Trace
from tests.hand_worked import HOST, MS, NEW, create, judged, possible, run, step, write

KNOWS = dataclasses.replace(HOST, knows_realtime=True)
KNOWS_NOT = dataclasses.replace(HOST, knows_realtime=False)
STABLE, STOPPED = 1, 2
BORN = 900 * MS


def clock(at: int, time: int, flags: int = 2, *host: int) -> Event:
    return step(GetClock(), at, time, flags, *host)


def set_clock(at: int, time: int, realtime: int | None = None, *, error: str = "") -> Event:
    values = (time,) if realtime is None else (time, realtime)
    return step(SetClock(clock=time, realtime=realtime), at, *values, error=error)


def born(*events: Event, host: Host) -> bool:
    """Whether it is possible, of a VM of which it is known when it was created."""
    trace = Trace("test", "test", events, created=Bracket(BORN, BORN, BORN + 1000, BORN + 1000))
    return judge(trace, POLICIES[NEW], host).possibility is Possibility.POSSIBLE


def page_on(at: int, vcpu: int = 0, *, value: int | None = None) -> Event:
    address = kvmclock_address(vcpu) + 1 if value is None else value
    return step(SetMsrs(vcpu=vcpu, msrs=(("SYSTEM_TIME", address),)), at, address)


def page(at: int, version: int, flags: int, vcpu: int = 0, *, of: int = 0, tsc: int | None = None) -> Event:
    """A page that was written when the host's clock was `of`, by a vCPU that was created at 1000 ms."""
    written = of - 1000 * MS if tsc is None else tsc
    return step(ReadKvmclock(vcpu=vcpu), at, version, written, of - BORN, 2**31, 1, flags)


def empty(at: int, vcpu: int = 0) -> Event:
    return step(ReadKvmclock(vcpu=vcpu), at, 0, 0, 0, 0, 0, 0)


# The clock


def test_a_vms_clock_goes_on_with_the_hosts() -> None:
    # At 1010 ms it is 110 ms old, to 1000 ns and 10 of rounding. At 1020 ms it is 10 ms older, again give or
    # take what is known: 1000 ns of each reading, and twice the rounding.
    first = (create(1000 * MS), clock(1010 * MS, 110 * MS, 0))
    assert possible(*first, clock(1020 * MS, 120 * MS + 1020, 0))
    assert possible(*first, clock(1020 * MS, 120 * MS - 1020, 0))
    assert not possible(*first, clock(1020 * MS, 120 * MS + 1021, 0))
    assert not possible(*first, clock(1020 * MS, 120 * MS - 1021, 0))


def test_a_masterclock_may_be_off_by_what_a_rate_may_be_off() -> None:
    # The snapshot is of 1002 ms; at 1102 ms, 100.001 ms later, 1 % of that is 1,000,010 ns.
    ran = (create(1000 * MS), run(1002 * MS, 2 * MS), clock(1003 * MS, 103 * MS))
    vague = dataclasses.replace(HOST, khz_exact=False)
    assert possible(*ran, clock(1102 * MS, 202 * MS + 1_000_000), host=vague)
    assert not possible(*ran, clock(1102 * MS, 202 * MS + 1_020_000), host=vague)


def test_the_hosts_tsc_that_comes_with_the_clock_was_read_in_between() -> None:
    ran = (create(1000 * MS), run(1002 * MS, 2 * MS))
    assert possible(*ran, clock(1003 * MS, 103 * MS, 14, 77, 1003 * MS))
    assert possible(*ran, clock(1003 * MS, 103 * MS, 14, 77, 1003 * MS + 1000))
    assert not possible(*ran, clock(1003 * MS, 103 * MS, 14, 77, 1003 * MS - 1))


def test_a_clock_goes_on_from_what_was_set() -> None:
    was_set = (create(1000 * MS), set_clock(1010 * MS, 5_000 * MS))
    # Set at the end of its bracket and read at the beginning of the next, or the other way round; both are
    # rounded down, to 1 and to 2 ns.
    assert possible(*was_set, clock(1020 * MS, 5_010 * MS + 1_001, 2))
    assert not possible(*was_set, clock(1020 * MS, 5_010 * MS + 1_002, 2))
    assert possible(*was_set, clock(1020 * MS, 5_010 * MS - 1_003, 2))
    assert not possible(*was_set, clock(1020 * MS, 5_010 * MS - 1_004, 2))
    assert not possible(*was_set, clock(1020 * MS, 120 * MS, 2))


def test_a_page_of_a_vcpu_that_runs_is_the_clock_of_before_or_the_one_that_is_set_meanwhile() -> None:
    during = step(SetClockDuringRun(vcpu=0, clock=5_000 * MS), 1010 * MS, 0, 1, 5_000 * MS, width=20_000_000)
    read = clock(1003 * MS, 103 * MS, 14, 77, 1003 * MS)
    ran = (create(1000 * MS), page_on(1001 * MS), run(1002 * MS, 2 * MS), read, during)

    def with_page(version: int, tsc: int, time: int) -> bool:
        read = step(ReadKvmclock(vcpu=0), 1040 * MS, version, tsc, time, 2**31, 1, STABLE)
        return born(*ran, read, host=KNOWS)

    assert with_page(2, 2 * MS + 400, 102 * MS + 400)
    for ms in (10, 20, 30):
        assert with_page(4, ms * MS, 5_000 * MS)
        assert not with_page(4, ms * MS, 5_010 * MS)
        assert not with_page(4, ms * MS, (100 + ms) * MS)
    # The new page is of the masterclock that came with it.
    assert not with_page(4, 2 * MS + 400, 5_000 * MS)


def test_setting_the_clock_looks_at_the_masterclock_at_once() -> None:
    # A lone vCPU always matches; without KVM_SET_CLOCK it would take a run to notice.
    assert possible(create(1000 * MS), clock(1003 * MS, 103 * MS, 0))
    assert not possible(create(1000 * MS), clock(1003 * MS, 103 * MS, 2))
    was_set = (create(1000 * MS), set_clock(1002 * MS, 0))
    assert possible(*was_set, clock(1003 * MS, 1 * MS, 2))
    assert not possible(*was_set, clock(1003 * MS, 1 * MS, 0))


def test_with_a_real_time_what_passed_since_is_added_which_only_the_host_knows() -> None:
    was_set = (create(1000 * MS), set_clock(1010 * MS, 5_000 * MS, 1_700_000_000_000 * MS))
    for time in (5_010 * MS, 9_000 * MS):
        assert possible(*was_set, clock(1020 * MS, time, 2), clock(1030 * MS, time + 10 * MS, 2), host=KNOWS)
        assert not possible(*was_set, clock(1020 * MS, time, 2), clock(1030 * MS, time, 2), host=KNOWS)


def test_a_kernel_reports_both_the_hosts_real_time_and_its_tsc_or_neither() -> None:
    ran = (create(1000 * MS), run(1002 * MS, 2 * MS))
    both, realtime_alone, tsc_alone = 14, 6, 10
    assert possible(*ran, clock(1003 * MS, 103 * MS, both, 77, 1003 * MS), host=KNOWS)
    for host in (KNOWS, KNOWS_NOT, HOST):
        assert not possible(*ran, clock(1003 * MS, 103 * MS, realtime_alone), host=host)
        assert not possible(*ran, clock(1003 * MS, 103 * MS, tsc_alone), host=host)
    assert not possible(*ran, clock(1003 * MS, 103 * MS, both, 77, 1003 * MS), host=KNOWS_NOT)


def test_the_real_time_that_was_read_says_what_is_added_where_instructions_are_counted() -> None:
    counting = dataclasses.replace(KNOWS, one_tsc=True)
    real = 1_700_000_000_000 * MS
    saved = (create(1000 * MS), run(1002 * MS, 2 * MS), clock(1003 * MS, 103 * MS, 14, real, 1003 * MS))
    was_set = (*saved, set_clock(1053 * MS, 5_000 * MS, real))
    # 50 ms have passed, of which each bracket leaves 1000 ns open.
    right, wrong = 5_050 * MS + 10 * MS, 5_000 * MS + 10 * MS
    assert born(*was_set, clock(1063 * MS, right, 2), host=counting)
    assert not born(*was_set, clock(1063 * MS, wrong, 2), host=counting)
    assert not born(*was_set, clock(1063 * MS, right + 10_000, 2), host=counting)
    # Elsewhere it may have been set meanwhile.
    assert born(*was_set, clock(1063 * MS, wrong, 2), host=KNOWS)


def test_two_readings_of_the_real_time_go_on_together_where_instructions_are_counted() -> None:
    counting = dataclasses.replace(KNOWS, one_tsc=True)
    real = 1_700_000_000_000 * MS
    saved = (create(1000 * MS), run(1002 * MS, 2 * MS), clock(1003 * MS, 103 * MS, 14, real, 1003 * MS))
    for off, host, status in ((0, counting, True), (MS, counting, False), (MS, KNOWS, True)):
        later = clock(1053 * MS, 153 * MS, 14, real + 50 * MS + off, 1053 * MS)
        assert born(*saved, later, host=host) is status


def test_a_real_time_that_is_yet_to_come_does_not_set_the_clock_back() -> None:
    was_set = (create(1000 * MS), set_clock(1010 * MS, 5_000 * MS, 1_700_000_000_000 * MS))
    # 10 ms after 5000 ms, less what is not known, as above.
    assert possible(*was_set, clock(1020 * MS, 5_010 * MS - 1_003, 2), host=KNOWS)
    assert not possible(*was_set, clock(1020 * MS, 5_010 * MS - 1_004, 2), host=KNOWS)
    # 50 years after it are possible.
    assert possible(*was_set, clock(1020 * MS, 50 * 365 * 86_400_000 * MS, 2), host=KNOWS)


def test_kernels_that_do_not_know_a_real_time_refuse_it() -> None:
    refused = (create(1000 * MS), set_clock(1010 * MS, 5_000 * MS, 1, error="EINVAL"))
    taken = (create(1000 * MS), set_clock(1010 * MS, 5_000 * MS, 1))
    for host, can in ((KNOWS_NOT, (True, False)), (KNOWS, (False, True)), (HOST, (True, True))):
        assert (possible(*refused, host=host), possible(*taken, host=host)) == can
    # But not both on one host, and nobody refuses a clock without it.
    assert not possible(*refused, set_clock(1020 * MS, 0, 1), host=HOST)
    assert not possible(create(1000 * MS), set_clock(1010 * MS, 0, error="EINVAL"))


# Pages


def test_a_page_is_empty_until_the_vcpu_has_run_with_it() -> None:
    assert possible(create(1000 * MS), run(1001 * MS, MS), empty(1002 * MS))
    switched_on = (create(1000 * MS), page_on(1001 * MS))
    assert possible(*switched_on, empty(1002 * MS))
    assert not possible(*switched_on, page(1002 * MS, 2, STABLE, of=1001 * MS))
    assert not possible(*switched_on, run(1002 * MS, 2 * MS), empty(1003 * MS))
    assert possible(*switched_on, run(1002 * MS, 2 * MS), page(1003 * MS, 2, STABLE, of=1002 * MS + 500))


def test_a_page_holds_the_time_and_the_tsc_of_when_it_was_written() -> None:
    # The masterclock's snapshot is of the run; page and clock together tell the VM's age.
    ran = (create(1000 * MS), page_on(1001 * MS), run(1002 * MS, 2 * MS), clock(1003 * MS, 103 * MS))
    assert possible(*ran, page(1004 * MS, 2, STABLE, of=1002 * MS, tsc=2 * MS + 999))
    assert not possible(*ran, page(1004 * MS, 2, STABLE, of=1002 * MS, tsc=2 * MS + 3_000))
    assert not possible(*ran, page(1004 * MS, 2, STABLE, of=1002 * MS, tsc=MS))


def test_the_time_in_a_page_is_told_where_the_clock_is_known() -> None:
    told = (create(1000 * MS), clock(1000 * MS + 5_000, 100 * MS + 5_000, 0))
    ran = (*told, page_on(1001 * MS), run(1002 * MS, 2 * MS))
    assert possible(*ran, page(1004 * MS, 2, STABLE, of=1002 * MS + 999))
    assert not possible(*ran, page(1004 * MS, 2, STABLE, of=1001 * MS, tsc=2 * MS))


def test_a_version_is_even_and_grows_with_every_page_that_was_asked_for() -> None:
    ran = (create(1000 * MS), page_on(1001 * MS), run(1002 * MS, 2 * MS))
    first = page(1003 * MS, 8, STABLE, of=1002 * MS)
    assert possible(*ran, first)
    assert not possible(*ran, page(1003 * MS, 3, STABLE, of=1002 * MS))
    assert possible(*ran, first, page(1004 * MS, 8, STABLE, of=1002 * MS))
    assert not possible(*ran, first, page(1004 * MS, 6, STABLE, of=1002 * MS))
    # Written anew: at least 10.
    again = (*ran, first, page_on(1004 * MS), run(1005 * MS, 5 * MS))
    assert possible(*again, page(1006 * MS, 10, STABLE, of=1002 * MS))
    judgement = judged(*again, page(1006 * MS, 8, STABLE, of=1002 * MS))
    assert judgement.mismatch
    assert judgement.mismatch.expected == "version 10 or higher, and even"


def test_a_page_is_written_anew_when_the_guest_moves_its_tsc_by_tsc_adjust() -> None:
    adjust = GuestWrite(vcpu=0, msr="TSC_ADJUST", value=50 * MS)
    ran = (
        create(1000 * MS),
        page_on(1001 * MS),
        run(1002 * MS, 2 * MS),
        page(1003 * MS, 2, STABLE, of=1002 * MS),
    )
    moved = (*ran, step(adjust, 1004 * MS, 50 * MS, 4 * MS, 54 * MS))
    # The time that the masterclock knows is that of the first run; the TSC of then has moved too.
    assert possible(*moved, page(1005 * MS, 4, STABLE, of=1002 * MS, tsc=52 * MS))
    assert not possible(*moved, page(1005 * MS, 2, STABLE, of=1002 * MS))
    assert not possible(*moved, page(1005 * MS, 4, STABLE, of=1002 * MS))


def test_a_page_is_stable_while_all_vcpus_match_and_stays_so_until_its_own_vcpu_runs() -> None:
    pair = (create(1000 * MS), create(1000 * MS + 2000, 1), page_on(1001 * MS), page_on(1002 * MS, 1))
    ran = (*pair, run(1003 * MS, 3 * MS, vcpu=1), run(1004 * MS, 4 * MS))
    # Each vCPU had asked for a look at the masterclock at its creation, so each run took a snapshot.
    assert possible(*ran, page(1005 * MS, 2, STABLE, of=1004 * MS))
    assert not possible(*ran, page(1005 * MS, 2, 0, of=1004 * MS))
    parted = (*ran, write(1006 * MS, 100_000 * MS, 1), run(1007 * MS, 100_001 * MS, vcpu=1))
    assert possible(*parted, page(1008 * MS, 2, STABLE, of=1004 * MS))
    assert not possible(*parted, page(1008 * MS, 2, 0, of=1004 * MS))
    seen = (*parted, run(1009 * MS, 9 * MS))
    assert possible(*seen, page(1010 * MS, 4, 0, of=1009 * MS))
    judgement = judged(*seen, page(1010 * MS, 4, STABLE, of=1009 * MS))
    assert judgement.mismatch
    assert judgement.mismatch.allowed == (
        Allowed("PVCLOCK_TSC_STABLE_BIT clear", "", "0 of 2 vCPUs matched with the generation's first"),
    )


def test_the_old_msr_written_by_the_first_vcpus_guest_turns_the_masterclock_off() -> None:
    def old(at: int, vcpu: int) -> Event:
        address = kvmclock_address(vcpu) + 1
        operation = GuestWrite(vcpu=vcpu, msr="SYSTEM_TIME_OLD", value=address)
        return step(operation, at, address, at - 1000 * MS, at - 1000 * MS)

    ran = (create(1000 * MS), run(1001 * MS, MS), clock(1002 * MS, 102 * MS, 2))
    assert possible(*ran, old(1003 * MS, 0), clock(1004 * MS, 104 * MS, 0))
    assert not possible(*ran, old(1003 * MS, 0), clock(1004 * MS, 104 * MS, 2))
    assert possible(*ran, old(1003 * MS, 0), page(1004 * MS, 2, 0, of=1003 * MS))
    # Neither does another vCPU's guest, nor the host.
    pair = (create(1000 * MS), create(1000 * MS + 2000, 1), run(1001 * MS, MS, vcpu=1))
    assert possible(*pair, old(1003 * MS, 1), clock(1004 * MS, 104 * MS, 2))
    by_host = step(SetMsrs(vcpu=0, msrs=(("SYSTEM_TIME_OLD", 0x3801),)), 1003 * MS, 0x3801)
    assert possible(*ran, by_host, run(1004 * MS, 4 * MS), clock(1005 * MS, 105 * MS, 2))


@pytest.mark.parametrize("value", [kvmclock_address(1) + 1, 0x5001])
def test_a_page_at_another_place_says_nothing_of_any(value: int) -> None:
    pair = (create(1000 * MS), create(1000 * MS + 2000, 1), page_on(1001 * MS, value=value))
    ran = (*pair, run(1002 * MS, 2 * MS))
    assert possible(*ran, empty(1003 * MS), page(1004 * MS, 7, 3, 1))


def test_a_page_that_was_switched_off_stays_as_it_is() -> None:
    ran = (create(1000 * MS), page_on(1001 * MS), run(1002 * MS, 2 * MS), page_on(1003 * MS, value=0))
    assert possible(*ran, run(1004 * MS, 4 * MS), page(1005 * MS, 2, STABLE, of=1002 * MS))
    assert not possible(*ran, run(1004 * MS, 4 * MS), empty(1005 * MS))


# KVM_KVMCLOCK_CTRL


def stopped(at: int, *, error: str = "") -> Event:
    return step(KvmclockCtrl(vcpu=0), at, error=error)


def test_a_guest_without_a_page_cannot_be_told_that_it_was_stopped() -> None:
    assert possible(create(1000 * MS), stopped(1001 * MS, error="EINVAL"))
    assert not possible(create(1000 * MS), stopped(1001 * MS))
    on = (create(1000 * MS), page_on(1001 * MS))
    assert possible(*on, stopped(1002 * MS))
    assert not possible(*on, stopped(1002 * MS, error="EINVAL"))
    off = (*on, page_on(1002 * MS, value=0))
    assert possible(*off, stopped(1003 * MS, error="EINVAL"))


def test_a_guest_that_was_stopped_finds_it_in_its_page_at_its_next_run_and_from_then_on() -> None:
    ran = (create(1000 * MS), page_on(1001 * MS), run(1002 * MS, 2 * MS))
    told = (*ran, stopped(1003 * MS))
    assert possible(*told, page(1004 * MS, 2, STABLE, of=1002 * MS))
    assert not possible(*told, page(1004 * MS, 2, STABLE | STOPPED, of=1002 * MS))
    again = (*told, run(1005 * MS, 5 * MS))
    assert possible(*again, page(1006 * MS, 4, STABLE | STOPPED, of=1002 * MS))
    judgement = judged(*again, page(1006 * MS, 4, STABLE, of=1002 * MS))
    assert judgement.mismatch
    assert judgement.mismatch.allowed == (Allowed("PVCLOCK_GUEST_STOPPED set"),)
    later = (*again, page_on(1007 * MS), run(1008 * MS, 8 * MS))
    assert not possible(*later, page(1009 * MS, 6, STABLE, of=1002 * MS))
