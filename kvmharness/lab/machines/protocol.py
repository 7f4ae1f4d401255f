# SPDX-License-Identifier: GPL-2.0-or-later
"""What is carried into a lab machine and out of it again, as the machine has it.

In: a job, rounds of scripts by name (see `session.rounds`) or a program. Out: for each script a frame, then a
last frame that is the job's end mark. A frame is a line (the job's number, the length and the checksum of
what follows) and its content; so nothing that a dying machine leaves can pass for a result.

The job is Python's marshal: both ends are the same interpreter, and we wrote it. What comes out is JSON,
because a kernel under test had its hands on it: `results` reads it, and no bytes can make a JSON parser do
more than parse. The machine itself loads no json module, which would take an emulated CPU longer than all the
scenarios. The content is packed, because a serial port is slower than that.
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


def encode(job: str, content: Any) -> bytes:
    """A frame. The content is whole numbers, lists, dicts, and texts without quotes and backslashes."""
    # With such texts alone, JSON is what Python shows but for its kind of quotes.
    data = zlib.compress(repr(content).replace("'", '"').encode(), 1)
    return b"%s %d %08x\n" % (job.encode(), len(data), crc32(data)) + data


def plain(text: str) -> str:
    """A text as the content of a frame may have it: with a ? for each character that it may not."""
    # Not isprintable(): what is not ASCII is nobody's release or module parameter.
    return "".join(each if " " <= each <= "~" and each not in "\"'\\" else "?" for each in text)
