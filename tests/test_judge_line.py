# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: with a masterclock the VM's clock is one function of the host's TSC.

The host counts 1 GHz, and its TSC and its clock show the same number. The VM is as old as the host's clock
less 900 ms, so its clock at a TSC of t is t - 900 ms, to the ns, however wide the brackets are.
"""

import dataclasses

import pytest

from kvmharness.guests.layout import kvmclock_address
from kvmharness.model import simulate
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.script import CreateVcpu, GetClock, ReadKvmclock, Run, SetClock, SetMsrs, SetTscKhz, Time
from kvmharness.trace import Event
from tests.hand_worked import HOST, MS, create, judged, offset, possible, run, set_offset, step

KNOWS = dataclasses.replace(HOST, knows_realtime=True)
STABLE = 1
AGE = 900 * MS


def clock(tsc: int, off: int = 0) -> Event:
    """KVM_GET_CLOCK, of a TSC of the host's."""
    return step(GetClock(), tsc - 300, tsc - AGE + off, 14, 77, tsc)


def page(
    at: int, of: int, off: int = 0, *, vcpu: int = 0, tsc: int = 0, scale: tuple[int, int] = (2**31, 1)
) -> Event:
    """A page that was written of a masterclock of `of`, by a vCPU whose offset is -1000 ms, or `tsc` more."""
    return step(ReadKvmclock(vcpu=vcpu), at, 2, of - 1000 * MS + tsc, of - AGE + off, *scale, STABLE)


def page_on(at: int, vcpu: int = 0) -> Event:
    address = kvmclock_address(vcpu) + 1
    return step(SetMsrs(vcpu=vcpu, msrs=(("SYSTEM_TIME", address),)), at, address)


def started(*more: Event) -> tuple[Event, ...]:
    """A vCPU with a page, whose offset is known; it runs at 1002 ms, which is when there is a masterclock."""
    return (
        create(1000 * MS),
        page_on(1001 * MS),
        offset(1001 * MS + 5000, -1000 * MS),
        run(1002 * MS, 2 * MS),
        *more,
    )


OF = 1002 * MS + 400


@pytest.mark.parametrize(
    ("knows", "off", "may_be"),
    [
        (True, 0, True),
        (True, -1, False),
        (True, 1, False),
        # 5.10 does not know KVM_CLOCK_REALTIME, and sets the clock at a later moment than the snapshot.
        (False, -274, True),
        (False, -700, False),
    ],
)
def test_a_page_of_the_snapshot_of_set_clock_tells_just_what_was_set(
    knows: bool, off: int, may_be: bool
) -> None:
    host = dataclasses.replace(HOST, knows_realtime=knows)
    was_set = started(step(SetClock(clock=0), 1010 * MS, 0), run(1012 * MS, 12 * MS))
    written = 10 * MS + 400, off % 2**64, 2**31, 1, STABLE
    assert possible(*was_set, step(ReadKvmclock(vcpu=0), 1013 * MS, 4, *written), host=host) is may_be


def test_two_clocks_that_are_read_with_a_tsc_are_two_ns_of_rounding_apart_and_no_more() -> None:
    first = started(clock(1003 * MS))
    for off, may_be in ((-3, True), (0, True), (3, True), (-4, False), (4, False)):
        assert possible(*first, clock(1103 * MS, off), host=KNOWS) is may_be


def test_a_page_and_a_clock_are_on_one_line_though_nobody_knows_when_the_page_was_written() -> None:
    first = started(clock(1003 * MS))
    for of in (OF, OF + 100):
        for off, may_be in ((-1, True), (3, True), (-2, False), (4, False)):
            assert possible(*first, page(1004 * MS, of, off), host=KNOWS) is may_be


def test_a_clock_that_is_off_its_line_is_told_by_how_much() -> None:
    mismatch = judged(*started(page(1004 * MS, OF), clock(1103 * MS, 50_000)), host=KNOWS).mismatch
    assert mismatch
    assert "49999 ns lower than observed" in mismatch.expected


def test_a_line_ends_where_the_clock_is_set() -> None:
    # Set to 5 s at about 1010 ms; the bracket's 1000 ns are known no better, but whatever it is stays.
    was_set = (*started(clock(1003 * MS)), step(SetClock(clock=5_000 * MS), 1010 * MS, 5_000 * MS))
    ahead = 5_000 * MS - 1010 * MS + AGE
    assert possible(*was_set, clock(1020 * MS, ahead), host=KNOWS)
    assert possible(*was_set, clock(1020 * MS, ahead - 1000), host=KNOWS)
    assert not possible(*was_set, clock(1020 * MS), host=KNOWS)
    assert not possible(*was_set, clock(1020 * MS, ahead), clock(1030 * MS, ahead - 10), host=KNOWS)


@pytest.mark.parametrize("name", ["mainline-6.7", "mainline-before-6.7"])
def test_a_clock_that_is_set_before_the_first_run_goes_on_as_the_model_itself_plays_it(name: str) -> None:
    policy = POLICIES[name]
    script = (CreateVcpu(vcpu=0), SetClock(clock=Time(1000 * MS)), GetClock(), Run(vcpu=0), GetClock())
    for choose in (lambda count: 0, lambda count: count // 2, lambda count: count - 1):
        trace = simulate.simulate("", script, policy, choose=choose)
        assert judge(trace, policy, simulate.HOST).possibility is Possibility.POSSIBLE


def test_two_vcpus_pages_are_on_the_same_line() -> None:
    pair = (
        *(create(1000 * MS), create(1000 * MS + 2000, 1), page_on(1001 * MS), page_on(1001 * MS + 2000, 1)),
        *(offset(1001 * MS + 5000, -1000 * MS), offset(1001 * MS + 8000, -1000 * MS, 1)),
        *(run(1002 * MS, 2 * MS), run(1003 * MS, 3 * MS, vcpu=1)),
        page(1004 * MS, 1003 * MS + 400, vcpu=1),
    )
    # vCPU 1 had asked for a look at the masterclock as well, so its snapshot is of its own run. The two lie
    # on one line all the same, as the host's clocks go at one rate.
    assert possible(*pair, clock(1005 * MS), host=KNOWS)
    assert not possible(*pair, clock(1005 * MS, 9), host=KNOWS)
    assert possible(*pair, page(1005 * MS, OF), host=KNOWS)
    assert not possible(*pair, page(1005 * MS, OF, 9), host=KNOWS)


def test_the_rate_in_a_page_is_exact_where_the_hosts_is_known() -> None:
    for multiplier, may_be in ((2**31, True), (2**31 + 1, False), (2**31 - 1, False)):
        assert possible(*started(), page(1003 * MS, OF, scale=(multiplier, 1))) is may_be
    vague = dataclasses.replace(HOST, khz_exact=False)
    assert possible(*started(), page(1003 * MS, OF, scale=(2**31 + 2**23, 1)), host=vague)


def test_the_page_of_a_scaled_vcpu_is_of_its_own_rate() -> None:
    # Half the host's: a cycle is 2 ns. Its TSC is half the host's, and the offset that it was given.
    scaling = dataclasses.replace(KNOWS, fraction_bits=32)
    ran = (
        *(
            create(1000 * MS),
            page_on(1001 * MS),
            step(SetTscKhz(vcpu=0, khz=500_000), 1001 * MS + 2000, 500_000),
        ),
        *(set_offset(1001 * MS + 5000, 0), run(1002 * MS, 501 * MS + 250)),
    )

    def its_page(off: int, multiplier: int = 2**31) -> Event:
        return step(ReadKvmclock(vcpu=0), 1003 * MS, 2, OF // 2, OF - AGE + off, multiplier, 2, STABLE)

    assert possible(*ran, its_page(0), clock(1103 * MS), host=scaling)
    assert not possible(*ran, its_page(0, 2**31 + 1), host=scaling)
    # A cycle of its TSC may be of 2 ns.
    assert not possible(*ran, its_page(0), clock(1103 * MS, 8), host=scaling)


@pytest.mark.parametrize("counts_by", [999_951, 1_000_000])
def test_a_kvm_that_was_loaded_early_counts_by_one_of_two_rates(counts_by: int) -> None:
    early = dataclasses.replace(KNOWS, kvm_khz=999_951)
    first = (
        create(1000 * MS, khz=999_951),
        *(page_on(1001 * MS), offset(1001 * MS + 5000, -1000 * MS), run(1002 * MS, 2 * MS), clock(1003 * MS)),
    )
    # At 999951 kHz 100 ms of the host's TSC are 4900 ns more.
    gained = 100 * MS * 1_000_000 // counts_by - 100 * MS
    assert possible(*first, clock(1103 * MS, gained), host=early)
    assert not possible(*first, clock(1103 * MS, gained + 10), host=early)
    # And it is one of them throughout.
    other = 4900 - gained
    assert not possible(*first, clock(1103 * MS, gained), clock(1203 * MS, gained + other), host=early)
