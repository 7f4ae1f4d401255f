# SPDX-License-Identifier: GPL-2.0-or-later
"""When a machine is given up: with programs in the emulator's place that do what an emulator may do."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kvmharness.lab.machines import machine, watch
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.lab.machines.emulator import CONSOLE, RESULTS, MemoryFiles, Start
from kvmharness.lab.machines.machine import FINISHED, Boot, StoppedError
from kvmharness.lab.machines.watch import Spent
from tests.made_up_kernels import put

FOREVER = "while True: time.sleep(1)"
BUSY = "while True: pass"


@dataclass(frozen=True)
class MadeUp:
    """A Python program for an emulator, which says things on the console by say()."""

    does: str
    program: str = sys.executable
    packages: tuple[str, ...] = ()
    keeps_snapshots: bool = False

    @property
    def description(self) -> list[str]:
        return []

    @property
    def without_snapshots(self) -> "MadeUp":
        return self

    def missing(self) -> str:
        return ""

    def command(self, files: MemoryFiles, start: Start) -> list[str]:
        console, results = files.add(CONSOLE), files.add(RESULTS)
        head = (
            "import os, signal, sys, time\n"
            f"console, results = (open(path, 'ab', buffering=0) for path in {(console, results)!r})\n"
            "def say(text): console.write(text.encode() + b'\\n')\n"
        )
        return [self.program, "-c", f"{head}{self.does}\n"]

    def attend(self, files: MemoryFiles, start: Start, process: "subprocess.Popen[bytes]") -> bytes:
        return process.communicate()[0]

    def result(self, files: MemoryFiles, status: int | None, output: bytes) -> tuple[int | None, bytes]:
        return status, files.read(CONSOLE) + output


def booted(does: str, hang_after_s: float = 3600, stop: threading.Event | None = None) -> Boot:
    on = replace(AMD, emulator=MadeUp(does), hang_after_s=hang_after_s, stop=stop)
    return machine.boot(on, Path(), b"")


@pytest.mark.parametrize("does", [FOREVER, BUSY])
def test_a_machine_that_does_nothing_with_its_time_hangs(does: str) -> None:
    boot = booted(does, hang_after_s=0.5)
    assert boot.status is None
    assert boot.complaint == "the machine hung: no progress in 0.5 s that the host gave it"


@pytest.mark.parametrize("port", ["console", "results"])
def test_a_machine_that_makes_progress_hangs_never_however_long_it_takes(port: str) -> None:
    slowly = f"for _ in range(12): time.sleep(0.25); {port}.write(b'x\\n')"
    boot = booted(f"{slowly}\nsys.exit({FINISHED})", hang_after_s=2)
    assert boot.complaint == ""
    assert boot.seconds > 2


def test_an_emulator_that_somebody_stopped_does_not_hang() -> None:
    stops = "if not os.fork(): time.sleep(3); os.kill(os.getppid(), signal.SIGCONT); os._exit(0)"
    boot = booted(f"{stops}\nos.kill(os.getpid(), signal.SIGSTOP)\nsys.exit({FINISHED})", hang_after_s=2)
    assert boot.complaint == ""
    assert boot.seconds > 2


@pytest.mark.parametrize(
    "line",
    [
        "[    1.4] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [python3:1]",
        "[    1.4] Oops: 0002 [#1] PREEMPT SMP NOPTI",
        "[    1.4] Kernel panic - not syncing: Fatal exception",
    ],
)
@pytest.mark.parametrize("does", [FOREVER, BUSY])
def test_a_console_that_reports_a_fault_ends_the_boot_and_is_read_to_its_end(line: str, does: str) -> None:
    boot = booted(f"say('hello')\nsay({line!r})\nsay('RIP: 0010:kvm_synchronize_tsc')\n{does}")
    assert boot.complaint == "the kernel reported a fault"
    assert boot.console.splitlines() == ["hello", line, "RIP: 0010:kvm_synchronize_tsc"]


def test_a_kernel_that_ends_the_machine_behind_its_fault_is_not_ended_by_us() -> None:
    assert booted("say('[    1.4] Oops: 0002 [#1]')\nsys.exit(0)").status == 0


def test_a_fault_that_is_reported_without_end_ends_the_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_MOST_S", 0.5)
    assert booted("while True: say('BUG: it'); time.sleep(0.1)").complaint == "the kernel reported a fault"


def test_a_console_without_end_ends_the_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_MOST_CONSOLE", 1 << 16)
    assert booted("while True: say('x' * 1000); time.sleep(0.001)").complaint.endswith("did not end")


def test_a_machine_that_nobody_waits_for_any_more_is_ended() -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(StoppedError):
        booted(FOREVER, stop=stop)


# The time that the host gives a process


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., float]:
    """What a process of two threads was given of a quarter of a second, having run and waited so long."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def show(state: str, ran_ns: int, waited_ns: int) -> None:
        for task in ("1", "2"):
            put(tmp_path / task / "stat", f"{task} (a name) {state} 1 2 3\n")
            put(tmp_path / task / "schedstat", f"{ran_ns // 2} {waited_ns // 2} 1\n")

    def of(ran_s: float, waited_s: float, state: str = "R", passed_s: float = 0.25) -> float:
        show("R", 1000, 1000)
        spent = Spent(1)
        spent._tasks = tmp_path
        spent.since_last()
        now[0] += passed_s
        show(state, 1000 + int(ran_s * 1e9), 1000 + int(waited_s * 1e9))
        return spent.since_last()

    return of


def test_a_process_that_runs_or_sleeps_has_all_the_time(given: Callable[..., float]) -> None:
    assert given(0.25, 0) == 0.25
    assert given(0, 0, "S") == 0.25


def test_one_that_waits_for_a_cpu_has_what_it_gets(given: Callable[..., float]) -> None:
    assert given(0.05, 0.2) == pytest.approx(0.05)
    assert given(0.001, 0.249) == pytest.approx(0.001)


@pytest.mark.parametrize("state", ["T", "t", "D"])
def test_one_that_is_held_up_by_others_has_none(given: Callable[..., float], state: str) -> None:
    assert given(0, 0, state) == 0


def test_where_the_watch_was_held_up_so_was_the_machine(given: Callable[..., float]) -> None:
    assert given(0, 0, "S", passed_s=3600) <= 1
