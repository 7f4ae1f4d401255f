# SPDX-License-Identifier: GPL-2.0-or-later
"""What KVM's modules are built from, for a kernel of Debian's: one tree, put together from its packages.

It holds the headers and configuration the kernel was built with, the built programs of its build system, the
CRCs of what it exports, and the sources of KVM; nothing else of the kernel's source.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from kvmharness.lab.build import make
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import archive, debs
from kvmharness.lab.kernels.packages import KernelPackage

# KVM's own source, out of the whole kernel's: the rest is in the packages with the headers.
_KVM = ("arch/x86/kvm", "virt")
_BESIDE_HEADERS = re.compile(r"linux-(headers-\d\S*-common|kbuild-\d\S*)")
_SERIES = re.compile(r"\d+\.\d+")
# Debian's packages by the programs that unpack them.
PROGRAMS = {"tar": "tar"}


def of_debian(package: KernelPackage, folder: Path) -> None:
    """Put the tree of a kernel of Debian's into `folder`; its packages are fetched beside it.

    LabError when the mirror has them no longer, or something to unpack them with is missing.
    """
    make.check_programs(PROGRAMS)
    headers = f"linux-headers-{package.release}"
    series = _SERIES.match(package.version)
    source = f"linux-source-{series[0] if series else package.version}"
    beside = filter(_BESIDE_HEADERS.fullmatch, archive.needed_by(package.suite, headers, package.version))
    names = (headers, *beside, source)
    try:
        fetched = archive.fetched(package.suite, dict.fromkeys(names, package.version), folder)
    except LabError as error:
        raise LabError(f"{package.package}: cannot fetch what it was built from: {error}") from None
    unpacked = folder / "unpacked"
    (tree := folder / "tree").mkdir()
    of_source = [deb for deb in fetched if deb.name.startswith(f"{source}_")]
    debs.unpack([deb for deb in fetched if deb not in of_source], unpacked)
    own = unpacked / "usr/src" / headers
    common = [each for each in unpacked.glob("usr/src/linux-headers-*") if each != own]
    # What the first only has to name the others by, a Makefile, the others replace.
    _merge([own, *common, *unpacked.glob("usr/lib/linux-kbuild-*")], tree)
    for deb in of_source:
        _unpack_kvm(deb, source, tree)
    shutil.rmtree(unpacked)
    for deb in fetched:
        deb.unlink()


def _merge(folders: Iterable[Path], tree: Path) -> None:
    """Copy folders into one. Of what several have the last one's counts; links to another are left out."""

    def links(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name in ("scripts", "tools") and (Path(folder) / name).is_symlink()}

    for folder in folders:
        shutil.copytree(folder, tree, symlinks=True, ignore=links, dirs_exist_ok=True)


def _unpack_kvm(deb: Path, source: str, tree: Path) -> None:
    """KVM's source out of a package whose only content is an archive of the whole kernel's."""
    debs.unpack_archive(deb, source, [f"{source}/{part}" for part in _KVM], tree)
    if not all((tree / part).is_dir() for part in _KVM):
        raise LabError(f"{deb.name} does not unpack: KVM's source is not in it")
