# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU as the lab's emulator: it loads kernel and image by itself, and its exit status is what init says.

A QEMU that keeps snapshots gets its orders through its monitor. That the player is ready it learns as an
event of the device pvpanic, and as another when the player goes on (init.c, hold_still). Paused in
between, the machine's state goes into a memory file, as it would to another host in a migration. A host
too busy for that in time has no snapshot this time.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kvmharness.lab.machines import emulator, nested
from kvmharness.lab.machines.emulator import (
    CONSOLE,
    RESULTS,
    SNAPSHOT,
    SNAPSHOT_CONSOLE,
    MemoryFiles,
    Start,
)
from kvmharness.lab.machines.qmp import CommandRefusedError, EndedError, Monitor

# What all of QEMU's machines have in common. The calendar is the machine's own: setting the host's does not
# reach into it.
_COMMON = (
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
    *("-machine", "pc", "-m", "512"),
    *("-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"),
    *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
    # Also where nobody listens to it: with one device less a machine is another, and so is all that it does.
    *("-device", "pvpanic", "-action", "panic=none"),
)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_S = 0.002
_OVER = ("completed", "failed", "cancelled")
_READY, _WENT_ON = "GUEST_PANICKED", "GUEST_CRASHLOADED"


@dataclass(frozen=True, slots=True)
class Qemu:
    """QEMU with these arguments beside those that all of the lab's machines have.

    `nested_by` names the vendor module that is to run inside on the host's own KVM; "" for emulation.
    """

    arguments: tuple[str, ...]
    keeps_snapshots: bool = False
    nested_by: str = ""
    programs: tuple[str, ...] = ("qemu-system-x86_64", "qemu-kvm", "/usr/libexec/qemu-kvm")
    packages: tuple[str, ...] = ("qemu-system-x86",)

    @property
    def program(self) -> str:
        """What this host calls it: the first of `programs` that is there, or the first."""
        return emulator.first_there(self.programs)

    def missing(self) -> str:
        """Where it takes the host's KVM: that, with guests that can have guests."""
        return nested.missing(self.nested_by) if self.nested_by else ""

    @property
    def description(self) -> list[str]:
        """The program as it is on this host, and its arguments."""
        program = Path(shutil.which(self.program) or self.program)
        found = program.stat()
        described = [str(program), str(found.st_size), str(found.st_mtime_ns), *_COMMON, *self.arguments]
        if "-icount" not in self.arguments:
            # The machine's TSC is the host's, and its kernel took the rate of that when it booted.
            described.append(_BOOT_ID.read_text())
        return described

    @property
    def without_snapshots(self) -> "Qemu":
        """The same, booting every time."""
        return replace(self, keeps_snapshots=False)

    def command(self, files: MemoryFiles, start: Start) -> list[str]:
        """QEMU's command line."""
        ports = ("-serial", f"file:{files.add(CONSOLE)}", "-serial", f"file:{files.add(RESULTS)}")
        image = ("-kernel", str(start.kernel), "-initrd", files.add("initrd", (0, start.image)))
        job = f"name=opt/kvmharness/job,file={files.add('job', (0, start.job))}"
        return [
            *(self.program, *_COMMON, *self.arguments, *ports, *image),
            *("-append", start.kernel_options),
            *(("-fw_cfg", job) if start.job else ()),
            *_modules(files, start),
            *(self._monitored(files, start) if self.keeps_snapshots else ()),
        ]

    def attend(self, files: MemoryFiles, start: Start, process: "subprocess.Popen[bytes]") -> bytes:
        """Where there is a job: go on from the snapshot, or leave one in `files`."""
        if not self.keeps_snapshots:
            return process.communicate()[0]
        monitor = Monitor(process)
        try:
            monitor.execute("qmp_capabilities")
            if start.snapshot:
                while monitor.execute("query-status")["status"] == "inmigrate":
                    time.sleep(_POLL_S)
                monitor.execute("cont")
            elif start.job:
                self._leave_snapshot(files, monitor)
        except EndedError:
            pass  # the status tells
        except CommandRefusedError:
            process.kill()  # it may be one that stands still
        return monitor.rest()

    def result(self, files: MemoryFiles, status: int | None, output: bytes) -> tuple[int | None, bytes]:
        """The status as it is: a kernel that panics makes QEMU exit with 0.

        What QEMU printed itself follows the kernel's words.
        """
        return status, files.read(CONSOLE) + output

    @staticmethod
    def _monitored(files: MemoryFiles, start: Start) -> tuple[str, ...]:
        monitored = ("-qmp", "stdio")
        if start.snapshot:
            files.add(SNAPSHOT, (0, start.snapshot.state))
            return (*monitored, "-incoming", f"exec:exec cat {_path_for_others(files, SNAPSHOT)}")
        files.add(SNAPSHOT)
        files.add(SNAPSHOT_CONSOLE)
        return monitored

    @staticmethod
    def _leave_snapshot(files: MemoryFiles, monitor: Monitor) -> None:
        monitor.wait_for(_READY)
        monitor.execute("stop")
        if not monitor.has_seen(_WENT_ON):
            # By default a migration takes no more than 128 MiB a second.
            try:
                monitor.execute("migrate-set-parameters", **{"max-bandwidth": 2**40})
                monitor.execute("migrate", uri=f"exec:exec cat > {_path_for_others(files, SNAPSHOT)}")
                while (status := monitor.execute("query-migrate")["status"]) not in _OVER:
                    time.sleep(_POLL_S)
            except CommandRefusedError:
                status = "refused"
            if status == "completed":
                # From here on every run is one from the snapshot, this one too: QEMU rounds the times of some
                # devices to their own ticks when it goes on from one.
                files.write(SNAPSHOT_CONSOLE, files.read(CONSOLE) or b"\n")
                monitor.execute("quit")
        monitor.execute("cont")


def _modules(files: MemoryFiles, start: Start) -> Iterator[str]:
    """The modules as files of fw_cfg, which lists them in the order of their names."""
    for number, (name, content) in enumerate(start.modules.items()):
        path = files.add(f"module {number}", (0, content))
        yield from ("-fw_cfg", f"name=opt/kvmharness/modules/{number:02}/{name},file={path}")


def _path_for_others(files: MemoryFiles, name: str) -> str:
    """A path by which a process that did not inherit the file can open it, as long as this one lives."""
    return f"/proc/{os.getpid()}/fd/{files.fd(name)}"
