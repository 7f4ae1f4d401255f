# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes the ELF kernel out of a bzImage: booting it spares the emulator the decompression."""

import bz2
import gzip
import lzma
import struct

import lz4.block
import zstandard

from kvmharness.lab.errors import LabError

# Documentation/arch/x86/boot.rst: where the setup header says what lies where.
_SETUP_SECTORS = 0x1F1
_MAGIC = 0x202
_PAYLOAD_OFFSET = 0x248
_LZ4_LEGACY_BLOCK = 8 << 20


def extract(image: bytes) -> bytes:
    """The ELF file inside a bzImage, or the image itself if it is one. LabError when it is neither."""
    if image[:4] == b"\x7fELF":
        return image
    if image[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise LabError("not a kernel image: no boot header")
    start = ((image[_SETUP_SECTORS] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    payload = image[start + offset : start + offset + length]
    if len(payload) != length or length < 8:
        raise LabError("the kernel image is cut off")
    # The kernel's build puts the uncompressed size behind the compressed data.
    (size,) = struct.unpack("<I", payload[-4:])
    try:
        kernel = _decompress(payload)
    except (
        OSError,
        ValueError,
        EOFError,
        lzma.LZMAError,
        lz4.block.LZ4BlockError,
        zstandard.ZstdError,
    ) as error:
        raise LabError(f"the kernel image does not decompress: {error}") from None
    if kernel[:4] != b"\x7fELF" or len(kernel) != size:
        raise LabError("the kernel image does not hold an ELF kernel")
    return kernel


def _decompress(payload: bytes) -> bytes:
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(payload))
    if payload[:4] == b"\x02\x21\x4c\x18":
        return _decompress_lz4_legacy(payload)
    if payload[:2] == b"\x1f\x8b":
        return gzip.decompress(payload[:-4])
    if payload[:6] == b"\xfd7zXZ\x00":
        return lzma.LZMADecompressor().decompress(payload)
    if payload[:3] == b"\x5d\x00\x00":
        return lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(payload)
    if payload[:3] == b"BZh":
        return bz2.BZ2Decompressor().decompress(payload)
    raise LabError(f"the kernel image is compressed in a way not known here ({payload[:4].hex()})")


def _decompress_lz4_legacy(payload: bytes) -> bytes:
    """The frame format of `lz4 -l`: a magic, then blocks of at most 8 MiB, each behind its packed size."""
    blocks, place = [], 4
    while place + 8 <= len(payload):
        (size,) = struct.unpack_from("<I", payload, place)
        place += 4
        blocks.append(
            lz4.block.decompress(payload[place : place + size], uncompressed_size=_LZ4_LEGACY_BLOCK)
        )
        place += size
    return b"".join(blocks)
