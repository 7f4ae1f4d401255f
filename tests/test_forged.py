# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces that no player can have recorded are refused in one line, or inconclusive: no PASS, no FAIL."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from kvmharness.model.simulate import HOST
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Place, Trace, to_lines
from tests.command_line import Capture, one_line, status_of
from tests.made_up import session

AMD = Place("debian:6.1", "amd", "a session", may_protect_tscs=False, counts_instructions=True)
# What it is worth without a forgery, on which rule.
GOOD = {"old-restore": ("mainline-6.7", "PASS"), "young-restore": ("mainline-before-6.7", "FAIL")}

Lines = list[dict[str, Any]]
Traces = list[Lines]


def played(scenario: str, policy: str, **more: Any) -> Traces:
    """The traces of a session, each as its lines; the scenario's is the last."""
    traces = session([SCENARIOS[scenario]], policy, place=AMD, **more).everything
    return [in_lines(each) for each in traces]


def in_lines(trace: Trace) -> Lines:
    return [json.loads(line) for line in to_lines(trace)]


def judged(traces: Traces, folder: Path, capsys: Capture) -> set[str]:
    """The verdicts; "refused" for one line and status 2."""
    path = folder / "forged.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for lines in traces for line in lines))
    capsys.readouterr()
    status = status_of("judge", "--format", "json", str(path))
    out, error = capsys.readouterr()
    if status == 2:
        one_line(error)
        return {"refused"}
    found = {each["verdict"] for kernel in json.loads(out)["kernels"] for each in kernel["results"]}
    assert (status == 4) is not (found & {"PASS", "FAIL", "XFAIL"} != set())
    return found


@pytest.fixture(params=GOOD)
def good(request: pytest.FixtureRequest) -> Traces:
    scenario: str = request.param
    return played(scenario, GOOD[scenario][0])


@pytest.mark.parametrize("scenario", GOOD)
def test_without_a_forgery_there_is_a_verdict(scenario: str, tmp_path: Path, capsys: Capture) -> None:
    policy, verdict = GOOD[scenario]
    assert judged(played(scenario, policy), tmp_path, capsys) == {verdict}


def a_bracket_before_the_one_before(traces: Traces) -> Iterator[Traces]:
    """For each step but the first of each trace: its clocks, one or both, are those of long before."""
    for number, place in _later_steps(traces):
        for clocks in _CLOCKS:
            yield _long_before(traces, number, place, clocks)


def a_bracket_before_the_one_before_in_turn(traces: Traces) -> Iterator[Traces]:
    """The same with one choice of clocks for each step, one after the other."""
    for (number, place), clocks in zip(_later_steps(traces), cycle(_CLOCKS), strict=False):
        yield _long_before(traces, number, place, clocks)


_CLOCKS = (("tsc",), ("ns",), ("tsc", "ns"))


def _later_steps(traces: Traces) -> list[tuple[int, int]]:
    """The number of each trace and the places in it of all steps but its first."""
    return [(number, place) for number, lines in enumerate(traces) for place in range(2, len(lines) - 1)]


def _long_before(traces: Traces, number: int, place: int, clocks: Sequence[str]) -> Traces:
    forged = copy.deepcopy(traces)
    for clock in clocks:
        begin, end = forged[number][place][clock]
        forged[number][place][clock] = [begin - 10**9, end - 10**9]
    return forged


def clocks_of_another_boot(traces: Traces) -> Iterator[Traces]:
    """The scenario was played on a machine that is up for longer, or for less long, than the probe's."""
    for clock, by in (("tsc", 10**11), ("tsc", -(10**11)), ("ns", 10**11), ("ns", -(10**11))):
        forged = copy.deepcopy(traces)
        for line in forged[-1][1:-1]:
            line[clock] = [each + by for each in line[clock]]
        yield forged


def clocks_of_another_rate(traces: Traces) -> Iterator[Traces]:
    """The scenario was played on a machine whose TSC is faster by half."""
    forged = copy.deepcopy(traces)
    for line in forged[-1][1:-1]:
        line["tsc"] = [each * 3 // 2 for each in line["tsc"]]
    yield forged


def a_probe_that_lacks_something(traces: Traces) -> Iterator[Traces]:
    for number in range(len(traces) - 1):
        yield [*traces[:number], *traces[number + 1 :]]


def traces_twice(traces: Traces) -> Iterator[Traces]:
    """A trace twice in one session, or the probe twice and one of them without a scenario."""
    yield [*traces, traces[-1]]
    for number in range(len(traces) - 1):
        yield [*traces[: number + 1], traces[number], *traces[number + 1 :]]


def headers_that_disagree(traces: Traces) -> Iterator[Traces]:
    """A trace of another kernel, machine, session; or of none."""
    for number in range(len(traces)):
        for key, value in (
            *(("kernel", "debian:6.12"), ("machine", "intel"), ("session", "another")),
            *(("may_protect_tscs", True), ("counts_instructions", False)),
        ):
            forged = copy.deepcopy(traces)
            forged[number][0]["place"][key] = value
            yield forged
        forged = copy.deepcopy(traces)
        del forged[number][0]["place"]
        yield forged
        forged = copy.deepcopy(traces)
        forged[number][0]["release"] = "another"
        yield forged


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(a_bracket_before_the_one_before, marks=pytest.mark.full),
        a_bracket_before_the_one_before_in_turn,
        clocks_of_another_boot,
        clocks_of_another_rate,
        a_probe_that_lacks_something,
        traces_twice,
        headers_that_disagree,
    ],
)
def test_what_no_player_can_have_recorded_has_no_verdict(
    forge: Callable[[Traces], Iterator[Traces]], good: Traces, tmp_path: Path, capsys: Capture
) -> None:
    forgeries = list(forge(good))
    assert forgeries
    for number, forged in enumerate(forgeries):
        assert judged(forged, tmp_path, capsys) <= {"refused", "INCONCLUSIVE"}, number


@pytest.mark.parametrize("scenario", GOOD)
def test_the_probe_of_a_faster_machine_says_nothing_of_a_trace(
    scenario: str, tmp_path: Path, capsys: Capture
) -> None:
    policy, _ = GOOD[scenario]
    faster = played(scenario, policy, host=replace(HOST, khz=3_000_000))
    mine = played(scenario, policy)
    assert judged([*faster[:-1], mine[-1]], tmp_path, capsys) == {"INCONCLUSIVE"}
