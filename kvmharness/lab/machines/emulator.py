# SPDX-License-Identifier: GPL-2.0-or-later
"""What every emulator has in common: how the lab starts one, and how it learns how that ended."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from kvmharness.lab.machines.snapshot import Snapshot


def status_of(reported: int) -> int:
    """What a boot's status is when init reported this number.

    It is the exit status that QEMU's isa-debug-exit makes of it, for every emulator; 0, which it never
    is, stands for a kernel that ended the machine without a word of init.
    """
    return (reported << 1) | 1


ENDED_BY_KERNEL = 0


def first_there(programs: Sequence[str]) -> str:
    """The first of these programs that this host has; the first of all if it has none."""
    return next((program for program in programs if shutil.which(program)), programs[0])


_PIECE = 1 << 20
# QEMU answers to --version, Bochs to --help.
_VERSION = re.compile(r"(?:version|Emulator) (\d+(?:\.\d+)+)")


class MemoryFiles:
    """Files without a place on the disk, for one boot: they are gone with the processes that have them open.

    The emulator inherits them (`fds`) and finds them by the paths that `add` gives.
    """

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def __enter__(self) -> "MemoryFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in self.fds:
            os.close(fd)

    @property
    def fds(self) -> Sequence[int]:
        """The files' descriptors."""
        return tuple(self._fds.values())

    def fd(self, name: str) -> int:
        """The descriptor of the file called `name`."""
        return self._fds[name]

    def add(self, name: str, *pieces: tuple[int, bytes]) -> str:
        """A new file's path. Each piece is written at its place, and zeros are between them."""
        fd = self._fds[name] = os.memfd_create(name, os.MFD_CLOEXEC)
        with os.fdopen(os.dup(fd), "wb") as file:
            for place, content in pieces:
                file.seek(place)
                file.write(content)
        return f"/proc/self/fd/{fd}"

    def write(self, name: str, content: bytes) -> None:
        """Have the file called `name` hold this and nothing else."""
        os.ftruncate(self._fds[name], 0)
        with os.fdopen(os.dup(self._fds[name]), "wb") as file:
            file.seek(0)
            file.write(content)

    def read(self, name: str, begin: int = 0) -> bytes:
        """All that the file called `name` holds now, from a place on; nothing if there is none."""
        if name not in self._fds:
            return b""
        content = bytearray()
        while piece := os.pread(self._fds[name], _PIECE, begin + len(content)):
            content += piece
        return bytes(content)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How much each file holds now, in bytes."""
        return tuple(os.fstat(fd).st_size for fd in self._fds.values())


@dataclass(frozen=True, slots=True)
class Start:
    """What a machine starts with: an ELF kernel or bzImage, the initial file system without a job, the
    kernel's command line, and the job (b"" for none: a bare boot). With a `snapshot` of just these, but for
    the job, it goes on from there. `modules`, by name, are those that a machine with
    `keeps_snapshots` loads after that, in this order."""

    kernel: Path
    image: bytes
    kernel_options: str
    job: bytes = b""
    snapshot: Snapshot | None = None
    modules: Mapping[str, bytes] = field(default_factory=dict)


class Emulator(Protocol):
    """A program that emulates a PC, configured. What comes out of the machine's first serial port has to
    arrive in the memory file CONSOLE, and what comes out of the second in RESULTS."""

    @property
    def description(self) -> list[str]:
        """All that makes a snapshot fit this emulator and no other."""

    @property
    def keeps_snapshots(self) -> bool:
        """Whether a run with a job may end with a snapshot left in the memory files SNAPSHOT and, if it is a
        whole one, SNAPSHOT_CONSOLE; and whether one can be gone on from."""

    @property
    def program(self) -> str:
        """The program's name."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The Debian packages it comes in."""

    @property
    def without_snapshots(self) -> "Emulator":
        """This emulator, neither leaving nor taking snapshots."""

    def missing(self) -> str:
        """What it needs beside its program and does not find on this host, and what helps; "" if nothing."""

    def command(self, files: MemoryFiles, start: Start) -> list[str]:
        """The command that boots this, with what it needs put into `files`; LabError when the kernel is
        none it can boot."""

    def attend(self, files: MemoryFiles, start: Start, process: "subprocess.Popen[bytes]") -> bytes:
        """Do what the running emulator wants done until it ends; all that it printed. Its standard input
        and output are pipes, and its errors are among its output."""

    def result(self, files: MemoryFiles, status: int | None, output: bytes) -> tuple[int | None, bytes]:
        """A boot's status and what the kernel's console said. `status` is how the emulator ended (negative:
        by that signal, None: hung and killed by us), `output` what it printed."""


CONSOLE, RESULTS, SNAPSHOT, SNAPSHOT_CONSOLE = "console", "results", "snapshot", "snapshot-console"


def version_of(program: str) -> str:
    """A program's version as it says it; "" where it does not."""
    for option in ("--version", "--help"):
        try:
            done = subprocess.run(
                [program, option],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        found = _VERSION.search(done.stdout + done.stderr)
        if found:
            return found[1]
    return ""
