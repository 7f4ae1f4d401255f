# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel packages, as an archive's index lists them: which there are, and which one is meant."""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from debian.deb822 import Packages
from debian.debian_support import Version

from kvmharness.files import write_whole
from kvmharness.lab.errors import LabError

# The flavours of Debian's kernels. The first has KVM's modules and little else, and is meant where none is
# named; the second is what a physical Debian runs.
FLAVOURS = ("cloud-amd64", "amd64")
_FLAVOUR = "|".join(FLAVOURS)
# A kernel has an image package; since 7.x that is a shell that depends on two others, the kernel itself and
# its modules.
_PACKAGE = re.compile(rf"linux-(image|binary|binary-unsigned|modules)-\d\S*-(?<!-rt-)({_FLAVOUR})")
_OF_RELEASE = re.compile(r"-((?:cloud-|rt-)?amd64)$")
_USUAL = re.compile(rf"linux-image-({_FLAVOUR})")
_INDEX_AGE_S = 24 * 3600
# Who asks anew need not ask again for what was looked up this recently.
_FRESH_S = 600


class NoAnswerError(LabError):
    """The mirror cannot be reached, whatever it is asked for."""


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """A kernel that the mirror offers: package, its version, and the kernel's release (uname -r).

    `parts` are the packages that hold it, where that is not `package` itself. `usual` marks what its
    suite installs when no version is asked for. `suite` is the suite's name on the mirror, "" for the
    machine's own sources.
    """

    package: str
    version: str
    release: str
    parts: tuple[str, ...] = ()
    usual: bool = False
    suite: str = ""

    @property
    def flavour(self) -> str:
        """Which of FLAVOURS it is."""
        return flavour_of(self.release)

    @property
    def spec(self) -> str:
        """What the user calls it."""
        named = "" if self.flavour in (FLAVOURS[0], "") else f":{self.flavour}"
        return f"debian:{self.version}{named}"


def matching(
    prefix: str, packages: Iterable[KernelPackage], flavour: str = FLAVOURS[0]
) -> KernelPackage | None:
    """The newest package of a flavour whose version, or whose kernel's release, begins with the parts of
    `prefix`."""
    wanted = _parts(prefix)
    return newest(
        package
        for package in of_flavour(flavour, packages)
        if wanted in (_parts(package.version)[: len(wanted)], _parts(package.release)[: len(wanted)])
    )


def of_flavour(flavour: str, packages: Iterable[KernelPackage]) -> list[KernelPackage]:
    """The packages of one of FLAVOURS."""
    return [package for package in packages if package.flavour == flavour]


def flavour_of(release: str) -> str:
    """Which of FLAVOURS a kernel's release says it is; "" for none of them."""
    flavour = _OF_RELEASE.search(release)
    return flavour[1] if flavour and flavour[1] in FLAVOURS else ""


def newest(packages: Iterable[KernelPackage]) -> KernelPackage | None:
    """The package of the highest version; None of none."""
    return max(packages, key=lambda package: Version(package.version), default=None)


def by_version(packages: Iterable[KernelPackage]) -> list[KernelPackage]:
    """The packages, oldest first."""
    return sorted(packages, key=lambda package: Version(package.version))


def kernels_in(paragraphs: list[Packages], suite: str) -> list[KernelPackage]:
    """The kernels among an index's paragraphs, oldest first; none whose parts the index lacks."""
    there = {(paragraph["Package"], paragraph["Version"]) for paragraph in paragraphs}
    usual = {
        (name, paragraph["Version"])
        for paragraph in paragraphs
        if _USUAL.fullmatch(paragraph["Package"])
        for name in depends(paragraph)
    }
    found = set()
    for paragraph in paragraphs:
        package, version = paragraph["Package"], paragraph["Version"]
        needs = [name for name in depends(paragraph) if _PACKAGE.fullmatch(name)]
        if not package.startswith("linux-image-") or _USUAL.fullmatch(package):
            continue
        # An image that depends on an image is only a pointer to the newest of a series.
        pointer = any(name.startswith("linux-image-") for name in needs)
        if not pointer and all((name, version) in there for name in needs):
            release = package.removeprefix("linux-image-")
            is_usual = (package, version) in usual
            found.add(KernelPackage(package, version, release, tuple(sorted(needs)), is_usual, suite))
    return by_version(found)


def depends(paragraph: Packages) -> list[str]:
    """The names a package depends on; of alternatives the first."""
    return [alternatives[0]["name"] for alternatives in paragraph.relations["depends"] or []]


def _parts(version: str) -> list[str]:
    return re.split(r"[.\-+~]", version)


def is_of_kernel(name: str) -> bool:
    """Whether a package of this name may say which kernels there are."""
    return bool(_USUAL.fullmatch(name) or _PACKAGE.fullmatch(name))


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was offered when last asked, kept in a file."""

    path: Path

    def known(self, refresh: bool = False) -> list[KernelPackage] | None:
        """What was offered when last asked, if that is recent enough not to ask again."""
        try:
            age = time.time() - self.path.stat().st_mtime
        except OSError:
            return None
        return self.whenever() if age < (_FRESH_S if refresh else _INDEX_AGE_S) else None

    def whenever(self) -> list[KernelPackage] | None:
        """What was offered when last asked, however long ago; None when it never was."""
        try:
            rows = json.loads(self.path.read_text())
            return [KernelPackage(**{**row, "parts": tuple(row["parts"])}) for row in rows]
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep(self, found: Iterable[KernelPackage]) -> None:
        """Remember this."""
        write_whole(self.path, json.dumps([asdict(package) for package in found]).encode())
