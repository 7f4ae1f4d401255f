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


def in_background(task: Callable[[], object], cpus: set[int]) -> _thread.LockType:
    """Call a task in a thread that may use these CPUs; the lock can be had once it is done."""

    def do() -> None:
        try:
            os.sched_setaffinity(0, cpus)
            task()
        finally:
            done.release()

    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(do, ())
    return done


def at_once(task: Callable[[int, int], object], calls: Sequence[tuple[int, int, int]]) -> None:
    """Call a task for each (CPU, and two arguments); back when all are done, when one's OSError is raised."""
    errors: list[OSError] = []

    def do(cpu: int, one: int, other: int, done: _thread.LockType) -> None:
        try:
            os.sched_setaffinity(0, {cpu})  # of this thread alone
            task(one, other)
        except OSError as error:
            errors.append(error)
        finally:
            done.release()

    running = []
    for call in calls:
        done = _thread.allocate_lock()
        done.acquire()
        running.append(done)
        _thread.start_new_thread(do, (*call, done))
    for done in running:
        done.acquire()
    if errors:
        raise errors[0]
