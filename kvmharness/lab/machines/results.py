# SPDX-License-Identifier: GPL-2.0-or-later
"""What came out of a lab machine (see `protocol`), read as what a hostile kernel may have made of it."""

import json
import zlib
from binascii import crc32
from collections.abc import Iterator
from typing import Any

from kvmharness.lab.machines.protocol import END

# What a frame may unpack to, in bytes. A long scenario's is some 50 KB, the longest script's some 2 MB.
_MOST = 16 << 20


class BrokenResultError(Exception):
    """What came out of the machine is not a whole result of this job; the text says in what way."""


def decode(job: str, data: bytes) -> Iterator[Any]:
    """The contents of all frames in `data`, one after the other, without the end mark.

    BrokenResultError if anything is amiss, which may show only at the end.
    """
    content, place = None, 0
    unpacking = zlib.decompressobj()
    while place < len(data):
        if content == END:
            raise BrokenResultError(f"the result goes on after its end mark, at byte {place} of {len(data)}")
        if content is not None:
            yield content
        line, newline, _ = data[place : place + 200].partition(b"\n")
        words = line.split(b" ")
        if not newline or len(words) != 3 or words[0] != job.encode() or not words[1].isdigit():
            raise BrokenResultError(f"the result is damaged at byte {place} of {len(data)}")
        place += len(line) + 1
        packed = data[place : place + int(words[1])]
        if len(packed) != int(words[1]):
            raise BrokenResultError(f"the result is cut off after {len(data)} bytes")
        if b"%08x" % crc32(packed) != words[2]:
            raise BrokenResultError(f"the result is damaged after byte {place} of {len(data)}")
        content = _unpacked(unpacking, packed)
        if content is None:
            raise BrokenResultError(f"the result does not unpack after byte {place} of {len(data)}")
        place += len(packed)
        if unpacking.eof:  # the frame was packed alone
            unpacking = zlib.decompressobj()
    if content != END:
        raise BrokenResultError(f"the result has no end mark after {len(data)} bytes")


def _unpacked(unpacking: "zlib._Decompress", packed: bytes) -> Any:
    """A frame's content; None if it has none that can be read, or more than it may have."""
    try:
        text = unpacking.decompress(packed, _MOST)
        whole = not unpacking.unconsumed_tail and not unpacking.unused_data
        return json.loads(text.decode("ascii")) if whole else None
    except (zlib.error, ValueError, RecursionError):  # no ASCII, no JSON, a number too long, lists too deep
        return None
