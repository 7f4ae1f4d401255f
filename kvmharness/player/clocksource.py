# SPDX-License-Identifier: GPL-2.0-or-later
"""The clocksource of the machine that is played on: what the kernel's own clock counts by (sysfs)."""

from __future__ import annotations

import errno
import os

FOLDER = "/sys/devices/system/clocksource/clocksource0"
_TSC = b"tsc"


class Clocksource:
    """The clocksource, in a machine that may be changed. `folder` is where sysfs has it."""

    def __init__(self, folder: str = FOLDER) -> None:
        self._folder = folder
        self._is_other = False

    def choose(self, *, tsc: bool) -> None:
        """Have the kernel's clock count by the TSC, or by the best clocksource beside it.

        OSError ENODEV where the kernel does not have both.
        """
        available = self._read("available_clocksource").split()
        others = [each for each in available if each != _TSC]
        if _TSC not in available or not others:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        self._is_other = not tsc
        with open(f"{self._folder}/current_clocksource", "wb", buffering=0) as file:
            file.write(_TSC if tsc else others[0])

    def restore(self) -> None:
        """Have it count by the TSC again, if it does not."""
        if self._is_other:
            self.choose(tsc=True)

    def _read(self, name: str) -> bytes:
        try:
            with open(f"{self._folder}/{name}", "rb") as file:
                return file.read()
        except OSError:
            return b""
