# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are written whole or not at all."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_NEW_FILE = 0o666


def write_whole(path: Path, content: bytes) -> None:
    """Have the file at `path` hold this; its folder has to be there.

    Where that fails (OSError), what was there before stays, and nothing else is left. What is no regular file
    (a device, a FIFO), or lies in a folder that cannot be written to, is written to directly. A link is
    replaced.
    """
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    special = before is not None and not stat.S_ISREG(before.st_mode)
    if special or (before is not None and not os.access(path.parent, os.W_OK)):
        path.write_bytes(content)
        return
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        os.chmod(temporary, _NEW_FILE & ~_umask() if before is None else stat.S_IMODE(before.st_mode))
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    """This process' umask, without setting it (proc(5)); the usual one where that is not told."""
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(errors="replace")
        return int(status.partition("\nUmask:")[2].split()[0], 8)
    return 0o022
