# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel of Debian's in the cache, and what its modules are built from, with a make that is made up."""

import shutil
from pathlib import Path

import pytest

from kvmharness.lab import cache, kernels
from kvmharness.lab.build.incremental_tree import Tree
from kvmharness.lab.kernels import locate, stored
from kvmharness.lab.kernels.packages import KernelPackage
from tests.made_up_kernels import RELEASE, module, put, put_tree
from tests.made_up_mails import SOURCE, SOURCE_PATH

PACKAGE = KernelPackage(f"linux-image-{RELEASE}-cloud-amd64", "6.18-1", f"{RELEASE}-cloud-amd64")
SPEC = "debian:6.18"
# A compiler that puts a module and its source into one file, and dislikes a word.
MAKEFILE = """\
objects := $(M)/kvm.ko $(M)/kvm-amd.ko
modules: $(objects)
$(M)/kvm.ko: $(M)/clock.c
	@echo "  CC [M]  $<"
	@if grep -n hate $<; then printf '%s:3:1: error: expected love\\n    3 | hate\\n' $<; false; fi
	@cat scripts/kvm.bin $< > $@
$(M)/kvm-amd.ko: $(M)/amd.c
	@echo "  CC [M]  $<"
	@cp scripts/amd.bin $@
"""

needs_a_compiler = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("make", "gcc", "ld", "setpriv")),
    reason="missing capability: a compiler",
)


def put_debian(folder: Path) -> Tree:
    """Both; the kernel by way of a tree in a folder."""
    parts = locate.gather(locate.of_path(put_tree(folder)))
    place = cache.root() / "kernels" / kernels.cache_name(PACKAGE)
    place.mkdir(parents=True)
    stored.keep(parts, place, f"debian:{PACKAGE.version}")
    tree = Tree(cache.root() / "trees" / kernels.cache_name(PACKAGE))
    put(tree.source / "Makefile", MAKEFILE)
    put(tree.source / "scripts/kvm.bin", module(RELEASE, "irqbypass"))
    put(tree.source / "scripts/amd.bin", module(RELEASE, "kvm"))
    put(tree.source / SOURCE_PATH, SOURCE)
    put(tree.source / "arch/x86/kvm/amd.c")
    return tree
