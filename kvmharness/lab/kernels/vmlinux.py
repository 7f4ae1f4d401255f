# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes the ELF kernel out of a bzImage (booting it spares the emulator the decompression), and says what
a kernel is: for which architecture, of which release, with what built in."""

import bz2
import gzip
import lzma
import re
import struct
import zlib

import lz4.block
import zstandard
from elftools.elf.segments import NoteSegment

from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import elf

# Documentation/arch/x86/boot.rst: where the setup header says what lies where.
_SETUP_SECTORS = 0x1F1
_MAGIC = 0x202
_PAYLOAD_OFFSET = 0x248
_VERSION_OFFSET = 0x20E
_HEADER_END = 0x250
_LZ4_LEGACY_BLOCK = 8 << 20
_ELF = b"\x7fELF"

# Images of other architectures: where they say so, and how (Documentation/arch/*/boot*.rst). The last is
# how all but x86 wrap a kernel for EFI.
_FOREIGN = (
    (0x38, b"ARM\x64", "arm64"),
    (0x38, b"RSC\x05", "riscv"),
    (0x24, b"\x18\x28\x6f\x01", "arm"),
    (0x04, b"zimg", "another architecture"),
)
_ARCHITECTURE = "x64"
# include/xen/interface/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY
_PVH_ENTRY = 18
# The banner a kernel prints first (init/version.c), and the .config inside it (kernel/configs.c).
_BANNER = re.compile(rb"Linux version (\d[^\s\0]*) \(")
_CONFIG = re.compile(rb"IKCFG_ST(\x1f\x8b.*?)IKCFG_ED", re.DOTALL)


def extract(image: bytes) -> bytes:
    """The ELF file inside a bzImage, or the image itself if it is one. LabError when it is neither."""
    if image[:4] == _ELF:
        return image
    if not is_bzimage(image):
        for place, magic, architecture in _FOREIGN:
            if image[place : place + 4] == magic:
                raise LabError(f"a kernel for {architecture}: the lab's machines are x86-64")
        raise LabError("not a kernel image: no boot header")
    start = ((image[_SETUP_SECTORS] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    payload = image[start + offset : start + offset + length]
    if len(payload) != length or length < 8:
        raise LabError("the kernel image is cut off")
    # The kernel's build puts the uncompressed size behind the compressed data, where gzip has it anyway.
    (size,) = struct.unpack("<I", payload[-4:])
    try:
        kernel = _decompress(payload)
    except (
        OSError,
        ValueError,
        EOFError,
        lzma.LZMAError,
        lz4.block.LZ4BlockError,
        zlib.error,
        zstandard.ZstdError,
    ) as error:
        raise LabError(f"the kernel image does not decompress: {error}") from None
    if kernel[:4] != _ELF or len(kernel) != size:
        raise LabError("the kernel image does not hold an ELF kernel")
    return kernel


def is_bzimage(image: bytes) -> bool:
    """Whether an image is x86's compressed kernel with its boot header."""
    return image[_MAGIC : _MAGIC + 4] == b"HdrS" and len(image) >= _HEADER_END


def release(image: bytes) -> str:
    """The kernel's release (uname -r) as its image says it; "" if it does not say.

    A bzImage says it in its boot header, an ELF kernel in its banner.
    """
    if is_bzimage(image):
        (offset,) = struct.unpack_from("<H", image, _VERSION_OFFSET)
        words = image[0x200 + offset :][:256].split(b"\0")[0].split() if offset else []
        if words:
            return words[0].decode(errors="replace")
    found = _BANNER.search(extract(image))
    return found[1].decode(errors="replace") if found else ""


def loaded_part(kernel: bytes) -> bytes:
    """An ELF kernel without what is not loaded: a build leaves hundreds of megabytes for debuggers in it.

    LabError for one that is cut off, or of another architecture.
    """
    with elf.opened(kernel, "the kernel") as file:
        architecture = file.get_machine_arch()
        end = max((each["p_offset"] + each["p_filesz"] for each in file.iter_segments()), default=0)
    if architecture != _ARCHITECTURE:
        raise LabError(f"a kernel for {architecture}: the lab's machines are x86-64")
    if not end:
        raise LabError("not a kernel: the ELF file has no part that is loaded")
    if end > len(kernel):
        raise LabError("the kernel is cut off")
    # Elf64_Ehdr: e_shoff at 40, e_shnum and e_shstrndx at 60. Without sections none is looked for.
    return kernel[:40] + bytes(8) + kernel[48:60] + bytes(4) + kernel[64:end]


def has_pvh_entry(kernel: bytes) -> bool:
    """Whether an ELF kernel can be started as such (CONFIG_PVH); otherwise it takes its bzImage."""
    with elf.opened(kernel, "the kernel") as file:
        return any(
            (note["n_name"], str(note["n_type"])) == ("Xen", str(_PVH_ENTRY))
            for segment in file.iter_segments()
            if isinstance(segment, NoteSegment)
            for note in segment.iter_notes()
        )


def has_built_in(kernel: bytes, module: str) -> bool:
    """Whether an ELF kernel has a module's code built in, told by the names of its parameters.

    Those of a module that is built in are in the kernel after the module's name and a dot
    (include/linux/moduleparam.h). It says nothing of modules without parameters; KVM's have some.
    """
    return re.search(rb"\0" + module.encode() + rb"\.[a-z]\w*\0", kernel) is not None


def config(kernel: bytes) -> str | None:
    """The .config inside an ELF kernel (CONFIG_IKCONFIG=y); None where there is none."""
    found = _CONFIG.search(kernel)
    try:
        return gzip.decompress(found[1]).decode() if found else None
    except (OSError, EOFError, ValueError, zlib.error):
        return None


def _decompress(payload: bytes) -> bytes:
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(payload))
    if payload[:4] == b"\x02\x21\x4c\x18":
        return _decompress_lz4_legacy(payload)
    if payload[:2] == b"\x1f\x8b":
        return _decompress_gzip(payload)
    if payload[:6] == b"\xfd7zXZ\x00":
        return lzma.LZMADecompressor().decompress(payload)
    if payload[:3] == b"\x5d\x00\x00":
        return lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(payload)
    if payload[:3] == b"BZh":
        return bz2.BZ2Decompressor().decompress(payload)
    raise LabError(f"the kernel image is compressed in a way not known here ({payload[:4].hex()})")


def _decompress_gzip(payload: bytes) -> bytes:
    unpacking = zlib.decompressobj(16 + zlib.MAX_WBITS)
    unpacked = unpacking.decompress(payload)
    if not unpacking.eof:
        raise EOFError("its end is missing")
    return unpacked


def _decompress_lz4_legacy(payload: bytes) -> bytes:
    """The frame format of `lz4 -l`: a magic, then blocks of at most 8 MiB, each after its packed size."""
    blocks, place = [], 4
    while place + 8 <= len(payload):
        (size,) = struct.unpack_from("<I", payload, place)
        place += 4
        blocks.append(
            lz4.block.decompress(payload[place : place + size], uncompressed_size=_LZ4_LEGACY_BLOCK)
        )
        place += size
    return b"".join(blocks)
