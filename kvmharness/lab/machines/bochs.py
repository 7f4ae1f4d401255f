# SPDX-License-Identifier: GPL-2.0-or-later
"""Bochs as the lab's emulator: an Intel CPU with VMX, EPT and TSC scaling.

Bochs knows nothing of kernels, but it can fill memory from a file before the machine starts, and it takes
any file for the machine's ROM. So kernel and image lie in memory from the beginning, and the ROM is a few
instructions that enter the kernel: no BIOS, no disk, no boot loader, and not a file outside of memory.

How the machine ends: `init` writes its number to Bochs' debugging port, which puts it on Bochs' standard
output, and then asks for the end at another port.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kvmharness.guests.program import Instruction, code_of
from kvmharness.lab import distribution
from kvmharness.lab.machines import emulator, initramfs, pvh
from kvmharness.lab.machines.emulator import CONSOLE, ENDED_BY_KERNEL, RESULTS, MemoryFiles, Start, status_of

_ROM_SIZE = 0x10000
# The ROM ends where the addresses of 32 bits do, and so does the first instruction that a CPU executes.
_ROM_PLACE = 2**32 - _ROM_SIZE
_FIRST_INSTRUCTION = 0xFFF0
_GDT, _GDT_POINTER = 0x100, 0x120
_CODE_32, _DATA_32 = 8, 16

# Instructions of Bochs' CPU are its cycles too: so many pass in a second of the machine's time.
HZ = 50_000_000
_MEMORY = 256 << 20

_REPORT = re.compile(rb"^kvmharness init: (0x[0-9a-f]+)$", re.MULTILINE)
# Every end that is not the user's is an error to Bochs.
_ENDS_WITH = 1
_ENDED_AS_ASKED = b"Shutdown port: shutdown requested"
# What a reboot comes to with reboot=triple; Bochs is told to end there.
_TRIPLE_FAULT = b"exception with no resolution"


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def rom_program(entry: int) -> tuple[Instruction, ...]:
    """What the ROM does: it takes the CPU to 32 bits and enters the kernel at this address (see `pvh`).

    Before, it touches each page of memory from pvh.BASE on, in order. Bochs gives the machine its memory
    in blocks, as they are first used, but fills it from a file as if they all were there and followed one
    another; touched in that order, they do. Encodings: Intel SDM vol. 2. A test assembles the texts.
    """
    start_32 = Instruction(".code32", b"")
    enter_32 = (
        Instruction("cli", b"\xfa"),
        Instruction(f"lgdtl %cs:{_GDT_POINTER:#x}", b"\x2e\x66\x0f\x01\x16" + _u16(_GDT_POINTER)),
        Instruction("movl %cr0, %eax", b"\x0f\x20\xc0"),
        Instruction("orb $1, %al", b"\x0c\x01"),
        Instruction("movl %eax, %cr0", b"\x0f\x22\xc0"),
    )
    place_32 = _ROM_PLACE + len(code_of(enter_32)) + 8
    touch = (
        Instruction("movb (%eax), %dl", b"\x8a\x10"),
        Instruction("addl $0x1000, %eax", b"\x05" + _u32(0x1000)),
        Instruction(f"cmpl ${_MEMORY:#x}, %eax", b"\x3d" + _u32(_MEMORY)),
    )
    return (
        Instruction(".code16", b""),
        *enter_32,
        Instruction(f"ljmpl ${_CODE_32}, ${place_32:#x}", b"\x66\xea" + _u32(place_32) + _u16(_CODE_32)),
        start_32,
        Instruction(f"movl ${_DATA_32}, %eax", b"\xb8" + _u32(_DATA_32)),
        Instruction("movl %eax, %ds", b"\x8e\xd8"),
        Instruction("movl %eax, %es", b"\x8e\xc0"),
        Instruction("movl %eax, %ss", b"\x8e\xd0"),
        Instruction(f"movl ${pvh.BASE:#x}, %eax", b"\xb8" + _u32(pvh.BASE)),
        Instruction("touch:", b""),
        *touch,
        Instruction("jb touch", b"\x72" + (-(len(code_of(touch)) + 2) % 256).to_bytes(1, "little")),
        Instruction(f"movl ${pvh.BASE:#x}, %ebx", b"\xbb" + _u32(pvh.BASE)),
        Instruction(f"movl ${entry:#x}, %eax", b"\xb8" + _u32(entry)),
        Instruction("jmp *%eax", b"\xff\xe0"),
    )


def rom(entry: int) -> bytes:
    """The machine's ROM."""
    content = bytearray(_ROM_SIZE)
    program = code_of(rom_program(entry))
    content[: len(program)] = program
    # Flat segments of 4 GiB: code to execute and read, data to write.
    descriptors = (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
    table = b"".join(each.to_bytes(8, "little") for each in descriptors)
    content[_GDT : _GDT + len(table)] = table
    content[_GDT_POINTER : _GDT_POINTER + 6] = _u16(len(table) - 1) + _u32(_ROM_PLACE + _GDT)
    content[_FIRST_INSTRUCTION : _FIRST_INSTRUCTION + 3] = b"\xe9" + _u16(-(_FIRST_INSTRUCTION + 3) % 2**16)
    # Bochs wants a ROM for the display adapter too, whose bytes add up to 0. This one will do.
    content[-1] = -sum(content) % 256
    return bytes(content)


@dataclass(frozen=True, slots=True)
class Bochs:
    """Bochs with one CPU of this model."""

    model: str
    programs: tuple[str, ...] = ("bochs", "bochs-bin")
    packages: tuple[str, ...] = ("bochs", "bochs-sdl")

    @property
    def program(self) -> str:
        """What this host calls it: the first of `programs` that is there, or the first."""
        return emulator.first_there(self.programs)

    def missing(self) -> str:
        """Its display on SDL, the only one of Debian's that needs neither a screen, a terminal nor an open
        network port."""
        program = shutil.which(self.program)
        prefix = Path(program).resolve().parent.parent if program else Path()
        patterns = ("lib*/bochs/plugins/libbx_sdl2_gui.so", "lib/*/bochs/plugins/libbx_sdl2_gui.so")
        found = any(True for pattern in patterns for _ in prefix.glob(pattern))
        return "" if found else f"the display sdl2 of Bochs: {distribution.install(*self.packages)}"

    @property
    def description(self) -> list[str]:
        """The program and the CPU."""
        return [self.program, self.model]

    @property
    def keeps_snapshots(self) -> bool:
        """No: Bochs saves itself into a folder of many files, and not from within a run."""
        return False

    @property
    def without_snapshots(self) -> "Bochs":
        """As it is."""
        return self

    def command(self, files: MemoryFiles, start: Start) -> list[str]:
        """Bochs' command line; the console is the machine's first serial port."""
        initrd = start.image + (initramfs.job(start.job) if start.job else b"")
        in_memory = pvh.layout(start.kernel, initrd, start.kernel_options, _MEMORY)
        memory = files.add("memory", *((place - pvh.BASE, piece) for place, piece in in_memory.pieces))
        rom_file = files.add("rom", (0, rom(in_memory.entry)))
        lines = (
            "config_interface: textconfig",
            "display_library: sdl2",
            # Registers that Bochs lacks read as 0. A triple fault ends the machine instead of resetting it.
            f"cpu: model={self.model}, ips={HZ}, ignore_bad_msrs=1, reset_on_triple_fault=0",
            f"memory: guest={_MEMORY >> 20}, host={_MEMORY >> 20}",
            f"romimage: file={rom_file}",
            f"vgaromimage: file={rom_file}",
            f"optramimage1: file={memory}, address={pvh.BASE:#x}",
            # Time is a function of the instructions executed; it begins with 2026.
            "clock: sync=none, time0=1767225600",
            "vga: extension=none, update_freq=1, realtime=0",
            "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy",
            "plugin_ctrl: biosdev=0, gameport=0, parallel=0, speaker=0",
            "ata0: enabled=0",
            "ata1: enabled=0",
            f"com1: enabled=1, mode=file, dev={files.add(CONSOLE)}",
            f"com2: enabled=1, mode=file, dev={files.add(RESULTS)}",
            "port_e9_hack: enabled=1",
            "panic: action=fatal",
            "error: action=ignore",
            "log: /dev/null",
        )
        configuration = files.add("configuration", (0, "".join(f"{line}\n" for line in lines).encode()))
        # Debian's Bochs is one with a debugger, which waits for commands: to go on, and then to end.
        commands = files.add("commands", (0, b"c\nq\n"))
        return [
            *("env", "SDL_VIDEODRIVER=dummy", "SDL_AUDIODRIVER=dummy"),
            *(self.program, "-q", "-f", configuration, "-rc", commands),
        ]

    def attend(self, files: MemoryFiles, start: Start, process: "subprocess.Popen[bytes]") -> bytes:
        """Only wait."""
        return process.communicate()[0]

    def result(self, files: MemoryFiles, status: int | None, output: bytes) -> tuple[int | None, bytes]:
        """What init reported counts if Bochs then ended as init asked it to."""
        console = files.read(CONSOLE)
        report = _REPORT.search(output)
        if status != _ENDS_WITH:
            return status, console + b"\n" + output
        if report and _ENDED_AS_ASKED in output[report.end() :]:
            return status_of(int(report[1], 16)), console
        return ENDED_BY_KERNEL if _TRIPLE_FAULT in output else status, console + b"\n" + output
