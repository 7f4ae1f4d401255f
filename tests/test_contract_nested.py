# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim that L2's TSC is L1's at a rate, plus what L1 adds, on hand-worked traces."""

import pytest

from kvmharness.contract import L2RateClaim, Status
from kvmharness.contract.finding import Finding
from kvmharness.script import GetMsrs, RunL2
from kvmharness.trace import Event, Trace
from tests.hand_worked import MS, step

CLAIM = L2RateClaim(text="L2 has its rate", seen="l2", before="before", after="after")
BEHIND = -500 * MS


def tsc(at: int, value: int, label: str) -> Event:
    return step(GetMsrs(vcpu=0, indices=("TSC",), label=label), at, value)


def check(*read: int, rate_ppm: int | None = 500_000, error: str = "", low: int = 100 * MS) -> Finding:
    """L1's TSC is 100 ms before L2 runs, and 102 ms after that."""
    operation = RunL2(vcpu=0, offset=BEHIND, rate_ppm=rate_ppm, label="l2")
    values = () if error else (BEHIND, *read)
    events = (
        tsc(1000 * MS, low, "before"),
        step(operation, 1001 * MS, *values, error=error),
        tsc(1002 * MS, low + 2 * MS, "after"),
    )
    return CLAIM.check(Trace("made up", "", events))


def test_l2_lies_between_what_l1_reads_before_and_after_it() -> None:
    assert check(-450 * MS, -450 * MS).status is Status.KEPT
    assert check(-450 * MS, -449 * MS).status is Status.KEPT
    # Three cycles are lost in rounding.
    assert check(-450 * MS - 3, -449 * MS + 3).status is Status.KEPT
    assert check(-450 * MS - 4, -450 * MS).status is Status.BROKEN
    broken = check(-450 * MS, -449 * MS + 4)
    assert broken.status is Status.BROKEN
    assert (broken.step, broken.by) == (2, "1 cycles")
    assert broken.reason == "step 'l2' read a TSC of L2 that is 1 cycles off 0.5 times L1's plus what L1 adds"


def test_of_a_fast_l2_a_cycle_of_l1s_is_several() -> None:
    # From 1000 ms at the earliest, and L1's TSC may be almost a cycle more than it reads.
    assert check(500 * MS - 13, 500 * MS, rate_ppm=10_000_000).status is Status.KEPT
    assert check(500 * MS - 14, 500 * MS, rate_ppm=10_000_000).status is Status.BROKEN


def test_l1s_own_rate_is_another() -> None:
    assert check(-400 * MS, -400 * MS).status is Status.BROKEN
    assert check(-400 * MS, -400 * MS, rate_ppm=1_000_000).status is Status.KEPT


@pytest.mark.parametrize(
    "finding",
    [
        check(error="EINVAL"),
        check(),
        check(-450 * MS, rate_ppm=None),
        check(-450 * MS, low=2**62),  # which sign L1's offset has is not known
        CLAIM.check(Trace("made up", "", ())),
    ],
)
def test_what_was_not_read_decides_nothing(finding: Finding) -> None:
    assert finding.status is Status.UNDECIDED
