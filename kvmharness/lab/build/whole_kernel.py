# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole kernel built from its source, again and again as the source changes.

make knows what a change concerns: of one to KVM alone nothing but its modules is compiled.
"""

import hashlib
import logging
from pathlib import Path

from kvmharness.lab import cache
from kvmharness.lab.build import make
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import config

_LOG = logging.getLogger(__name__)

_SMALL = Path(__file__).with_name("small.config")
# By these make itself knows a tree that it cannot build elsewhere (its target outputmakefile).
_LEFT = ("include/config", "arch/x86/include/generated")
_PROGRAMS = {"flex": "flex", "bison": "bison", "bc": "bc"}
_HEADERS = {"gelf.h": "libelf-dev"}  # of objtool


def check(tree: Path) -> None:
    """LabError where no kernel can be built of a tree here."""
    make.check_programs(_PROGRAMS, _HEADERS)
    own = config.read(tree / ".config")
    if own is not None:
        try:
            config.check(own)
        except LabError as error:
            raise LabError(f"{tree}: {error}") from None
    elif any((tree / folder).is_dir() for folder in _LEFT):
        raise LabError(f"{tree} has no .config, but make was run in it: make a .config, or run make mrproper")


def build(tree: Path) -> Path:
    """Build the kernel of a tree and its modules; the folder where they are.

    A tree with a .config is built in place and with that. Any other is not written to: it is built with a
    small configuration, in the cache. CompileError when make fails.
    """
    place = cache.root() / "trees" / f"whole-{hashlib.sha256(str(tree).encode()).hexdigest()[:16]}"
    with cache.locked(place):
        cache.used(place)
        in_place = (tree / ".config").is_file()
        folder = tree if in_place else place / "built"
        folder.mkdir(exist_ok=True)
        where = [] if in_place else [f"O={folder}"]
        configured = ["olddefconfig"] if in_place else [f"KCONFIG_ALLCONFIG={_SMALL}", "allnoconfig"]
        fails = f"{tree} does not build"
        _LOG.info("%s: the kernel is built", tree)
        make.run(fails, tree, [*where, *configured], place / "config.log")
        make.run(fails, tree, [*where, "bzImage", "modules"], place / "build.log")
    return folder
