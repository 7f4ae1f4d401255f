# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs for a cluster's workers that show where, and with what, they run."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from tests.limits import GIVE_UP_S


@dataclass(frozen=True, slots=True)
class Seen:
    """What a job found where it ran."""

    process: int
    folder: str
    vmlinux: bytes
    has_slots: bool
    has_stop: bool


def seen(kernel: Kernel, machine: Machine) -> Seen:
    """What there is of a kernel and a machine."""
    has_stop = machine.stop is not None and not machine.stop.is_set()
    return Seen(
        os.getpid(), str(kernel.folder), kernel.vmlinux.read_bytes(), machine.slots is not None, has_stop
    )


def trouble(error: Exception) -> None:
    """The error is raised."""
    raise error


def until_stopped(folder: Path, machine: Machine) -> None:
    """Wait until the machine is to stop; files say that it begins, and that it was stopped."""
    (folder / "begun").touch()
    end = time.monotonic() + GIVE_UP_S
    while machine.stop is not None and time.monotonic() < end:
        if machine.stop.is_set():
            (folder / "stopped").touch()
            return
        time.sleep(0.02)


def number(folder: Path, number: int) -> tuple[int, int]:
    """The number and this process' id, once there is a file `go`; that it begins is a file, too."""
    (folder / f"{number}-{os.getpid()}").touch()
    wait_for(folder / "go")
    return number, os.getpid()


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + GIVE_UP_S
    while not path.exists():
        assert time.monotonic() < end, f"there still is no {path.name}"
        time.sleep(0.02)


def wait_for_any(folder: Path, count: int) -> None:
    """Wait until so many files are in a folder."""
    end = time.monotonic() + GIVE_UP_S
    while len(list(folder.iterdir())) < count:
        assert time.monotonic() < end, f"there still are not {count} files"
        time.sleep(0.02)
