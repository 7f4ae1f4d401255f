# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel as it has to lie in memory when no boot loader brings it there.

It is entered as Xen's PVH guests are (include/xen/interface/hvm/start_info.h, Documentation/x86 of Xen,
pvh.html): in 32-bit protected mode without paging, flat segments, EBX at a page that says where command
line, initial file system and memory are. No BIOS is asked for anything, and no table of one is needed.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import elf, vmlinux

# The first memory that no PC uses for something else. The page there is the one EBX points at.
BASE = 0x100000
_LOW_MEMORY_END = 0x9FC00

_ENTRY_NOTE = "18"  # XEN_ELFNOTE_PHYS32_ENTRY
_MAGIC = 0x336EC578
_RAM = 1
_PAGE = 0x1000
# Where on that page is what, and how much of it the command line may take.
_MODULES, _MEMORY_MAP, _COMMAND_LINE = 64, 128, 512


@dataclass(frozen=True, slots=True)
class Layout:
    """Pieces of memory by address, none below BASE, and the address where the kernel is entered."""

    pieces: list[tuple[int, bytes]]
    entry: int


def layout(kernel: Path, initrd: bytes, command_line: str, memory: int) -> Layout:
    """An ELF kernel, its image and its command line in a machine with so many bytes of memory; LabError when
    the kernel cannot be entered so, or they do not fit."""
    try:
        data = kernel.read_bytes()
    except OSError as error:
        raise LabError(f"cannot read {kernel}: {error.strerror}") from None
    if vmlinux.is_bzimage(data):
        raise LabError(f"{kernel} has no PVH entry (CONFIG_PVH), and the machine no loader for a bzImage")
    with elf.opened(data, str(kernel)) as file:
        entry = _entry(file)
        loaded = [each for each in file.iter_segments() if each["p_type"] == "PT_LOAD"]
        pieces = [(each["p_paddr"], each.data()) for each in loaded]
        end = max(each["p_paddr"] + each["p_memsz"] for each in loaded)
    if entry is None:
        raise LabError(f"{kernel} has no PVH entry: a kernel without CONFIG_PVH")
    initrd_place = -(-end // _PAGE) * _PAGE
    # Unpacked, the image takes its size once more.
    if initrd_place + 2 * len(initrd) > memory or len(command_line) >= _PAGE - _COMMAND_LINE:
        raise LabError(f"{kernel} and its image do not fit into {memory >> 20} MiB")
    page = _start_page(initrd_place, len(initrd), command_line.encode(), memory)
    return Layout([(BASE, page), *pieces, (initrd_place, initrd)], entry)


def _entry(file: ELFFile) -> int | None:
    for segment in file.iter_segments():
        if isinstance(segment, NoteSegment):
            for note in segment.iter_notes():
                # pyelftools gives the types it knows as names.
                if note["n_name"] == "Xen" and str(note["n_type"]) == _ENTRY_NOTE:
                    return int.from_bytes(note["n_descdata"], "little")
    return None


def _start_page(initrd: int, initrd_size: int, command_line: bytes, memory: int) -> bytes:
    ranges = [(0, _LOW_MEMORY_END), (BASE, memory - BASE)]
    page = bytearray(_PAGE)
    struct.pack_into(
        "<IIIIQQQQII",
        page,
        0,
        *(_MAGIC, 1, 0, 1),
        *(BASE + _MODULES, BASE + _COMMAND_LINE, 0, BASE + _MEMORY_MAP),
        *(len(ranges), 0),
    )
    struct.pack_into("<QQQQ", page, _MODULES, initrd, initrd_size, 0, 0)
    for index, (start, size) in enumerate(ranges):
        struct.pack_into("<QQII", page, _MEMORY_MAP + 24 * index, start, size, _RAM, 0)
    page[_COMMAND_LINE : _COMMAND_LINE + len(command_line)] = command_line
    return bytes(page)
