# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces as JSON Lines, whole and broken."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmharness import script
from kvmharness.script import (
    CreateVcpu,
    GetTscKhz,
    GuestWrite,
    MoveThread,
    Operation,
    Ppm,
    SetTscKhz,
    SetVmTscKhz,
    Sleep,
)
from kvmharness.trace import Bracket, Event, Trace, TraceError, from_lines, from_played, to_lines
from tests.strategies import traces

GOOD = Trace(
    "young-restore",
    "6.1.0",
    (
        Event(CreateVcpu(vcpu=0), Bracket(10, 5, 6, 20), (2_000_000,)),
        Event(Sleep(ns=50), Bracket(30, 7, 8, 40)),
    ),
)


@given(st.lists(traces, max_size=3))
def test_traces_survive_json_lines(written: list[Trace]) -> None:
    lines = [line for trace in written for line in to_lines(trace)]
    assert list(from_lines(lines)) == written


def test_a_step_reads_like_the_documentation_says() -> None:
    _, first, second, end = to_lines(GOOD)
    assert json.loads(first) == {
        "op": {"op": "create_vcpu", "vcpu": 0, "guest": "rdtsc-16"},
        "tsc": [10, 20],
        "ns": [5, 6],
        "values": [2_000_000],
    }
    assert json.loads(second) == {"op": {"op": "sleep", "ns": 50}, "tsc": [30, 40], "ns": [7, 8]}
    assert json.loads(end) == {"end": 2}


@pytest.mark.parametrize("kept", range(1, 4))
def test_a_trace_that_is_cut_off_is_not_read(kept: int) -> None:
    with pytest.raises(TraceError, match="no end mark: cut off"):
        list(from_lines(list(to_lines(GOOD))[:kept]))


@pytest.mark.parametrize(
    ("line", "text", "complaint"),
    [
        (0, "{}", "line 1: not the header of a trace"),
        (0, '{"trace": 1, "scenario": "a"}', "line 1: the header has no release"),
        (1, "[]", "line 2: not a JSON object"),
        (1, "{", "line 2: not JSON"),
        (1, "[" * 100_000, "line 2: not JSON"),
        (1, '{"op": {"op": "sleep", "ns": 1}}', "line 2: not a step"),
        (1, '{"op": {"op": "sleep", "ns": 1}, "tsc": [2, 1], "ns": [1, 2]}', "not brackets"),
        (1, '{"op": {"op": "sleep", "ns": 1}, "tsc": [1], "ns": [1, 2]}', "not brackets"),
        (1, '{"op": {"op": "sleep", "ns": 1}, "tsc": [-1, 1], "ns": [1, 2]}', "whole numbers from 0"),
        (1, '{"op": {"op": "sleep", "ns": 1}, "tsc": [1, 2], "ns": [1, 2], "errno": "EEK"}', "no errno"),
        (1, '{"op": {"op": "hop"}, "tsc": [1, 2], "ns": [1, 2]}', "line 2: no operation is called 'hop'"),
        (3, '{"end": 3}', "line 4: the end mark counts 3 steps, 2 are there"),
        (1, " " * 2_000_000, "line 2: longer than"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(line: int, text: str, complaint: str) -> None:
    lines = list(to_lines(GOOD))
    lines[line] = text
    with pytest.raises(TraceError, match=complaint):
        list(from_lines(lines))


@settings(max_examples=500)
@given(st.data())
def test_a_mutated_trace_is_read_or_refused_but_never_crashes(data: st.DataObject) -> None:
    text = bytearray("\n".join(to_lines(GOOD)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.integers(0, 127))
    lines = text.decode().split("\n")
    try:
        read = list(from_lines(lines))
    except TraceError:
        return
    # What was read is a trace again: writing and reading it changes nothing more.
    assert list(from_lines([line for trace in read for line in to_lines(trace)])) == read


def test_what_the_player_returns_becomes_a_trace() -> None:
    step = {"op": {"op": "sleep", "ns": 50}, "tsc": [30, 40], "ns": [7, 8]}
    assert from_played("s", "r", [step]) == Trace("s", "r", (Event(Sleep(ns=50), Bracket(30, 7, 8, 40)),))
    with pytest.raises(TraceError, match="no operation is called"):
        from_played("s", "r", [{**step, "op": {"op": "hop"}}])


@pytest.mark.parametrize(
    ("operation", "well", "failed"),
    [
        (SetTscKhz(vcpu=0, khz=Ppm(200)), {1}, {0, 1}),
        (GetTscKhz(vcpu=0), {1}, {0, 1}),
        (SetVmTscKhz(khz=5), {1}, {0, 1}),
        (MoveThread(to=1), {2}, {0, 2}),
        (GuestWrite(vcpu=0, msr="TSC", value=5), {1, 2, 3}, {0, 1, 2, 3}),
        (Sleep(ns=50), {0}, {0}),
    ],
    ids=lambda each: each.name if isinstance(each, Operation) else "",
)
def test_a_step_has_as_many_values_as_its_operation(
    operation: Operation, well: set[int], failed: set[int]
) -> None:
    for error, counts in (("", well), ("EINVAL", failed)):
        for count in range(5):
            step = {"op": script.to_json(operation), "tsc": [1, 2], "ns": [1, 2], "values": [7] * count}
            step |= {"errno": error} if error else {}
            if count in counts:
                assert len(from_played("s", "r", [step]).events[0].values) == count
            else:
                with pytest.raises(TraceError, match=f"cannot have {count} values"):
                    from_played("s", "r", [step])
