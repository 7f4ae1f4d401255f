# SPDX-License-Identifier: GPL-2.0-or-later
"""Broken, truncated and hostile trace files: exit 2 and one line, or a report; never a traceback, never
more than a gibibyte or ten seconds of a CPU."""

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmharness import script
from kvmharness.cli.main import main
from kvmharness.contract import ClockClaim, Status
from kvmharness.model.arithmetic import cycles
from kvmharness.report import FORMATS
from kvmharness.trace import MAX_IN_A_FILE, Bracket, Event, Trace, TraceError, from_lines, to_lines
from tests.limits import GIVE_UP_S
from tests.mutations import mutate
from tests.random_traces import Chance, good_file
from tests.worst_traces import WORST

# What may become of one file, however hostile it is: seconds of CPU time, since others may keep the CPU busy.
MAX_SECONDS = 10
MAX_MEMORY = 2**30


class TookTooLongError(BaseException):
    """Not an Exception, so that nothing on the way takes it for a fault of its own."""


@pytest.fixture
def within_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The memory there is while a test runs; faults of kvmharness itself come as they are."""
    monkeypatch.setenv("KVMHARNESS_DEBUG", "1")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judged(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `kvmharness judge`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), time_limit():
        status = main(["judge", *arguments])
    return status, out.getvalue(), err.getvalue()


def play(seed: int, count: int, path: Path) -> Counter[int]:
    """Judge so many mutations; how many ended with which exit status. What fails is left in `path`."""
    chance, statuses = Chance(seed), Counter[int]()
    files = [good_file(chance) for _ in range(40)]
    for number in range(count):
        if number % 50 == 0:
            files[chance.randrange(len(files))] = good_file(chance)
        path.write_bytes(mutate(chance.choice(files), chance))
        status, out, err = judged("--format", chance.choice(sorted(FORMATS)), str(path))
        statuses[status] += 1
        ends_well = (not out and err.count("\n") == 1) if status == 2 else (out and not err)
        assert ends_well, f"mutation {number} of seed {seed}, see {path}: status {status}, {err!r}"
        assert status in (0, 1, 2, 4), f"mutation {number} of seed {seed}, see {path}: status {status}"
    return statuses


def _reaches_all_ends(statuses: Counter[int]) -> bool:
    """Whether all ways to end were reached, and none nearly always; else a test would show little."""
    return set(statuses) == {0, 1, 2, 4} and max(statuses.values()) < 0.8 * statuses.total()


@pytest.mark.parametrize(
    "seed",
    [217423, *(pytest.param(seed, marks=pytest.mark.full) for seed in (217425, 217427))],
)
@pytest.mark.usefixtures("within_limits")
def test_mutated_traces_are_judged_or_refused_in_one_line(seed: int, tmp_path: Path) -> None:
    assert _reaches_all_ends(play(seed, 400, tmp_path / "young-restore.jsonl"))


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.usefixtures("within_limits")
def test_a_hundred_thousand_mutated_traces_are_judged_or_refused_in_one_line(
    seed: int, tmp_path: Path
) -> None:
    assert _reaches_all_ends(play(seed, 10_000, tmp_path / "young-restore.jsonl"))


def judged_alone(path: Path) -> subprocess.CompletedProcess[str]:
    """`kvmharness judge` in a process that has no more memory and time than it may take."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))

    return subprocess.run(
        [sys.executable, "-m", "kvmharness", "judge", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=GIVE_UP_S,
        preexec_fn=limit,
        env={**os.environ, "KVMHARNESS_DEBUG": "1"},
    )


@pytest.mark.full
@pytest.mark.parametrize("name", WORST)
def test_the_worst_files_are_done_with_within_a_gibibyte_and_ten_seconds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "young-restore.jsonl"
    path.write_text(WORST[name]())
    done = judged_alone(path)
    assert done.returncode in (0, 1, 2, 4), done.stderr
    assert done.stderr.count("\n") == (1 if done.returncode == 2 else 0), done.stderr


def test_a_file_holds_no_more_than_so_many_traces_and_characters() -> None:
    empty = list(to_lines(Trace("a", "", ())))
    assert len(list(from_lines(empty * 100))) == 100
    with pytest.raises(TraceError, match="line 201: more than 100 traces in one file"):
        list(from_lines(empty * 101))
    wide = [line + " " * 900_000 for line in empty]
    assert len(list(from_lines(wide * 11))) == 11
    with pytest.raises(TraceError, match="line 23: more than 20000000 characters in one file"):
        list(from_lines(wide * 12))


def test_a_file_holds_no_more_than_so_many_values_and_steps() -> None:
    samples = Event(script.Run(vcpu=0), Bracket(1, 1, 1, 1), (7,) * 255)
    waits = Event(script.Sleep(ns=1), Bracket(1, 1, 1, 1))
    most = MAX_IN_A_FILE["values"] // 255
    assert list(from_lines(to_lines(Trace("a", "", (samples,) * most))))
    with pytest.raises(TraceError, match="more than 100000 values in one file"):
        list(from_lines(to_lines(Trace("a", "", (samples,) * (most + 1)))))
    one, long = (
        list(to_lines(Trace("a", "", (waits,) * 1_000))),
        list(to_lines(Trace("a", "", (waits,) * 10_000))),
    )
    assert len(list(from_lines(one + long))) == 2
    with pytest.raises(TraceError, match="line 11006: more than 11000 steps in one file"):
        list(from_lines(one + long + one))


def test_a_line_that_is_nested_too_deeply_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Newer Pythons parse what is nested deeper than they themselves may call.
    value: Any = 1
    for _ in range(5_000):
        value = {"read": "tsc", "plus": value}
    header = {"trace": 1, "scenario": "a", "release": ""}
    step = {"op": {"op": "set_tsc_offset", "vcpu": 0, "offset": value}, "tsc": [1, 1], "ns": [1, 1]}
    parsed = iter((header, step))
    monkeypatch.setattr("kvmharness.trace.json.loads", lambda line: next(parsed))
    with pytest.raises(TraceError, match="line 2: nested too deeply"):
        list(from_lines(["", ""]))


def test_a_label_on_another_operation_than_the_claims_leaves_it_undecided() -> None:
    claim = ClockClaim(text="the clock is stable", seen="clock", stable=True)
    odd = Event(script.GetTscKhz(vcpu=0, label="clock"), Bracket(1, 1, 1, 1), (2_000_000,))
    assert claim.check(Trace("a", "", (odd,))).status is Status.UNDECIDED


def test_no_khz_are_no_cycles_and_no_endless_loop() -> None:
    with time_limit():
        assert cycles(10**9, 0) == 0


@pytest.mark.parametrize("odd", [None, 0, False, [], {}, 22, "EEK"])
def test_an_errno_is_a_name_or_not_there(odd: Any) -> None:
    step = {"op": {"op": "get_clock"}, "tsc": [1, 1], "ns": [1, 1], "errno": odd}
    with pytest.raises(TraceError, match="no errno is called"):
        list(from_lines(['{"trace":1,"scenario":"a","release":""}', json.dumps(step), '{"end":1}']))
