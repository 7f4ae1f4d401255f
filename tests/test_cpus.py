# SPDX-License-Identifier: GPL-2.0-or-later
"""How many CPUs this process may use, and how many machines run at a time."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvmharness.judging.session import Session
from kvmharness.judging.verdict import Expectation
from kvmharness.lab import cpus, play
from kvmharness.lab.executor import LocalExecutor
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.runs import Matrix
from kvmharness.scenarios import SCENARIOS, Scenario
from tests.command_line import Capture, one_line, status_of
from tests.limits import GIVE_UP_S
from tests.made_up import session
from tests.made_up_kernels import put


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight CPUs, all of which this process may use."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.usefixtures("eight_cpus")
def test_without_a_quota_all_cpus_of_the_affinity_mask_are_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cpus.usable(tmp_path) == 8
    put(tmp_path / "proc/self/cgroup", "0::/\n")
    put(tmp_path / "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert cpus.usable(tmp_path) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 7})
    assert cpus.usable(tmp_path) == 2


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("cgroup", "files", "usable"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "250000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000"}, 1),
        (
            "3:cpu,cpuacct:/a\n2:cpuset:/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000", "cpu,cpuacct/a/cpu.cfs_period_us": "200000"},
            2,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
    ],
)
def test_a_quota_of_the_cgroup_or_of_one_above_it_counts(
    tmp_path: Path, cgroup: str, files: dict[str, str], usable: int
) -> None:
    put(tmp_path / "proc/self/cgroup", cgroup)
    for name, content in files.items():
        put(tmp_path / "sys/fs/cgroup" / name, f"{content}\n")
    assert cpus.usable(tmp_path) == usable


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize("jobs", [None, 1, 3])
def test_as_many_machines_run_at_a_time_as_there_are_cpus_to_use_or_jobs_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    expected = jobs or 2
    # Nobody goes on until as many have come together as may run; with more, some would be left over.
    together = threading.Barrier(expected)
    running: list[int] = []
    most: list[int] = []

    def play_there(kernel: Kernel, machine: Machine, scenarios: Sequence[Scenario]) -> Session:
        running.append(1)
        most.append(len(running))
        together.wait(GIVE_UP_S)
        running.pop()
        together.wait(GIVE_UP_S)
        return session(scenarios)

    monkeypatch.setattr(play, "play", play_there)
    kernel = Kernel("made-up", "6.1.0", tmp_path, {})
    scenarios = [SCENARIOS["old-restore"]]
    with Matrix([(kernel, AMD)] * expected * 2, scenarios, Expectation(), LocalExecutor(jobs)) as matrix:
        assert all(each.played for each in matrix)
    assert max(most) == expected


def test_what_still_runs_at_the_end_of_the_block_is_told_to_stop_and_the_rest_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, told = threading.Event(), threading.Event()

    def play_there(kernel: Kernel, machine: Machine, scenarios: Sequence[Scenario]) -> Session:
        assert machine.stop
        begun.set()
        if machine.stop.wait(GIVE_UP_S):
            told.set()
        return session(scenarios)

    monkeypatch.setattr(play, "play", play_there)
    kernel = Kernel("made-up", "6.1.0", tmp_path, {})
    with Matrix([(kernel, AMD)] * 3, [SCENARIOS["old-restore"]], Expectation(), LocalExecutor(1)) as matrix:
        assert begun.wait(GIVE_UP_S)
        assert (matrix.finished, len(matrix.unfinished)) == ([], 3)
        begun.clear()
    assert told.wait(GIVE_UP_S)
    assert not begun.is_set()


@pytest.mark.parametrize("words", ["0", "-1", "many", "1e3", "9999999"])
def test_a_number_of_jobs_that_is_none_is_one_line(capsys: Capture, words: str) -> None:
    assert status_of("lab", "run", "debian:6.1", f"--jobs={words}") == 2
    assert "is not a number from 1 to 999" in one_line(capsys.readouterr().err)
