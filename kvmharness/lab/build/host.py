# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel that runs this machine was built from, by a name that modules are built for."""

import os
import re
from pathlib import Path

from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels.packages import FLAVOURS, flavour_of

# What Debian's build puts into uname -v: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-02)".
_DEBIAN = re.compile(r"\bDebian (\S+) \(")


def spec(root: Path = Path("/"), release: str = "", version: str = "") -> str:
    """The tree that make left where the modules say, or the package of a kernel of Debian's.

    `release` and `version` are those of uname -r and -v. LabError for any other kernel.
    """
    release, version = release or os.uname().release, version or os.uname().version
    tree = root / "lib/modules" / release / "build"
    if (tree / "arch/x86/kvm/x86.c").is_file():
        built = (tree / "include/config/kernel.release").read_text().strip()
        if built != release:
            raise LabError(f"host runs {release}, but {tree.resolve()} has gone on to {built}")
        return str(tree.resolve())
    of_debian = _DEBIAN.search(version)
    if of_debian is None:
        raise LabError(
            f"host runs {release}, which is no kernel of Debian's, and {tree} is no tree that it was built "
            "in: name the tree (make has to have been run there)"
        )
    flavour = flavour_of(release)
    if not flavour:
        raise LabError(
            f"host runs {release}: of Debian's kernels modules are built for the flavours "
            + " and ".join(FLAVOURS)
        )
    return f"debian:{of_debian[1]}:{flavour}"
