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


def at_once(tasks: Sequence[tuple[int, Callable[[], object]]]) -> None:
    """Do each task on its CPU, and come back when all are done; the first OSError of one is raised then."""
    errors: list[OSError] = []
    running = []
    for cpu, task in tasks:
        done = _thread.allocate_lock()
        done.acquire()
        running.append(done)
        _thread.start_new_thread(_do, (cpu, task, done, errors))
    for done in running:
        done.acquire()
    if errors:
        raise errors[0]


def _do(cpu: int, task: Callable[[], object], done: _thread.LockType, errors: list[OSError]) -> None:
    try:
        os.sched_setaffinity(0, {cpu})  # of this thread alone
        task()
    except OSError as error:
        errors.append(error)
    finally:
        done.release()
