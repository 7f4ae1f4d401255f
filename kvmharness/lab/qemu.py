# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU as the lab's emulator: it loads kernel and image by itself, and its exit status is what init says."""

from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab.emulator import RESULTS, MemoryFiles

# What all of QEMU's machines have in common. Without cx16 because with it a 6.12 kernel crashed in most
# boots under QEMU 7.2. The calendar is the machine's own: setting the host's does not reach into it.
_COMMON = (
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
    *("-machine", "pc", "-cpu", "max,-cx16", "-m", "512"),
    *("-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"),
    *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
)


@dataclass(frozen=True, slots=True)
class Qemu:
    """QEMU with these arguments beside those that all of the lab's machines have."""

    arguments: tuple[str, ...]
    program: str = "qemu-system-x86_64"
    packages: tuple[str, ...] = ("qemu-system-x86",)

    def missing(self) -> str:
        """Nothing: QEMU comes whole."""
        return ""

    def command(self, files: MemoryFiles, kernel: Path, initrd: bytes, kernel_options: str) -> list[str]:
        """QEMU's command line; the console is its standard output."""
        serial_ports = ("-serial", "stdio", "-serial", f"file:{files.add(RESULTS)}")
        image = ("-kernel", str(kernel), "-initrd", files.add("initrd", (0, initrd)))
        return [
            *(self.program, *_COMMON, *self.arguments, *serial_ports, *image),
            *("-append", kernel_options),
        ]

    def result(self, files: MemoryFiles, status: int | None, output: bytes) -> tuple[int | None, bytes]:
        """Both as they are: a kernel that panics makes QEMU exit with 0."""
        return status, output
