# SPDX-License-Identifier: GPL-2.0-or-later
"""Where plays run: an executor takes a function and its arguments, and calls it when there is a CPU for it.

On this machine that is LocalExecutor, on others ClusterExecutor (`cluster`). Everything that plays more than
one kernel gives its plays to one of these, and knows nothing else of where they run.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from kvmharness.lab import cpus
from kvmharness.lab.machines.emulator import version_of
from kvmharness.lab.machines.machine import Machine

P = ParamSpec("P")
T = TypeVar("T")


class LabExecutor(Executor):
    """An executor for plays in machines; `jobs` is how many calls run at a time.

    A Machine among a call's arguments arrives with the `slots` and the `stop` of the place where the call
    runs.
    """

    jobs: int

    def emulators(self, machines: Sequence[Machine]) -> list[str]:
        """The programs that emulate these machines there, each with its version where that is known."""
        raise NotImplementedError


class LocalExecutor(LabExecutor):
    """Runs calls in threads of this process, each of which mostly waits for its emulator.

    `jobs` are as many as this process may use CPUs, if None are given.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs or cpus.usable()
        self._stop = threading.Event()
        self._slots = threading.Semaphore(self.jobs)
        self._pool = ThreadPoolExecutor(max_workers=self.jobs)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have the function called with these arguments."""
        here: Any = [self._here(each) for each in args]
        return self._pool.submit(fn, *here, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. With `cancel_futures` machines that run are ended, and what has not begun never
        will."""
        if cancel_futures:
            self._stop.set()
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def emulators(self, machines: Sequence[Machine]) -> list[str]:
        """The programs that emulate these machines here."""
        programs = dict.fromkeys(machine.emulator.program for machine in machines)
        return [f"{program} {version_of(program)}".rstrip() for program in programs]

    def _here(self, argument: object) -> object:
        if not isinstance(argument, Machine):
            return argument
        return replace(argument, stop=self._stop, slots=self._slots)
