# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes back from a lab machine, and which ends of it count."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.lab import machine, play, wire

# The result

RESULT = wire.encode("job", ["probe", "6.1", [1, 2]]) + wire.encode("job", wire.END)


def test_a_whole_result_is_read() -> None:
    assert wire.decode("job", RESULT) == [["probe", "6.1", [1, 2]]]


def test_no_part_of_a_result_passes_for_the_whole() -> None:
    for end in range(len(RESULT)):
        with pytest.raises(wire.BrokenResultError):
            wire.decode("job", RESULT[:end])


@given(st.integers(0, len(RESULT) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place: int, change: int) -> None:
    damaged = bytearray(RESULT)
    damaged[place] ^= change
    with pytest.raises(wire.BrokenResultError):
        wire.decode("job", bytes(damaged))


def test_another_jobs_result_is_not_this_ones() -> None:
    with pytest.raises(wire.BrokenResultError, match="damaged"):
        wire.decode("other", RESULT)


# The machine's end


def boot(status: int | None, results: bytes = RESULT, console: str = "hello\n") -> machine.Boot:
    return machine.Boot(status, console, results, 1.0)


@pytest.mark.parametrize("fault", ["BUG: soft lockup - CPU#0 stuck", "Oops: 0002 [#1] PREEMPT SMP"])
def test_a_whole_result_of_a_kernel_that_reported_a_fault_does_not_count(fault: str) -> None:
    with pytest.raises(wire.BrokenResultError, match=re.escape(fault)):
        play._read("job", boot(machine.FINISHED, console=f"[ 1.0] {fault}\n"))


@pytest.mark.parametrize(
    ("status", "complaint"),
    [
        (None, "the machine hung"),
        (0, "reset: a triple fault, or a reboot"),
        (-9, "killed by signal 9"),
        (1, "ended with status 1"),
        (machine.NO_MODULE, "a module did not load"),
        (machine.NOT_STARTED, "could not be started"),
        (machine.FAILED, "the player failed"),
    ],
)
def test_a_whole_result_of_a_machine_that_ended_badly_does_not_count(
    status: int | None, complaint: str
) -> None:
    with pytest.raises(wire.BrokenResultError, match=complaint):
        play._read("job", boot(status))


def test_a_good_end_without_a_whole_result_does_not_count() -> None:
    with pytest.raises(wire.BrokenResultError, match="no end mark after 0 bytes"):
        play._read("job", boot(machine.FINISHED, b""))
    with pytest.raises(wire.BrokenResultError, match="makes no sense"):
        play._read("job", boot(machine.FINISHED))
