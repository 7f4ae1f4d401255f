# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's archive: through this machine's apt, or straight from a mirror if there is none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from kvmharness.lab.kernels import apt, mirror
from kvmharness.lab.kernels.packages import KernelPackage, Remembered


class Archive(Protocol):
    """One suite, or what the machine's own apt sources have."""

    @property
    def remembered(self) -> Remembered:
        """What was offered when last asked."""

    def offered(self, refresh: bool = False) -> list[KernelPackage]:
        """The kernels it offers, oldest first; looked up at most once a day, with `refresh` at most every ten
        minutes."""

    def fetched(self, versions: Mapping[str, str], folder: Path) -> list[Path]:
        """See fetched()."""

    def needed_by(self, package: str, version: str) -> list[str]:
        """See needed_by()."""


def of(suite: str) -> Archive:
    """The archive of a suite, or (for "") of the machine's own sources. It may still have to be asked."""
    return mirror.Suite(suite) if mirror.is_used() else apt.State(suite)


def offered(refresh: bool = False) -> list[KernelPackage]:
    """The kernels this machine's apt sources offer, oldest first; none where a mirror is asked for suites.

    Looked up at most once a day, with `refresh` at most every ten minutes. LabError where there is neither
    apt nor a mirror to ask; NoAnswerError when the mirror does not answer and was never asked before.
    """
    if mirror.is_used():
        mirror.check()
        return []
    return apt.State().offered(refresh)


def download(package: KernelPackage, folder: Path) -> list[Path]:
    """The .debs that hold the kernel, put into `folder` (see fetched())."""
    return fetched(package.suite, dict.fromkeys(package.parts or (package.package,), package.version), folder)


def fetched(suite: str, versions: Mapping[str, str], folder: Path) -> list[Path]:
    """The .debs of packages of these versions, put into `folder`, checked against the archive's signed index.

    apt does not fetch again what it fetched of them before an interruption, where the mirror can do that.
    """
    return of(suite).fetched(versions, folder)


def needed_by(suite: str, package: str, version: str) -> list[str]:
    """The packages that one of this version depends on itself. LabError when the mirror has it not."""
    return of(suite).needed_by(package, version)
