# SPDX-License-Identifier: GPL-2.0-or-later
"""What is carried into a lab machine and out of it again, as the machine has it.

In: a job, rounds of scripts by name (see `session.rounds`) or a program. Out: for each script a frame, then a
last frame that is the job's end mark. A frame is a line (the job's number, the length and the checksum of
what follows) and its content; so nothing that a dying machine leaves can pass for a result.

The job is Python's marshal: both ends are the same interpreter, and we wrote it. What comes out is JSON,
because a kernel under test had its hands on it: `results` reads it, and no bytes can make a JSON parser do
more than parse. The machine itself loads no json module, which would take an emulated CPU longer than all the
scenarios. The content is packed, because a serial port is slower than that, and as one stream: a frame is
unpacked after those before it.
"""

from __future__ import annotations

import zlib
from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What the guest puts on the console before it plays a script, or goes on with it; the script's name follows.
PLAYING = b"kvmharness plays "

JOB_PATH = "/job"
END = "end"
# What a program is called there.
PROGRAM = "program"


class Encoder:
    """Makes a job's frames, each packed by what those before it had in common with it.

    zlib begins with tables of 256 KB, which an emulated CPU clears more slowly than it packs a frame.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._packing = zlib.compressobj(1)

    def frame(self, content: Any) -> bytes:
        """The next frame, of whole numbers, lists, dicts, and texts without quotes and backslashes."""
        packed = self._packing.compress(_text(content)) + self._packing.flush(zlib.Z_SYNC_FLUSH)
        return _framed(self._job, packed)


def encode(job: str, content: Any) -> bytes:
    """A frame that no other is needed to unpack."""
    return _framed(job, zlib.compress(_text(content), 1))


def _framed(job: str, packed: bytes) -> bytes:
    return b"%s %d %08x\n" % (job.encode(), len(packed), crc32(packed)) + packed


def _text(content: Any) -> bytes:
    # With texts that have no quotes JSON is what Python shows but for its kind of quotes.
    return repr(content).replace("'", '"').encode()


def plain(text: str) -> str:
    """A text as the content of a frame may have it: with a ? for each character that it may not."""
    # Not isprintable(): what is not ASCII is nobody's release or module parameter.
    return "".join(each if " " <= each <= "~" and each not in "\"'\\" else "?" for each in text)
