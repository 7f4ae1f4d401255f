# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules: plain ELF out of whatever they are packed in, and the order in which they load."""

import gzip
import io
import lzma
import struct
from pathlib import Path

import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from kvmharness.lab.errors import LabError

_SIGNATURE_MARK = b"~Module signature appended~\n"

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


def find(folder: Path) -> dict[str, Path]:
    """Every module below `folder`, by name as the kernel has it (kvm_amd for kvm-amd.ko.xz)."""
    return {
        path.name.split(".ko")[0].replace("-", "_"): path
        for path in folder.rglob("*.ko*")
        if path.name.endswith(_SUFFIXES)
    }


def read(path: Path) -> bytes:
    """A module's ELF file, decompressed. LabError when it is broken."""
    data = path.read_bytes()
    try:
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".zst":
            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise LabError(f"{path.name} does not decompress: {error}") from None


def load_order(name: str, available: dict[str, Path]) -> dict[str, bytes]:
    """The module `name` and all it depends on, as ELF files, in the order in which they load.

    What a module depends on stands in its .modinfo section. LabError when `name` is not there; a
    dependency that is not a module is taken to be built into the kernel.
    """
    if name not in available:
        raise LabError(f"the kernel has no module {name}")
    ordered: dict[str, bytes] = {}

    def visit(current: str) -> None:
        if current in ordered or current not in available:
            return
        module = read(available[current])
        for dependency in _depends(current, module):
            visit(dependency)
        ordered[current] = module

    visit(name)
    return ordered


def without_signature(module: bytes) -> bytes:
    """A module without the signature that a distribution's build puts behind it.

    Checking it takes an emulated CPU up to a second, and proves nothing here: apt has checked the
    package, and a module built from a patch has none. The kernel marks itself tainted by it (E).
    Source of the format: struct module_signature, include/linux/module_signature.h.
    """
    if not module.endswith(_SIGNATURE_MARK):
        return module
    trailer = len(module) - len(_SIGNATURE_MARK) - 12
    (size,) = struct.unpack(">I", module[trailer + 8 : trailer + 12])
    return module[: trailer - size]


def _depends(name: str, module: bytes) -> list[str]:
    try:
        section = ELFFile(io.BytesIO(module)).get_section_by_name(".modinfo")
    except ELFError as error:
        raise LabError(f"module {name} is not an ELF file: {error}") from None
    if section is None:
        raise LabError(f"module {name} has no .modinfo section")
    for entry in section.data().split(b"\0"):
        if entry.startswith(b"depends="):
            return [word.replace("-", "_") for word in entry[8:].decode().split(",") if word]
    return []
