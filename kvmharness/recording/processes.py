# SPDX-License-Identifier: GPL-2.0-or-later
"""Which processes run a VMM."""

import psutil

from kvmharness.recording.tracer import RecordError

_MOST = 8


def find(name: str) -> int:
    """The process of that number, or the only one of that name. RecordError where there is not one."""
    if name.isascii() and name.isdigit():
        pid = int(name)
        if pid and psutil.pid_exists(pid):
            return pid
        raise RecordError(f"there is no process {name}")
    found = [each for each in psutil.process_iter(["name", "exe"]) if _is_called(each, name)]
    if not found:
        raise RecordError(f"no process is called {name}")
    if len(found) > 1:
        numbers = ", ".join(str(each.pid) for each in found[:_MOST])
        raise RecordError(f"{len(found)} processes are called {name}: say which ({numbers})")
    return int(found[0].pid)


def _is_called(process: psutil.Process, name: str) -> bool:
    exe = (process.info["exe"] or "").rpartition("/")[2]
    return name in (process.info["name"], exe)


def name_of(pid: int) -> str:
    """What a process is called, without its path; "" if it is gone or not to be asked."""
    try:
        exe = psutil.Process(pid).exe().rpartition("/")[2]
        return exe or str(psutil.Process(pid).name())
    except psutil.Error:
        return ""
