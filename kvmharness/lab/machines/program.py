# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a program inside a lab machine, for `guest`: what it prints, and how it ended, become frames."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PATH = "/program"
_NOT_EXECUTABLE = 127  # what a shell makes of it


def run(program: bytes, tell: Callable[[object], None]) -> None:
    """Run a static program with its output in a pipe.

    Tells of each piece of output as hexadecimal digits, then its wait status as a number (wait(2)).
    """
    with open(_PATH, "wb") as file:
        file.write(program)
    os.chmod(_PATH, 0o755)
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(into, 1)
        os.dup2(into, 2)
        try:
            os.execve(_PATH, [_PATH], {"HOME": "/", "PATH": "/"})
        finally:
            os._exit(_NOT_EXECUTABLE)
    os.close(into)
    while piece := os.read(out, 4096):
        tell(piece.hex())
    tell(os.waitpid(child, 0)[1])
