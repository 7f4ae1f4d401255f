# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress on stderr: what the logger `kvmharness` says, as much of it as the reader wants.

On a terminal every line of INFO is shown at once. Elsewhere (a CI log) the newest line is shown now and
then, so that the log moves; a command that ends soon shows none. `-v` shows every line at once everywhere,
and `-vv` those of DEBUG too.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How long a log that is no terminal may stand still.
EVERY_S = 30.0

LOGGER = logging.getLogger("kvmharness")


@contextmanager
def shown(verbosity: int, complain: Callable[[str], None], every_s: float = EVERY_S) -> Iterator[None]:
    """Show progress while the block runs. `verbosity` counts the -v; `complain` writes a line to stderr."""
    at_once = verbosity > 0 or sys.stderr.isatty()
    handler = _AtOnce(complain, timed=verbosity > 0) if at_once else _NowAndThen(complain, every_s)
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

    def __init__(self, complain: Callable[[str], None], *, timed: bool) -> None:
        super().__init__()
        self._complain = complain
        self._timed = timed
        self._begin = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Show it."""
        when = f"{time.monotonic() - self._begin:.1f} s: " if self._timed else ""
        self._complain(f"kvmharness: {when}{record.getMessage()}")


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
