# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels in Debian packages that lie on a disk, unpacked without installing anything."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Deb822

from kvmharness.lab.errors import LabError

_MAGIC = b"!<arch>\n"
_ARCHITECTURE = "amd64"
# A kernel may be one package, or several that are of one release and version.
_PACKAGE = re.compile(r"linux-(image|binary|modules)(-extra)?(-unsigned)?-(?P<release>\d\S*?)(-unsigned)?")

_DPKG_DEB = re.compile(r"^dpkg-deb( \(subprocess\))?:( error:)? ")


@dataclass(frozen=True, slots=True)
class Package:
    """What a package says of itself; `release` is that of the kernel it is of, "" where it names none."""

    name: str
    version: str
    release: str


def is_deb(path: Path) -> bool:
    """Whether a path means a package: by its name, or by how it begins."""
    if path.suffix == ".deb":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def package(deb: Path) -> Package:
    """What a .deb holds. LabError for a file that is no package, or one for other machines."""
    if not deb.is_file():
        raise LabError("no such file" if not deb.exists() else "not a file")
    fields = Deb822(_dpkg_deb("-f", deb))
    if fields.get("Architecture", _ARCHITECTURE) not in (_ARCHITECTURE, "all"):
        raise LabError(f"a package for {fields['Architecture']}: the lab's machines are x86-64")
    name = fields.get("Package", "")
    match = _PACKAGE.fullmatch(name)
    return Package(name, fields.get("Version", ""), match["release"] if match else "")


def with_siblings(deb: Path) -> list[Path]:
    """The .debs that hold the kernel of `deb`: itself, and those beside it of the same release and version.

    LabError for a package that is broken.
    """
    asked = package(deb)
    found = [deb]
    if asked.release:
        for other in sorted(deb.parent.glob(f"linux-*{_escaped(asked.release)}*.deb")):
            named = _PACKAGE.fullmatch(other.name.split("_")[0])
            if other != deb and named and named["release"] == asked.release:
                beside = package(other)
                if (beside.release, beside.version) == (asked.release, asked.version):
                    found.append(other)
    return found


def unpack(debs: Iterable[Path], tree: Path) -> None:
    """Unpack packages into `tree`. LabError for one that is broken."""
    for deb in debs:
        _dpkg_deb("-x", deb, str(tree))


def _escaped(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _dpkg_deb(option: str, deb: Path, *arguments: str) -> str:
    program = shutil.which("dpkg-deb")
    if program is None:
        raise LabError("there is no dpkg-deb on this machine to unpack packages with: install dpkg")
    done = subprocess.run(
        [program, option, str(deb), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if done.returncode:
        # What broke comes first, and behind that what it made fail.
        reason = (done.stderr.splitlines() or ["no reason given"])[0]
        raise LabError(f"{deb} does not unpack: {_DPKG_DEB.sub('', reason)}")
    return done.stdout
