# SPDX-License-Identifier: GPL-2.0-or-later
"""An emulated machine, and one boot of it. `machines` has those there are."""

import logging
import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from kvmharness.lab import distribution
from kvmharness.lab.errors import LabError
from kvmharness.lab.machines import snapshot as snapshots
from kvmharness.lab.machines.emulator import (
    ENDED_BY_KERNEL,
    RESULTS,
    SNAPSHOT,
    SNAPSHOT_CONSOLE,
    Emulator,
    MemoryFiles,
    Start,
    status_of,
)
from kvmharness.lab.machines.snapshot import Snapshot
from kvmharness.lab.machines.watch import Watch, kill

_LOG = logging.getLogger(__name__)

# What init reports (init.c has the same numbers), as a boot's status.
FINISHED, NO_MODULE, NOT_STARTED, FAILED = (status_of(number) for number in (0x20, 0x21, 0x22, 0x23))
_WORDS = {
    NO_MODULE: "a module did not load",
    NOT_STARTED: "the player could not be started",
    FAILED: "the player failed",
    ENDED_BY_KERNEL: "the machine was reset: a triple fault, or a reboot",
}

# Words of the kernel's command line that init reads (init.c has the same).
KVM_FIRST, _MODULES_LATER = "kvmharness.kvm_first", "kvmharness.modules_later"

# How long a machine may make no progress (see `watch`). A good boot is through in seconds.
HANG_AFTER_S = 60.0


_NONE: Mapping[str, bytes] = MappingProxyType({})


class StoppedError(Exception):
    """A machine was ended because nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class Machine:
    """An emulated machine: what emulates it, which vendor module its CPU wants, the kernel's command line.

    `counts_instructions` says that its time is a function of what it executes, and not the host's;
    `may_protect_tscs` that its KVM may have no say over its guests' TSCs. `nested` is the same machine on the
    host's own KVM, where there can be one. It hangs when it makes no progress in `hang_after_s` seconds that
    the host gives it, and is ended when `stop` is set. `slots` says how many of those that share it may run
    at a time (None: a kernel's run one after the other). `parameters` are those of KVM's modules, as
    MODULE.NAME=VALUE.
    """

    name: str
    summary: str
    emulator: Emulator
    vendor_module: str
    kernel_options: str
    counts_instructions: bool
    nested: "Machine | None" = None
    may_protect_tscs: bool = False
    hang_after_s: float = HANG_AFTER_S
    parameters: tuple[str, ...] = ()
    stop: threading.Event | None = field(default=None, compare=False, repr=False)
    slots: threading.Semaphore | None = field(default=None, compare=False, repr=False)

    @property
    def package(self) -> str:
        """The Debian packages that it needs."""
        return " ".join(self.emulator.packages)

    @property
    def keeps_tsc_stable(self) -> bool:
        """Whether no kernel has a reason to take the TSC for unstable, or another clock for its own.

        Nothing disturbs a machine that counts instructions, and its kernel is made to rely on the TSC.
        """
        return self.counts_instructions and "tsc=reliable" in self.kernel_options.split()

    def with_parameters(self, parameters: Sequence[str]) -> "Machine":
        """This machine with parameters of KVM's modules, which are part of its name."""
        if not parameters:
            return self
        return replace(
            self,
            name="+".join([self.name, *parameters]),
            # init hands them to the modules that it loads; the kernel itself does where KVM is built in.
            kernel_options=" ".join([self.kernel_options, *parameters]),
            parameters=tuple(parameters),
            nested=self.nested and self.nested.with_parameters(parameters),
        )

    @property
    def without_snapshots(self) -> "Machine":
        """This machine, booting every time."""
        return replace(self, emulator=self.emulator.without_snapshots)

    @property
    def elsewhere(self) -> "Machine":
        """This machine without what belongs to this process."""
        return replace(self, stop=None, slots=None)

    @property
    def loads_modules_later(self) -> bool:
        """Whether its snapshot is one of a kernel without KVM's modules, which it is given after that."""
        return _MODULES_LATER in self.kernel_options.split()

    @property
    def loading_modules_later(self) -> "Machine":
        """This machine, with a snapshot for all builds of a kernel's modules, where that can be."""
        if not self.emulator.keeps_snapshots or KVM_FIRST in self.kernel_options.split():
            return self
        return replace(self, kernel_options=f"{self.kernel_options} {_MODULES_LATER}")

    def snapshot_place(self, kernel: Path, image: bytes) -> Path | None:
        """Where a snapshot of this kernel with this image is kept; None if the machine keeps none."""
        if not self.emulator.keeps_snapshots:
            return None
        return snapshots.place(kernel, image, [*self.emulator.description, self.kernel_options])


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot: its status (what init reported, or else the emulator's own; negative: killed by that signal;
    None: ended by us, and `ended` says why), what the console said, what came over the result port, the wall
    time in seconds, and a snapshot to go on from, where one was left."""

    status: int | None
    console: str
    results: bytes
    seconds: float
    snapshot: Snapshot | None = None
    ended: str = ""

    @property
    def complaint(self) -> str:
        """Why this was no good boot, in words; "" if init reported that all went well."""
        if self.status == FINISHED:
            return ""
        if self.status is None:
            return self.ended or "the machine was ended before it was done"
        if self.status < 0:
            return f"the emulator was killed by signal {-self.status}"
        return _WORDS.get(self.status, f"the emulator ended with status {self.status}")


def check_emulator(machine: Machine) -> None:
    """LabError when something the machine needs is not installed."""
    emulator = machine.emulator
    for program, packages in ((emulator.program, emulator.packages), ("setpriv", ("util-linux",))):
        if shutil.which(program) is None:
            raise LabError(f"machine {machine.name} needs {program}: {distribution.install(*packages)}")
    missing = emulator.missing()
    if missing:
        raise LabError(f"machine {machine.name} needs {missing}")


def boot(
    machine: Machine,
    kernel: Path,
    image: bytes,
    job: bytes = b"",
    snapshot: Snapshot | None = None,
    *,
    modules: Mapping[str, bytes] = _NONE,
) -> Boot:
    """Boot a kernel once with this image and job, or go on from a snapshot of its earlier boot.

    A boot that leaves a snapshot ends there, and the job is done by resuming it. `modules` are for a machine
    that loads them later.

    Nothing touches the disk: what the emulator reads and writes are memory files that vanish with the
    processes. The emulator is killed when this process dies, however it dies. LabError when the machine
    cannot boot such a kernel, StoppedError when it was stopped.
    """
    check_emulator(machine)
    start = Start(kernel, image, machine.kernel_options, job, snapshot, modules)
    with MemoryFiles() as files:
        command = machine.emulator.command(files, start)
        begin = time.monotonic()
        status, output, ended = _run(machine, command, files, start)
        seconds = time.monotonic() - begin
        status, console = machine.emulator.result(files, status, output)
        earlier = snapshot.console if snapshot else b""
        said = (earlier + console).decode(errors="replace")
        booted = Boot(status, said, files.read(RESULTS), seconds, ended=ended)
        left = Snapshot(files.read(SNAPSHOT), files.read(SNAPSHOT_CONSOLE))
    # The console is written last, and never nothing.
    if snapshot or not left.console:
        return booted
    resumed = boot(machine, kernel, image, job, left, modules=modules)
    return replace(resumed, seconds=seconds + resumed.seconds, snapshot=left)


def _run(
    machine: Machine, command: list[str], files: MemoryFiles, start: Start
) -> tuple[int | None, bytes, str]:
    """The command's exit status (None: ended by us), what it printed, and why we ended it."""
    _LOG.debug("%s: %s", machine.name, shlex.join(command))
    # setpriv (util-linux): the kernel kills the emulator when the thread that started it is gone.
    # If that was before setpriv asked for it, the shell finds another parent.
    started = ["sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]
    watched = ["setpriv", "--pdeathsig", "KILL", "--", *started, *command]
    with subprocess.Popen(
        watched,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Ctrl-C on the terminal is for the harness, which takes the emulator with it.
        start_new_session=True,
        pass_fds=files.fds,
    ) as process:
        try:
            with Watch(process, files, machine.hang_after_s, machine.stop) as watch:
                output = machine.emulator.attend(files, start, process)
        except BaseException:
            kill(process)
            raise
    if machine.stop and machine.stop.is_set():
        raise StoppedError
    return None if watch.ended else process.returncode, output, watch.ended
