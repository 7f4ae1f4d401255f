# SPDX-License-Identifier: GPL-2.0-or-later
"""The claims on steal time, on hand-worked traces."""

import pytest

from kvmharness.contract import Claim, NoStealClaim, Status, StealClaim
from kvmharness.script import CreateVcpu, ReadStealTime, WaitForCpu
from kvmharness.trace import Event, Trace
from tests.test_contract_line import MS, step

CREATE = step(CreateVcpu(vcpu=0), 900 * MS, 1_000_000)


def look(label: str, steal: int, version: int, waited: tuple[int, int], *rest: int) -> Event:
    flags, preempted, padding = rest or (0, 0, 0)
    values = steal, version, flags, preempted, padding, *waited, 10 * MS
    return step(ReadStealTime(vcpu=0, label=label), 1005 * MS, *values)


def wait(before: int, after: int) -> Event:
    return step(WaitForCpu(ns=MS, label="wait"), 1006 * MS, before, after)


def found(claim: Claim, *events: Event) -> tuple[Status, str]:
    finding = claim.check(Trace("test", "test", (CREATE, *events)))
    return finding.status, finding.reason


GROWS = StealClaim(text="it grows", seen=("after",), expected="before", by=("wait",))
BEFORE = look("before", 700, 2, (690, 710))


@pytest.mark.parametrize(("steal", "kept"), [(1679, False), (1680, True), (1730, True), (1731, False)])
def test_it_grows_by_what_the_thread_waited_to_what_the_two_readings_leave_open(
    steal: int, kept: bool
) -> None:
    # From 710 or 690 to 1690 or 1720: by 980 to 1030, since 700.
    after = look("after", steal, 4, (1690, 1720))
    assert (found(GROWS, BEFORE, wait(710, 1690), after)[0] is Status.KEPT) is kept


def test_a_thread_that_did_not_wait_shows_nothing() -> None:
    status, reason = found(GROWS, BEFORE, wait(710, 710), look("after", 700, 4, (710, 710)))
    assert status is Status.UNDECIDED
    assert "nothing competed" in reason


@pytest.mark.parametrize(
    ("version", "rest", "words"),
    [
        (0, (0, 0, 0), "never wrote"),
        (3, (0, 0, 0), "odd"),
        (4, (2, 0, 0), "flags 0x2"),
        (4, (0, 1, 0), "preempted"),
        (4, (0, 0, 4), "padding 0x4"),
    ],
)
def test_a_page_that_is_not_whole_breaks_it(version: int, rest: tuple[int, int, int], words: str) -> None:
    status, reason = found(GROWS, BEFORE, wait(710, 1690), look("after", 1690, version, (1690, 1690), *rest))
    assert status is Status.BROKEN
    assert words in reason


def test_without_a_step_or_a_reading_nothing_is_said() -> None:
    assert found(GROWS, BEFORE)[0] is Status.UNDECIDED
    nothing = step(ReadStealTime(vcpu=0, label="after"), 1007 * MS)
    assert found(GROWS, BEFORE, wait(710, 1690), nothing)[0] is Status.UNDECIDED
    assert found(NoStealClaim(text="off", seen=("after",)), nothing)[0] is Status.UNDECIDED
    assert found(NoStealClaim(text="off", seen=("after",)), BEFORE)[0] is Status.UNDECIDED


@pytest.mark.parametrize(
    ("expected", "steal", "version", "kept"),
    [
        ("", 0, 0, True),
        ("", 0, 2, False),
        ("before", 700, 2, True),
        ("before", 700, 4, False),
        ("before", 701, 2, False),
    ],
)
def test_a_page_that_is_off_is_as_it_was(expected: str, steal: int, version: int, kept: bool) -> None:
    claim = NoStealClaim(text="off", seen=("after",), expected=expected)
    status, _ = found(claim, BEFORE, look("after", steal, version, (900, 900)))
    assert status is (Status.KEPT if kept else Status.BROKEN)
