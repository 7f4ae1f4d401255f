# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels on the workers of a cluster: the verdicts of this machine, also where a worker is killed."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kvmharness.judging.verdict import Expectation
from kvmharness.lab.cluster import ClusterExecutor
from kvmharness.lab.executor import LabExecutor
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.lab.runs import Finished, Matrix
from kvmharness.scenarios import SCENARIOS
from tests import clusters
from tests.clusters import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.full]

PLAYED = list(SCENARIOS.values())[:10]
# So often the two kernels are played; a worker is killed when so many of these plays are done.
TIMES, KILLED_AFTER = 4, 5
SPECS = ("debian:6.1", "debian:6.12") * TIMES


def verdicts(finished: Finished) -> dict[str, str]:
    assert finished.played, finished.trouble
    return {each.scenario: each.verdict.value for each in finished.played.results}


def played(
    found: Sequence[Kernel], executor: LabExecutor | None, midst: Callable[[], None] = lambda: None
) -> tuple[list[Finished], float]:
    """What came of all of them, and how long that took, in seconds."""
    begin = time.monotonic()
    boots = [(each, AMD) for each in found]
    with Matrix(boots, PLAYED, Expectation(), executor) as matrix:
        for done, _ in enumerate(matrix, 1):
            if done == KILLED_AFTER:
                midst()
        return matrix.finished, time.monotonic() - begin


def on_cluster(cluster: Cluster, say: Callable[[str], None]) -> ClusterExecutor:
    return ClusterExecutor(cluster.address, say)


def test_two_workers_find_what_one_machine_finds_and_one_killed_in_the_midst_costs_no_result(
    tmp_path: Path, kernel: Callable[[str], Kernel]
) -> None:
    found = [kernel(spec) for spec in SPECS]
    here, _ = played(found[:2], None)
    said: list[str] = []
    with clusters.started(tmp_path, 2) as cluster:
        played(found[:4], on_cluster(cluster, said.append))  # leaves snapshots on the workers
        both, both_s = played(found, on_cluster(cluster, said.append))
        assert said == []
        victim = cluster.worker_processes[0]
        killed, killed_s = played(
            found, on_cluster(cluster, said.append), lambda: os.kill(victim, signal.SIGKILL)
        )
    expected = [verdicts(each) for each in here] * TIMES
    assert [verdicts(each) for each in both] == expected
    assert [verdicts(each) for each in killed] == expected
    assert len(said) == 1
    assert "was lost; others play what it had: debian:6.1" in said[0]
    notes = [note for each in both if each.played for note in each.played.notes]
    assert sum("played by " in note and "qemu-system-x86_64 " in note for note in notes) == len(both)
    assert killed_s <= 1.6 * both_s
