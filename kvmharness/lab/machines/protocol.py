# SPDX-License-Identifier: GPL-2.0-or-later
"""What is carried into a lab machine and out of it again.

In: a job, rounds of scripts by name (see `session.rounds`). Out: for each script a frame, then a last
frame that is the job's end mark. A frame is a line (the job's number, the length and the checksum of what
follows) and its content; so nothing that a dying machine leaves can pass for a result.

The content is Python's marshal, not JSON: both ends are the same interpreter, the data are plain
lists, texts and numbers, and loading the json module would take an emulated CPU longer than all the
scenarios. It is packed, because a serial port is slower than that.
"""

from __future__ import annotations

import marshal
import zlib
from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What the guest puts on the console before it plays a script, or goes on with it; the script's name follows.
PLAYING = b"kvmharness plays "

JOB_PATH = "/job"
END = "end"
# What a frame may unpack to. A long scenario's is some 50 KB.
_MOST = 64 << 20


class BrokenResultError(Exception):
    """What came out of the machine is not a whole result of this job; the text says in what way."""


def encode(job: str, content: Any) -> bytes:
    """A frame."""
    data = zlib.compress(marshal.dumps(content), 1)
    return b"%s %d %08x\n" % (job.encode(), len(data), crc32(data)) + data


def decode(job: str, data: bytes) -> list[Any]:
    """The contents of all frames in `data`, without the end mark. BrokenResultError if anything is amiss."""
    contents, place = [], 0
    while place < len(data):
        line, newline, _ = data[place : place + 200].partition(b"\n")
        words = line.split(b" ")
        if not newline or len(words) != 3 or words[0] != job.encode() or not words[1].isdigit():
            raise BrokenResultError(f"the result is damaged at byte {place} of {len(data)}")
        place += len(line) + 1
        content = data[place : place + int(words[1])]
        if len(content) != int(words[1]):
            raise BrokenResultError(f"the result is cut off after {len(data)} bytes")
        if b"%08x" % crc32(content) != words[2]:
            raise BrokenResultError(f"the result is damaged after byte {place} of {len(data)}")
        try:
            contents.append(marshal.loads(zlib.decompressobj().decompress(content, _MOST)))
        except (zlib.error, EOFError, ValueError, TypeError):
            raise BrokenResultError(f"the result does not unpack after byte {place} of {len(data)}") from None
        place += len(content)
    if not contents or contents[-1] != END:
        raise BrokenResultError(f"the result has no end mark after {len(data)} bytes")
    return contents[:-1]
