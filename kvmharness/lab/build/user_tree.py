# SPDX-License-Identifier: GPL-2.0-or-later
"""What KVM's modules are built from, for a kernel tree of the user's own: a part of it.

The tree itself is only read. It may be one in which make was run, or make's O= folder.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from kvmharness.lab.errors import LabError

# What modules of another source are built with: newer kernels have a list in
# scripts/package/install-extmod-build.
_OF_SOURCE = ("Makefile", "arch/x86/Makefile", "arch/x86/Makefile_32.cpu", "arch/x86/Makefile.postlink")
_OF_MAKE = (
    *(".config", "Module.symvers", "arch/x86/module.lds"),
    *("tools/objtool/objtool", "tools/bpf/resolve_btfids/resolve_btfids"),
)
_FOLDERS = ("include", "arch/x86/include", "scripts")
# KVM: of these only what people write, since what make left of them was built without the patch.
_SOURCES = ("arch/x86/kvm", "virt")
_WRITTEN = (".c", ".h", ".S")
# Headers that the kernel itself is built with too; those of KVM's among them, by their names.
_HEADERS = ("arch/x86/include", "include")
_OF_KVM = re.compile(r"(kvm|svm|vmx).*\.h")
_HEADER = re.compile(r".*\.h")
_LEFT_BY_MAKE = (".o", ".cmd", ".a", ".ko")


def files(tree: Path) -> dict[str, Path]:
    """The files to build from, by their paths below the tree. LabError when make was not run there."""
    left_by_make = (".config", "Module.symvers", "include/config/auto.conf")
    lacking = [name for name in left_by_make if not (tree / name).is_file()]
    if lacking:
        raise LabError(f"{tree} has no {lacking[0]}: run make there")
    # make O= leaves a link to the source there, and a Makefile that leads to it.
    source = (tree / "source").resolve() if (tree / "source").is_symlink() else tree
    found = {name: source / name for name in _OF_SOURCE if (source / name).is_file()}
    found |= {name: tree / name for name in _OF_MAKE if (tree / name).is_file()}
    for root in dict.fromkeys((source, tree)):
        for folder in _FOLDERS:
            found.update(_below(root, folder))
        for folder in _SOURCES:
            found.update((name, path) for name, path in _below(root, folder) if is_written(path))
    if not any(name.startswith(_SOURCES[0]) for name in found):
        raise LabError(f"{tree} has no source of KVM: it is neither a kernel's tree nor one of make O=")
    return found


def is_whole(tree: Path) -> bool:
    """Whether a folder holds the source of a whole kernel, and not of KVM alone."""
    return (tree / "Kconfig").is_file()


def of_kvm(tree: Path) -> dict[str, str]:
    """KVM's own source in a tree, contents by path; odd bytes are surrogates. LabError when it has none.

    In a tree of KVM alone these are also all headers; in a whole kernel's only those named for KVM, because
    the others are what the kernel that modules are built for was built with.
    """
    found = {name: path for each in _SOURCES for name, path in _below(tree, each) if is_written(path)}
    if not any(name.startswith(f"{_SOURCES[0]}/") for name in found):
        raise LabError(f"{tree} has no source of KVM: there is no {_SOURCES[0]} in it")
    wanted = _OF_KVM if is_whole(tree) else _HEADER
    headers = [each for folder in _HEADERS for each in _below(tree, folder)]
    found |= {name: path for name, path in headers if wanted.fullmatch(path.name)}
    return {name: path.read_bytes().decode(errors="surrogateescape") for name, path in found.items()}


def is_of_kvm(path: str, *, whole: bool) -> bool:
    """Whether of_kvm() takes a file at that path; `whole` says whether the tree is a whole kernel's."""
    if path.startswith(tuple(f"{each}/" for each in _SOURCES)):
        return is_written(Path(path)) and not path.endswith(_LEFT_BY_MAKE)
    wanted = _OF_KVM if whole else _HEADER
    return path.startswith(tuple(f"{each}/" for each in _HEADERS)) and bool(wanted.fullmatch(Path(path).name))


def _below(root: Path, folder: str) -> Iterator[tuple[str, Path]]:
    """The files in a folder of a tree, by their paths below the tree; not what the compiler left."""
    for at, _, names in os.walk(root / folder):
        for name in names:
            path = Path(at, name)
            if not name.endswith(_LEFT_BY_MAKE) and path.is_file():
                yield str(path.relative_to(root)), path


def is_written(path: Path) -> bool:
    """Whether a file among KVM's sources is one that people write."""
    generated = path.name == "kvm-asm-offsets.h" or path.name.endswith(".mod.c")
    return (path.suffix in _WRITTEN and not generated) or path.name.startswith(("Makefile", "Kbuild"))
