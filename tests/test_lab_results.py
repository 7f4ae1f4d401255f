# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes back from a lab machine, and which ends of it count."""

import dataclasses
import json
import marshal
import re
import resource
import zlib
from binascii import crc32
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.judging.probe import HOST
from kvmharness.lab import play
from kvmharness.lab.machines import machine, protocol
from kvmharness.lab.machines.results import BrokenResultError, decode
from kvmharness.script import Sleep
from kvmharness.trace import Bracket

# The result

CONTENT = ["probe", "6.1", [{"tsc": [1, 9], "errno": "EIO"}]]
RESULT = protocol.encode("job", CONTENT) + protocol.encode("job", protocol.END)


def packed(data: bytes) -> bytes:
    """A frame with these bytes in the place of a content, whose length and checksum are right."""
    content = zlib.compress(data)
    return b"job %d %08x\n" % (len(content), crc32(content)) + content


def test_a_whole_result_is_read() -> None:
    assert list(decode("job", RESULT)) == [CONTENT]


texts = st.text(st.characters(exclude_characters="\"'\\", max_codepoint=126, min_codepoint=32), max_size=9)
contents = st.recursive(
    st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)


@given(contents.filter(lambda content: content != protocol.END))
def test_what_a_machine_may_write_comes_out_as_it_went_in(content: Any) -> None:
    assert list(decode("job", protocol.encode("job", content) + protocol.encode("job", "end"))) == [content]


@given(st.text(st.characters(codec=None)))
def test_any_text_at_all_can_be_made_plain_enough(text: str) -> None:
    plain_text = protocol.plain(text)
    assert list(decode("job", protocol.encode("job", [plain_text]) + protocol.encode("job", "end"))) == [
        [plain_text]
    ]
    assert len(plain_text) == len(text)


def test_what_a_kernel_is_called_stays_as_it_is() -> None:
    assert protocol.plain("6.12.117+deb13-cloud_amd64~x (a) #1") == "6.12.117+deb13-cloud_amd64~x (a) #1"


def test_no_part_of_a_result_passes_for_the_whole() -> None:
    for end in range(len(RESULT)):
        with pytest.raises(BrokenResultError):
            list(decode("job", RESULT[:end]))


@given(st.integers(0, len(RESULT) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place: int, change: int) -> None:
    damaged = bytearray(RESULT)
    damaged[place] ^= change
    with pytest.raises(BrokenResultError):
        list(decode("job", bytes(damaged)))


def test_another_jobs_result_is_not_this_ones() -> None:
    with pytest.raises(BrokenResultError, match="damaged"):
        list(decode("other", RESULT))


def test_nothing_comes_after_the_end_mark() -> None:
    with pytest.raises(BrokenResultError, match="goes on after its end mark"):
        list(decode("job", RESULT + RESULT))


def test_a_frame_that_does_not_unpack_is_damaged_whatever_its_checksum_says() -> None:
    for content in (b"no zlib at all", zlib.compress(b""), zlib.compress(json.dumps([1, 2]).encode()[:-1])):
        frame = b"job %d %08x\n" % (len(content), crc32(content)) + content
        with pytest.raises(BrokenResultError, match="does not unpack"):
            list(decode("job", frame))


# A machine's kernel, and so the patch on the desk, may write whatever it likes into the result.


@pytest.fixture
def within_a_gibibyte() -> Iterator[None]:
    # Of what the process has already, which ran other tests before.
    before = resource.getrlimit(resource.RLIMIT_DATA)
    had = psutil.Process().memory_info().data
    resource.setrlimit(resource.RLIMIT_DATA, (had + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def test_nothing_but_plain_data_is_made_of_what_a_machine_wrote() -> None:
    code = compile("1 + 1", "somewhere", "eval")
    for hostile in (marshal.dumps(code), marshal.dumps([1, 2]), b"[NaN", b"[" + b"9" * 5_000 + b"]"):
        with pytest.raises(BrokenResultError, match="does not unpack"):
            list(decode("job", packed(hostile)))


@pytest.mark.usefixtures("within_a_gibibyte")
@pytest.mark.parametrize(
    "hostile",
    [
        *(b"[" * 10_000_000, b"[" * 2_000 + b"]" * 2_000, b"[" + b"[]," * 5_000_000 + b"0]"),
        *(b"[" + b"{}," * 50_000_000 + b"0]", b'"' + b"x" * 100_000_000 + b'"'),
    ],
    ids=["open", "deep", "lists", "dicts", "text"],
)
def test_what_unpacks_to_very_much_is_broken_or_makes_no_sense(hostile: bytes) -> None:
    with pytest.raises(BrokenResultError, match=r"does not unpack|makes no sense"):
        play._read(JOB, boot(machine.FINISHED, packed(hostile) + protocol.encode("job", protocol.END)))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)
keys = st.sampled_from(["tsc", "ns", "values", "errno", "op", "odd"])
steps = st.dictionaries(keys, st.lists(st.integers(0, 9) | plain, max_size=3) | plain) | plain
nearly = st.tuples(
    st.just(HOST) | plain,
    st.just("6.1") | plain,
    st.lists(steps, max_size=2) | plain,
).map(list)


@given(st.lists(nearly | plain, max_size=3))
def test_whatever_a_machine_writes_is_a_trace_or_a_broken_result(written: list[Any]) -> None:
    frames_of_it = b"".join(packed(json.dumps(each).encode()) for each in (*written, protocol.END))
    try:
        traces = play._read(JOB, boot(machine.FINISHED, frames_of_it))
    except BrokenResultError:
        return
    assert [each.scenario for each in traces] == [HOST]


@given(st.binary(max_size=200) | st.binary(max_size=200).map(packed))
def test_any_bytes_at_all_are_a_broken_result(data: bytes) -> None:
    with pytest.raises(BrokenResultError):
        play._read(JOB, boot(machine.FINISHED, data))


# The machine's end

PROBE, RELEASE = HOST, "6.1"
JOB = play.Job("job", b"", {"probe": [{"op": "sleep", "ns": 5}]})


def boot(status: int | None, results: bytes = RESULT, console: str = "hello\n") -> machine.Boot:
    return machine.Boot(status, console, results, 1.0, ended="the machine hung")


@pytest.mark.parametrize("fault", ["BUG: soft lockup - CPU#0 stuck", "Oops: 0002 [#1] PREEMPT SMP"])
def test_a_whole_result_of_a_kernel_that_reported_a_fault_does_not_count(fault: str) -> None:
    with pytest.raises(BrokenResultError, match=re.escape(fault)):
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
    with pytest.raises(BrokenResultError, match=complaint):
        play._read(JOB, boot(status))


def test_a_good_end_without_a_whole_result_does_not_count() -> None:
    with pytest.raises(BrokenResultError, match="no end mark after 0 bytes"):
        play._read(JOB, boot(machine.FINISHED, b""))
    with pytest.raises(BrokenResultError, match="makes no sense"):
        play._read(JOB, boot(machine.FINISHED))


def frames(*contents: object) -> bytes:
    return b"".join(protocol.encode("job", content) for content in (*contents, protocol.END))


# When the VM was created.
CREATED = {"tsc": [0, 0], "ns": [1, 1]}


def test_a_step_is_put_together_with_what_it_was_asked_to_be() -> None:
    played = [PROBE, RELEASE, CREATED, [{"tsc": [1, 9], "ns": [2, 8]}], {"clocksource": "tsc"}]
    (trace,) = play._read(JOB, boot(machine.FINISHED, frames(played)))
    more = dataclasses.replace(JOB, scripts={**JOB.scripts, "young-restore": []})
    with pytest.raises(BrokenResultError, match="the result lacks young-restore"):
        play._read(more, boot(machine.FINISHED, frames(played)))
    assert trace.script == (Sleep(ns=5),)
    assert trace.host == {"clocksource": "tsc"}
    assert trace.events[0].bracket == Bracket(1, 2, 8, 9)
    assert trace.created == Bracket(0, 1, 1, 0)


def test_a_trace_of_what_was_not_asked_for_makes_no_sense() -> None:
    step = {"tsc": [1, 9], "ns": [2, 8]}
    for played in (
        ["other", RELEASE, CREATED, [step], {}],
        [PROBE, RELEASE, CREATED, [step, step], {}],
        [PROBE, RELEASE, CREATED, [step], [7]],
        [PROBE, RELEASE, CREATED, [step], {"clocksource": 7}],
        [PROBE, RELEASE, {"tsc": [0]}, [step], {}],
        [PROBE, RELEASE, [step], {}],
    ):
        with pytest.raises(BrokenResultError, match="makes no sense"):
            play._read(JOB, boot(machine.FINISHED, frames(played)))


def test_a_script_that_is_there_twice_is_a_broken_result() -> None:
    played = [PROBE, RELEASE, CREATED, [{"tsc": [1, 9], "ns": [2, 8]}], {}]
    with pytest.raises(BrokenResultError, match="the result holds a script twice"):
        play._read(JOB, boot(machine.FINISHED, frames(played, played)))


def test_a_step_is_what_it_was_asked_to_be_whatever_the_machine_says() -> None:
    played = [PROBE, RELEASE, CREATED, [{"tsc": [1, 9], "ns": [2, 8], "op": {"op": "get_clock"}}], {}]
    (trace,) = play._read(JOB, boot(machine.FINISHED, frames(played)))
    assert trace.script == (Sleep(ns=5),)
