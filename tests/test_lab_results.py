# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes back from a lab machine, and which ends of it count."""

import dataclasses
import marshal
import re
import zlib
from binascii import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.lab import play
from kvmharness.lab.machines import machine, protocol
from kvmharness.script import Sleep
from kvmharness.trace import Bracket

# The result

RESULT = protocol.encode("job", ["probe", "6.1", [1, 2]]) + protocol.encode("job", protocol.END)


def test_a_whole_result_is_read() -> None:
    assert protocol.decode("job", RESULT) == [["probe", "6.1", [1, 2]]]


def test_no_part_of_a_result_passes_for_the_whole() -> None:
    for end in range(len(RESULT)):
        with pytest.raises(protocol.BrokenResultError):
            protocol.decode("job", RESULT[:end])


@given(st.integers(0, len(RESULT) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place: int, change: int) -> None:
    damaged = bytearray(RESULT)
    damaged[place] ^= change
    with pytest.raises(protocol.BrokenResultError):
        protocol.decode("job", bytes(damaged))


def test_another_jobs_result_is_not_this_ones() -> None:
    with pytest.raises(protocol.BrokenResultError, match="damaged"):
        protocol.decode("other", RESULT)


def test_a_frame_that_does_not_unpack_is_damaged_whatever_its_checksum_says() -> None:
    for content in (b"no zlib at all", zlib.compress(b""), zlib.compress(marshal.dumps([1, 2])[:-2])):
        frame = b"job %d %08x\n" % (len(content), crc32(content)) + content
        with pytest.raises(protocol.BrokenResultError, match="does not unpack"):
            protocol.decode("job", frame)


# The machine's end

JOB = play.Job("job", b"", {"probe": [{"op": "sleep", "ns": 5}]})


def boot(status: int | None, results: bytes = RESULT, console: str = "hello\n") -> machine.Boot:
    return machine.Boot(status, console, results, 1.0)


@pytest.mark.parametrize("fault", ["BUG: soft lockup - CPU#0 stuck", "Oops: 0002 [#1] PREEMPT SMP"])
def test_a_whole_result_of_a_kernel_that_reported_a_fault_does_not_count(fault: str) -> None:
    with pytest.raises(protocol.BrokenResultError, match=re.escape(fault)):
        play._read(JOB, boot(machine.FINISHED, console=f"[ 1.0] {fault}\n"))


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
    with pytest.raises(protocol.BrokenResultError, match=complaint):
        play._read(JOB, boot(status))


def test_a_good_end_without_a_whole_result_does_not_count() -> None:
    with pytest.raises(protocol.BrokenResultError, match="no end mark after 0 bytes"):
        play._read(JOB, boot(machine.FINISHED, b""))
    with pytest.raises(protocol.BrokenResultError, match="makes no sense"):
        play._read(JOB, boot(machine.FINISHED))


def frames(*contents: object) -> bytes:
    return b"".join(protocol.encode("job", content) for content in (*contents, protocol.END))


def test_a_step_is_put_together_with_what_it_was_asked_to_be() -> None:
    played = ["probe", "6.1", [{"tsc": [1, 9], "ns": [2, 8]}]]
    (trace,) = play._read(JOB, boot(machine.FINISHED, frames(played)))
    more = dataclasses.replace(JOB, scripts={**JOB.scripts, "young-restore": []})
    with pytest.raises(protocol.BrokenResultError, match="the result lacks young-restore"):
        play._read(more, boot(machine.FINISHED, frames(played)))
    assert trace.script == (Sleep(ns=5),)
    assert trace.events[0].bracket == Bracket(1, 2, 8, 9)


def test_a_trace_of_what_was_not_asked_for_makes_no_sense() -> None:
    step = {"tsc": [1, 9], "ns": [2, 8]}
    for played in (["other", "6.1", [step]], ["probe", "6.1", [step, step]]):
        with pytest.raises(protocol.BrokenResultError, match="makes no sense"):
            play._read(JOB, boot(machine.FINISHED, frames(played)))
