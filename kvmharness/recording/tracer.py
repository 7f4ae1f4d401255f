# SPDX-License-Identifier: GPL-2.0-or-later
"""Recording a VMM: a command that is started, or a process that runs (cdefs/tracer.c)."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmharness import __version__
from kvmharness.recording._tracer import ffi, lib

VERSION = 1
_EVERY_S = 1.0
_SIGNALS = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP}


class RecordError(Exception):
    """Nothing can be recorded; the text says why, in a line."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a recording is: ioctls and lines so far, VMs and vCPUs seen so far, threads that live."""

    ioctls: int
    lines: int
    vms: int
    vcpus: int
    threads: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording that is over.

    `status` is the exit status of the command as a shell says it (128 and the signal's number if a signal
    ended it), None for a process that ran already. `unwritten` says why the file is not whole, or "".
    """

    progress: Progress
    status: int | None
    unwritten: str


Watch = Callable[[Progress], None]


def record_command(command: Sequence[str], output: Path, watch: Watch, head: dict[str, Any]) -> Recorded:
    """Run a command and record it and its children to a file until all have ended.

    `watch` is called from another thread now and then. `head` is what the file says of the recording at its
    top. RecordError if the command cannot start.
    """
    words = [ffi.new("char[]", os.fsencode(word)) for word in command]
    argv = ffi.new("char *[]", [*words, ffi.NULL])
    return _record(lambda fd, state: lib.record_command(argv, fd, state), command[0], output, watch, head)


def record_process(pid: int, output: Path, watch: Watch, head: dict[str, Any]) -> Recorded:
    """Record a process that runs, and its children, until all have ended or a signal says to stop.

    RecordError if it cannot be traced.
    """
    return _record(
        lambda fd, state: lib.record_process(pid, fd, state), f"process {pid}", output, watch, head
    )


def _record(
    follow: Callable[[int, Any], int], what: str, output: Path, watch: Watch, head: dict[str, Any]
) -> Recorded:
    former = _put_aside(output)
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        _write(fd, {"recording": VERSION, "made_by": f"kvmharness {__version__}", **head})
        state = ffi.new("struct recording *")
        with _watched(state, watch):
            error = -follow(fd, state)
        if error:
            if former:
                os.replace(former, output)
            else:
                os.unlink(output)
            raise RecordError(f"cannot record {what}: {_reason(error)}")
        status = _shell_status(state.exit_status)
        ended = "its process ended, or was let go" if status is None else f"the command exited with {status}"
        if not state.write_error:
            _write(fd, {"end": ended, "lines": state.lines, "ioctls": state.ioctls})
        if former:
            os.unlink(former)
        unwritten = os.strerror(state.write_error) if state.write_error else ""
        return Recorded(_progress(state), status, unwritten)
    finally:
        os.close(fd)


def _put_aside(output: Path) -> Path | None:
    """Rename a file that a recording is about to replace: it is lost only once there is another."""
    if not output.is_file():
        return None
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    os.replace(output, aside)
    return aside


def _reason(error: int) -> str:
    reason = os.strerror(error)
    if error != 1:  # EPERM
        return reason
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if scope.exists() and (said := scope.read_text().strip()) != "0":
        return f"{reason} ({scope} is {said}: only a command can be recorded, or anything as root)"
    return f"{reason} (only processes of your own that nobody else traces can be recorded)"


def _write(fd: int, data: dict[str, Any]) -> None:
    os.write(fd, (json.dumps(data) + "\n").encode())


def _shell_status(status: int) -> int | None:
    if status < 0:
        return None
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _progress(state: Any) -> Progress:
    return Progress(state.ioctls, state.lines, state.vms, state.vcpus, state.traced)


@contextmanager
def _watched(state: Any, watch: Watch) -> Iterator[None]:
    """Have `watch` called while the block runs. Signals are for the thread that runs the block."""
    over = threading.Event()

    def show() -> None:
        while not over.wait(_EVERY_S):
            watch(_progress(state))

    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    thread = threading.Thread(target=show)
    thread.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, former)
    try:
        yield
    finally:
        over.set()
        thread.join()
