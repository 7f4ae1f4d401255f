# SPDX-License-Identifier: GPL-2.0-or-later
"""Clusters of this machine's own: a scheduler and workers, each a process that a test may kill."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.limits import GIVE_UP_S

ROOT = Path(__file__).parent.parent


class Cluster:
    """A scheduler and the workers that a test starts, with `cache` as their cache; see started()."""

    def __init__(self, folder: Path, security: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._security = security
        self._processes: list[subprocess.Popen[bytes]] = []
        self.cache = folder / "cache"
        self.cache.mkdir()
        protocol = "tls" if security else "tcp"
        written = folder / "scheduler.json"
        self._start(
            *("scheduler", "--protocol", protocol, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--scheduler-file", str(written)),
        )
        self.file = written

    @property
    def address(self) -> str:
        """The scheduler's."""
        return str(json.loads(self.file.read_text())["address"])

    @property
    def workers_there(self) -> int:
        """How many workers have found the scheduler."""
        return sum(b"Registered to" in log.read_bytes() for log in self._folder.glob("log-*"))

    @property
    def worker_processes(self) -> list[int]:
        """The workers' process ids, in the order in which they were started."""
        return [each.pid for each in self._processes[1:]]

    def start_worker(self) -> None:
        """One more worker, which runs one call at a time."""
        self._start(
            *(
                "worker",
                "--scheduler-file",
                str(self.file),
                "--nthreads",
                "1",
                "--no-dashboard",
                "--no-nanny",
            ),
            *("--local-directory", str(self._folder), "--death-timeout", "60"),
        )

    def _start(self, *arguments: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "dask", *arguments]
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.cache), "PYTHONPATH": str(ROOT)}
        log = (self._folder / f"log-{len(self._processes)}").open("wb")
        with log:
            process = subprocess.Popen(
                [*command, *self._security], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        self._processes.append(process)

    def stop(self) -> None:
        """End all of it."""
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def started(folder: Path, workers: int, security: tuple[str, ...] = ()) -> Iterator[Cluster]:
    """A cluster of so many workers, all of which are there."""
    cluster = Cluster(folder, security)
    try:
        _wait_until(cluster.file.exists)
        for _ in range(workers):
            cluster.start_worker()
        _wait_until(lambda: cluster.workers_there == workers)
        yield cluster
    finally:
        cluster.stop()


def _wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + GIVE_UP_S
    while not holds():
        assert time.monotonic() < end, "the cluster still is not there"
        time.sleep(0.05)
