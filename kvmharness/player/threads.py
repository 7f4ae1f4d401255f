# SPDX-License-Identifier: GPL-2.0-or-later
"""Several things done at once, each in a thread of its own on a CPU of its own.

By the _thread module: importing threading takes an emulated CPU longer than a scenario.
"""

from __future__ import annotations

import _thread
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class PlayerError(Exception):
    """A thread of the player failed, and not by an errno: a fault of ours, so what it did says nothing."""


class Running:
    """A task in a thread of its own."""

    def __init__(self, task: Callable[[], object]) -> None:
        self._failed: BaseException | None = None
        self._done = _thread.allocate_lock()
        self._done.acquire()
        _thread.start_new_thread(self._do, (task,))

    def _do(self, task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:  # it would end here, and the step would be recorded as done
            self._failed = error
        finally:
            self._done.release()

    def wait(self) -> BaseException | None:
        """Wait until it is done, once; what it failed with, if it did."""
        self._done.acquire()
        return self._failed


def in_background(task: Callable[[], object], cpus: set[int]) -> Running:
    """Call a task in a thread that may use these CPUs."""

    def do() -> None:
        _leave_for(cpus)
        task()

    return Running(do)


def _leave_for(cpus: set[int]) -> None:
    """Go on on one of these CPUs; where they are all offline by now, on any."""
    try:
        os.sched_setaffinity(0, cpus)  # of this thread alone
    except OSError:
        return


def at_once(task: Callable[[int, int], object], calls: Sequence[tuple[int, int, int]]) -> None:
    """Call a task for each (CPU, and two arguments); back when all are done, when one's error is raised."""

    def on(cpu: int, one: int, other: int) -> Callable[[], object]:
        def do() -> None:
            os.sched_setaffinity(0, {cpu})
            task(one, other)

        return do

    running = [Running(on(*call)) for call in calls]
    check([each.wait() for each in running])


def check(failures: Sequence[BaseException | None]) -> None:
    """Raise what threads failed with: a fault of the player first, else the first OSError."""
    for error in failures:
        if error is not None and not isinstance(error, OSError):
            text = f"a thread of the player failed: {type(error).__name__}: {error}"
            raise PlayerError(text) from error
    for error in failures:
        if error is not None:
            raise error
