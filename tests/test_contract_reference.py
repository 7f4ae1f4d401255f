# SPDX-License-Identifier: GPL-2.0-or-later
"""The claims on a Hyper-V's reference time, on hand-worked traces of a vCPU of 1 GHz."""

import pytest

from kvmharness.contract import Claim, EmptyPageClaim, ReferenceClaim, RenewedClaim, Status
from kvmharness.contract.reference import reference_time
from kvmharness.script import CreateVcpu, GetMsrs, ReadKvmclock, ReadReferenceTime, ReadTscPage
from kvmharness.trace import Event, Trace
from tests.test_contract_line import GHZ, MS, STABLE, step

# A cycle is a hundredth of a unit of 100 ns. At a TSC of 5 ms it is 105 ms: a million units more.
SCALE, AHEAD = 2**64 // 100, 1_000_000
CREATE = step(CreateVcpu(vcpu=0), 900 * MS, 1_000_000)
KVMCLOCK = step(ReadKvmclock(vcpu=0, label="kvmclock"), 1001 * MS, 2, 5 * MS, 105 * MS, *GHZ, STABLE)


def look(count: int = 0, sequence: int = 1, scale: int = SCALE, ahead: int = AHEAD) -> Event:
    """A guest's reading at TSCs of 10 ms and 10 ms + 500, its counter `count` units after the first."""
    tsc = 10 * MS
    values = tsc, tsc // 100 + AHEAD + count, tsc + 500, sequence, scale, ahead
    return step(ReadReferenceTime(vcpu=0, label="look"), 1005 * MS, *values)


def found(claim: Claim, *events: Event) -> tuple[Status, str]:
    finding = claim.check(Trace("test", "test", (CREATE, KVMCLOCK, *events)))
    return finding.status, finding.reason


def is_clock(*, by_page: bool = True, seen: str = "look", expected: str = "kvmclock") -> ReferenceClaim:
    return ReferenceClaim(text="it is the clock", seen=(seen,), expected=expected, by_page=by_page)


def test_a_reference_time_is_what_the_specification_says_it_is() -> None:
    # ((VirtualTsc * TscScale) >> 64) + TscOffset, of 64 bits.
    assert reference_time(2**63, 7, 10) == 12
    assert reference_time(2**63, 2**64 - 6, 10) == 2**64 - 1


@pytest.mark.parametrize(("count", "status"), [(-2, True), (0, True), (5, True), (-3, False), (7, False)])
def test_a_counter_is_between_the_clocks_of_the_two_tscs_around_it(count: int, status: bool) -> None:
    expected = Status.KEPT if status else Status.BROKEN
    assert found(is_clock(), look(count))[0] is expected
    indices = ("TSC", "HV_TIME_REF_COUNT", "TSC")
    values = look(count).values[:3]
    by_host = step(GetMsrs(vcpu=0, indices=indices, label="host"), 1005 * MS, *values)
    assert found(is_clock(seen="host"), by_host)[0] is expected


@pytest.mark.parametrize(("off", "status"), [(-1, True), (1, True), (-3, False), (3, False)])
def test_a_page_tells_the_clock_to_two_units(off: int, status: bool) -> None:
    assert (found(is_clock(), look(ahead=AHEAD + off))[0] is Status.KEPT) is status


def test_a_scale_that_is_off_by_a_bit_is_another() -> None:
    status, reason = found(is_clock(), look(scale=SCALE + 1))
    assert status is Status.BROKEN
    assert f"scale {SCALE + 1}, that of step 'kvmclock' is {SCALE}" in reason


def test_a_page_that_is_not_in_use_is_none() -> None:
    assert found(is_clock(), look(sequence=0)) == (
        Status.BROKEN,
        "step 'look' read sequence 0: the guest is not to go by the page",
    )
    assert found(is_clock(by_page=False), look(sequence=0))[0] is Status.KEPT


def test_a_reference_time_may_be_held_against_a_tsc_page() -> None:
    page = step(ReadTscPage(label="tsc-page"), 1002 * MS, 1, SCALE, AHEAD + 500)
    claim = is_clock(expected="tsc-page")
    assert found(claim, page, look(500, ahead=AHEAD + 500))[0] is Status.KEPT
    status, reason = found(claim, page, look())
    assert status is Status.BROKEN
    assert "behind step 'tsc-page'" in reason


@pytest.mark.parametrize("event", [step(ReadReferenceTime(vcpu=0, label="look"), 1005 * MS), None])
def test_a_guest_that_read_nothing_leaves_it_open(event: Event | None) -> None:
    assert found(is_clock(), *([event] if event else []))[0] is Status.UNDECIDED


@pytest.mark.parametrize(
    ("after", "renewed", "status"),
    [
        ((1, SCALE, AHEAD), True, Status.BROKEN),
        ((2, SCALE, AHEAD), True, Status.BROKEN),
        ((1, SCALE, AHEAD + 9), True, Status.BROKEN),
        ((2, SCALE, AHEAD + 9), True, Status.KEPT),
        ((1, SCALE, AHEAD), False, Status.KEPT),
        ((2, SCALE, AHEAD), False, Status.BROKEN),
    ],
)
def test_a_new_page_is_another_under_another_sequence(
    after: tuple[int, ...], renewed: bool, status: Status
) -> None:
    page = step(ReadTscPage(label="page"), 1007 * MS, *after)
    claim = RenewedClaim(text="it is new", seen="page", expected="look", renewed=renewed)
    assert found(claim, look(), page)[0] is status


def test_an_empty_page_is_all_zero() -> None:
    claim = EmptyPageClaim(text="it is empty", seen="page")
    for values, status in (((0, 0, 0), Status.KEPT), ((0, SCALE, 0), Status.BROKEN)):
        assert found(claim, step(ReadTscPage(label="page"), 1003 * MS, *values))[0] is status
    assert found(claim)[0] is Status.UNDECIDED
