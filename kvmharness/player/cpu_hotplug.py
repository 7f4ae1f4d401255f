# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPUs of the machine that is played on, taken offline and brought online again (sysfs)."""

from __future__ import annotations

import errno
import os

FOLDER = "/sys/devices/system/cpu"


class CpuHotplug:
    """The CPUs of a machine that may be changed. `folder` is where sysfs has them."""

    def __init__(self, folder: str = FOLDER) -> None:
        self._folder = folder
        self._offline: set[int] = set()

    def choose(self, cpu: int, *, online: bool) -> None:
        """Have a CPU be online, or not; back when it is.

        OSError ENODEV for one that is always online, as CPU 0 is.
        """
        try:
            file = open(f"{self._folder}/cpu{cpu}/online", "r+b", buffering=0)  # noqa: SIM115
        except OSError:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
        with file:
            file.write(b"1" if online else b"0")
        (self._offline.discard if online else self._offline.add)(cpu)

    def restore(self) -> None:
        """Bring those online again that were taken offline."""
        for cpu in sorted(self._offline):
            self.choose(cpu, online=True)
