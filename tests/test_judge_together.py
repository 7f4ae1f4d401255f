# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: several vCPUs that are written at the same time."""

from kvmharness.model.judge import Possibility
from kvmharness.script import WriteTogether
from kvmharness.trace import Event
from tests.hand_worked import MS, OLD, create, judged, offset, possible, step, write

CREATED = (create(1000 * MS), create(1001 * MS, 1))


def at_once(at: int, *values: int, error: str = "", width: int = 1000) -> Event:
    """vCPUs 0, 1, ... are written these, each on a CPU of its own."""
    operation = WriteTogether(vcpus=tuple(range(len(values))), values=values)
    written = [each for pair in enumerate(values) for each in pair]
    return step(operation, at, *written, error=error, width=width)


def both(first: int, second: int) -> tuple[Event, Event]:
    return offset(1020 * MS, first), offset(1021 * MS, second, 1)


def test_whichever_is_written_first_gives_both_its_offset() -> None:
    # 100 s and 100.002 s at 1010 ms: a second apart from what was, but not from each other.
    written = at_once(1010 * MS, 100_000 * MS, 100_002 * MS)
    for ms in (100_000 - 1010, 100_002 - 1010):
        assert possible(*CREATED, written, *both(ms * MS - 7, ms * MS - 7))
        assert not possible(*CREATED, written, *both(ms * MS - 7, ms * MS - 8))
    assert not possible(*CREATED, written, *both((100_000 - 1010) * MS, (100_002 - 1010) * MS))
    assert not possible(*CREATED, written, *both((100_001 - 1010) * MS, (100_001 - 1010) * MS))


def test_a_write_of_zero_joins_what_it_comes_behind() -> None:
    written = at_once(1010 * MS, 100_000 * MS, 0)
    # Behind the other it joins that; before it, what both had since their creation.
    assert possible(*CREATED, written, *both(98_990 * MS, 98_990 * MS))
    assert possible(*CREATED, written, *both(98_990 * MS, -1000 * MS))
    assert not possible(*CREATED, written, *both(-1000 * MS, -1000 * MS))


def test_of_two_first_writes_the_one_that_comes_first_is_not_synchronized_since_6_7() -> None:
    written = at_once(1010 * MS, 500 * MS, 500 * MS)
    assert possible(*CREATED, written, *both(-510 * MS, -510 * MS))
    assert not possible(*CREATED, written, *both(-1000 * MS, -1000 * MS))
    assert possible(*CREATED, written, *both(-1000 * MS, -1000 * MS), policy=OLD)
    assert not possible(*CREATED, written, *both(-510 * MS, -510 * MS), policy=OLD)


def test_the_order_of_writes_at_once_is_remembered_as_one() -> None:
    # Behind 100.5 s and 100 s at once a write of 101.2 s is near the one, and not near the other.
    written = at_once(1010 * MS, 100_500 * MS, 100_000 * MS)
    third = write(1015 * MS, 101_200 * MS)
    # vCPU 1 was last, so 101.2 s are far from its 100 s; vCPU 1 has the offset of vCPU 0's 100.5 s.
    assert possible(*CREATED, written, third, *both(100_185 * MS, 99_490 * MS))
    assert not possible(*CREATED, written, third, *both(99_490 * MS, 99_490 * MS))
    # vCPU 0 was last, so 101.2 s are near its 100.5 s; both have the offset of vCPU 1's 100 s.
    assert possible(*CREATED, written, third, *both(98_990 * MS, 98_990 * MS))
    assert not possible(*CREATED, written, third, *both(100_185 * MS, 98_990 * MS))


def test_what_failed_tells_nothing() -> None:
    judgement = judged(*CREATED, at_once(1010 * MS, 5, 5, error="EINVAL"))
    assert (judgement.possibility, judgement.doubt) == (Possibility.UNDECIDED, "it failed with EINVAL")


def test_too_many_vcpus_at_once_leave_too_much_open() -> None:
    created = [create((1000 + vcpu) * MS, vcpu) for vcpu in range(6)]
    values = [(100_000 + 300 * vcpu) * MS for vcpu in range(6)]
    judgement = judged(*created, at_once(1010 * MS, *values))
    assert judgement.possibility is Possibility.UNDECIDED
    assert judgement.doubt == "6 vCPUs at once leave too many ways open that it may have gone"
