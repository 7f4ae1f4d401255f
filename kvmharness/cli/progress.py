# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress on stderr: what the logger `kvmharness` says, as much of it as the reader wants.

On a terminal every line of INFO is shown at once, and below them a bar
with what is done and what is left. Elsewhere (a CI log) the newest line is shown now and
then, so that the log moves; a command that ends soon shows none. `-v` shows every line at once everywhere,
and `-vv` those of DEBUG too.
"""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from kvmharness.printable import printable

# How long a log that is no terminal may stand still.
EVERY_S = 30.0

_BAR_WIDTH = 20

LOGGER = logging.getLogger("kvmharness")


@contextmanager
def shown(verbosity: int, complain: Callable[[str], None], every_s: float = EVERY_S) -> Iterator[None]:
    """Show progress while the block runs. `verbosity` counts the -v; `complain` writes a line to stderr."""
    at_once = verbosity > 0 or sys.stderr.isatty()
    bar = _Bar() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else None
    handler = _AtOnce(complain, bar, timed=verbosity > 0) if at_once else _NowAndThen(complain, every_s)
    level = LOGGER.level
    LOGGER.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        handler.close()


class _AtOnce(logging.Handler):
    """Every line when it comes, with the seconds since the command began if `timed`."""

    def __init__(self, complain: Callable[[str], None], bar: "_Bar | None", *, timed: bool) -> None:
        super().__init__()
        self._complain = complain
        self._bar = bar
        self._timed = timed
        self._begin = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Show it."""
        when = f"{time.monotonic() - self._begin:.1f} s: " if self._timed else ""
        if self._bar:
            self._bar.erase()
        self._complain(f"kvmharness: {when}{record.getMessage()}")
        if self._bar:
            self._bar.note(getattr(record, "left", None), getattr(record, "of", 0))

    def close(self) -> None:
        """Leave no bar on the terminal."""
        if self._bar:
            self._bar.erase()
        super().close()


class _Bar:
    """The last line of a terminal: how much is done, and what is left."""

    def __init__(self) -> None:
        self._text = ""

    def note(self, left: Sequence[str] | None, of: int) -> None:
        """Show the bar; `left` names what is left of `of`, None where a line says nothing of it."""
        if left is not None:
            done = of - len(left)
            filled = _BAR_WIDTH * done // max(1, of)
            bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
            self._text = printable(f"[{bar}] {done} of {of} done, left: {', '.join(left)}") if left else ""
        width = shutil.get_terminal_size().columns - 1
        self._write(self._text[:width])

    def erase(self) -> None:
        """Take the bar away, for a line to take its place."""
        if self._text:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # nobody reads it any more
            sys.stderr.write(text)
            sys.stderr.flush()


class _NowAndThen(logging.Handler):
    """The newest line, every few seconds, with the time since the command began."""

    def __init__(self, complain: Callable[[str], None], every_s: float) -> None:
        super().__init__()
        self._complain = complain
        self._every_s = every_s
        self._newest = ""
        self._over = threading.Event()
        self._begin = time.monotonic()
        threading.Thread(target=self._show, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it until the next time."""
        self._newest = record.getMessage()

    def close(self) -> None:
        """Show nothing more."""
        self._over.set()
        super().close()

    def _show(self) -> None:
        while not self._over.wait(self._every_s):
            if self._newest:
                self._complain(f"kvmharness: after {time.monotonic() - self._begin:.0f} s: {self._newest}")
