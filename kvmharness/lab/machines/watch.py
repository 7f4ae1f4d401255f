# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks after a running emulator, and ends it when nothing good will come of it any more.

A machine hangs when it makes no progress: nothing on its console and nothing of a result, for a time in which
it could have. That time is what the host gave it, not the clock's on the wall: while the emulator waits for a
CPU or for the disk, or is stopped, a machine can do nothing, and it may sleep as long as its script says. A
console that reports a fault of the kernel's ends a boot, too: no result of it would count.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab.machines import console
from kvmharness.lab.machines.emulator import CONSOLE, MemoryFiles

_PERIOD_S = 0.25
# A kernel that reports a fault goes on with its registers and the way there. After so long without another
# word, or in all, it is done (seconds that the host gave it).
_QUIET_S, _MOST_S = 1.5, 15.0
# A console that says more than this never ends.
_MOST_CONSOLE = 64 << 20
# States of a thread that waits for something that is not its own doing (proc(5)): for the disk, or SIGCONT.
_HELD = ("D", "T", "t")


class Watch:
    """Watches the process of an emulator while a `with` block runs. `ended` says in words why it was ended;
    "" if it was not.

    `hang_after_s` is how long the machine may make no progress, in seconds that the host gave it; `stop` ends
    it whenever it is set.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        files: MemoryFiles,
        hang_after_s: float,
        stop: threading.Event | None = None,
    ) -> None:
        self.ended = ""
        self._process = process
        self._files = files
        self._hang_after_s = hang_after_s
        self._stop = stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        spent = Spent(self._process.pid)
        read = 0
        sizes: tuple[int, ...] = ()
        idle_s = since_fault_s = 0.0
        faulty = False
        while not self._over.wait(_PERIOD_S):
            given_s = spent.since_last()
            before, sizes = sizes, self._files.sizes
            idle_s = 0.0 if sizes != before else idle_s + given_s
            said = self._files.read(CONSOLE, read)
            whole = said[: said.rfind(b"\n") + 1]
            read += len(whole)
            since_fault_s += given_s if faulty else 0.0
            faulty = faulty or console.worst(whole.decode(errors="replace")) is not None
            if self._stop and self._stop.is_set():
                self._end("it was interrupted")
            elif faulty and (idle_s >= _QUIET_S or since_fault_s >= _MOST_S):
                self._end("the kernel reported a fault")
            elif read > _MOST_CONSOLE:
                self._end("the machine's console did not end")
            elif idle_s >= self._hang_after_s:
                self._end(f"the machine hung: no progress in {self._hang_after_s:g} s that the host gave it")
            else:
                continue
            return

    def _end(self, why: str) -> None:
        if not self._over.is_set() and self._process.returncode is None:
            self.ended = why
            kill(self._process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the emulator and all that it has started: they are a session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class _Use:
    """What a process' threads had of the host's CPUs so far, and waited for them, in ns; and whether one is
    held up by something else."""

    ran_ns: int
    waited_ns: int
    held: bool


class Spent:
    """The time that the host gives a process to do something in."""

    def __init__(self, pid: int) -> None:
        self._tasks = Path("/proc", str(pid), "task")
        self._before = self._use()
        self._then_s = time.monotonic()

    def since_last(self) -> float:
        """Seconds since the last time, as far as the process could have done something in them.

        A process that sleeps could have; one that waited for a CPU half of the time could in the other half.
        """
        now_s = time.monotonic()
        # When this thread itself was held up, so was all else.
        passed_s = min(now_s - self._then_s, 2 * _PERIOD_S)
        use, before = self._use(), self._before
        self._before, self._then_s = use, now_s
        ran, waited = use.ran_ns - before.ran_ns, use.waited_ns - before.waited_ns
        if use.held or before.held or ran < 0 or waited < 0:
            return 0.0
        return passed_s * ran / (ran + waited) if waited else passed_s

    def _use(self) -> _Use:
        ran = waited = 0
        held = False
        for state, schedule in self._threads():
            # Linux, Documentation/scheduler/sched-stats.rst: time on the CPU, time on a runqueue, both in ns.
            ran, waited = ran + int(schedule[0]), waited + int(schedule[1])
            held |= state in _HELD
        return _Use(ran, waited, held)

    def _threads(self) -> Iterator[tuple[str, list[str]]]:
        with suppress(OSError):
            for task in self._tasks.iterdir():
                with suppress(OSError, ValueError, IndexError):  # gone meanwhile
                    state = (task / "stat").read_text().rpartition(")")[2].split()[0]
                    schedule = (task / "schedstat").read_text().split()
                    yield state, [schedule[0], schedule[1]]
