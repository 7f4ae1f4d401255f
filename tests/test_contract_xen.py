# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim on a Xen's wall clock, on hand-worked traces."""

import dataclasses

import pytest

from kvmharness.contract import Status, WallClockClaim
from kvmharness.script import CreateVcpu, GetClock, ReadXenWallClock, SetXen
from kvmharness.trace import Event, Trace
from tests.test_contract_line import MS, step

CREATE = step(CreateVcpu(vcpu=0), 900 * MS, 1_000_000)
# The clock is 100 ms when the real time is 5100 ms.
CLOCK = step(GetClock(label="clock"), 1000 * MS, 100 * MS, 14, 5100 * MS, 77)
CLAIM = WallClockClaim(text="it is real time less clock", seen="wall", by="xen", expected="clock")


def found(*events: Event, error: str = "") -> tuple[Status, str]:
    written = dataclasses.replace(step(SetXen(label="xen"), 1000 * MS + 5000), error=error)
    finding = CLAIM.check(Trace("test", "test", (CREATE, CLOCK, written, *events)))
    return finding.status, finding.reason


def wall(off: int, version: int = 2) -> Event:
    return step(ReadXenWallClock(label="wall"), 1001 * MS, version, 5000 * MS + off)


@pytest.mark.parametrize(
    ("off", "kept"), [(0, True), (1000, True), (-1000, True), (1100, False), (-1100, False)]
)
def test_it_may_be_off_by_the_width_of_the_step_that_wrote_it(off: int, kept: bool) -> None:
    assert (found(wall(off))[0] is Status.KEPT) is kept


@pytest.mark.parametrize(("version", "words"), [(0, "never wrote"), (3, "odd")])
def test_a_clock_that_is_not_whole_breaks_it(version: int, words: str) -> None:
    status, reason = found(wall(0, version))
    assert status is Status.BROKEN
    assert words in reason


def test_without_a_step_nothing_is_said() -> None:
    assert found()[0] is Status.UNDECIDED
    assert found(wall(0), error="EINVAL")[0] is Status.UNDECIDED
