# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's modules built with patches, and nothing else of a kernel; nothing is installed.

The kernel itself stays the distribution's own. The modules are built as modules of another source would be,
against its headers and configuration, and the CRCs of what it exports keep a wrong mix from loading.
"""

import hashlib
import logging
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab import cache, kernels
from kvmharness.lab.build import debian_source, host, make, user_tree
from kvmharness.lab.build.incremental_tree import Tree
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel, config, modules, stored
from kvmharness.lab.patches import Patch, apply
from kvmharness.lab.patches.apply import PatchRefusedError

_LOG = logging.getLogger(__name__)

_KVM = "arch/x86/kvm"
# What make is told: KVM alone, without debugging information, and without BTF, which needs a program (pahole)
# and which nobody here reads.
MODULES = (f"M={_KVM}", "KCFLAGS=-g0", "CONFIG_DEBUG_INFO_BTF_MODULES=")
# Folders that hold nothing but KVM.
_KVMS = (_KVM, "virt/kvm", "virt/lib")
# A tree in which nothing was built for so long goes.
_UNUSED_S = 30 * 24 * 3600
# Programs that come with a kernel's headers (some behind a wrapper), and what the dynamic loader says where
# they are too new.
_BUILD_PROGRAMS = (
    *("scripts/basic/fixdep", "scripts/mod/modpost", "scripts/mod/modpost.real-lsb-64"),
    *("tools/objtool/objtool", "tools/objtool/objtool.real-x86"),
)
_LOADER = re.compile(r"version `\S+' not found|\S+: cannot open shared object file")


# Files by path that are not what the tree has; None for one that is gone.
Contents = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Ground:
    """What modules are built on: the kernel called `spec`, and the tree it was built from."""

    spec: str
    base: Kernel
    tree: Tree


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel with the modules that were built; where each hunk went; what is doubtful; make's whole log;
    the compiler and its version."""

    kernel: Kernel
    applied: tuple[str, ...]
    doubts: tuple[str, ...]
    log: Path
    compiler: str


def ground(spec: str, offline: bool = False) -> Ground:
    """The kernel `spec` and what it was built from, fetched if need be; LabError when they are not to be had,
    or modules cannot be built of them here."""
    if spec == "host":
        return ground(host.spec(), offline)
    # All that is missing is told at once.
    make.check_programs(debian_source.PROGRAMS if spec.startswith("debian:") else None)
    _LOG.info("%s: fetching, unless it is in the cache", spec)
    base = kernels.find(spec, offline=offline)
    if not any(base.load_order.values()):
        raise LabError(f"{spec} has KVM built in: no module can take its place")
    tree = _tree(spec, offline)
    _check_runs(spec, tree.source)
    return Ground(spec, base, tree)


def build(spec: str, patches: Sequence[Patch], name: str, offline: bool = False) -> Built:
    """Build KVM's modules for the kernel `spec` with these patches, as the kernel built:NAME.

    LabError when the kernel or what it was built from is not to be had, PatchRefusedError with every hunk
    that does not apply, CompileError when make fails.
    """
    on = ground(spec, offline)
    with cache.locked(on.tree.place):
        contents, applied = _patched(on.tree, patches)
        _LOG.info("%s: KVM's modules are built", spec)
        return _built(on, contents, applied, name)


def build_sources(on: Ground, sources: Mapping[str, str], name: str) -> Built:
    """Build KVM's modules of other sources of KVM (contents by path), as the kernel built:NAME.

    A file of KVM's own that is not among them is none of theirs, unless its whole folder is not. LabError
    when it cannot be built: CompileError when make fails.
    """
    with cache.locked(on.tree.place):
        return _built(on, _changed(on, sources), (), name)


def build_contents(on: Ground, contents: Contents, name: str) -> Built:
    """Build KVM's modules with files of these contents in place of the ground's, as the kernel built:NAME."""
    with cache.locked(on.tree.place):
        return _built(on, contents, (), name)


def contents_of_sources(on: Ground, sources: Mapping[str, str]) -> Contents:
    """What build_contents() takes for other sources of KVM, as build_sources() has them."""
    with cache.locked(on.tree.place):
        return _changed(on, sources)


def contents_of_patch(on: Ground, contents: Contents, patch: Patch) -> Contents:
    """These contents with a patch on top. PatchRefusedError where it does not apply."""
    with cache.locked(on.tree.place):
        changed, _ = _patched(on.tree, [patch], contents)
    return {**contents, **changed}


def _changed(on: Ground, sources: Mapping[str, str]) -> Contents:
    """The files of the tree that other sources of KVM change; None for one that is none of theirs."""
    roots = [root for root in _KVMS if any(path.startswith(f"{root}/") for path in sources)]
    contents: dict[str, str | None] = dict.fromkeys(on.tree.originals(roots, user_tree.is_written))
    contents |= sources
    return {path: text for path, text in contents.items() if on.tree.original(path) != text}


def _built(on: Ground, contents: Contents, applied: Sequence[str], name: str) -> Built:
    """Build in the ground's tree, which is locked, with files of these contents in place of its own."""
    spec, tree = on.spec, on.tree
    cache.used(tree.place, unused_s=lambda other: _UNUSED_S)
    tree.become(contents)
    compiler, version, doubts = _compiler(tree.source)
    asked = [*MODULES, f"CC={compiler}", "modules"]
    make.run(f"{spec} does not build with this", tree.source, asked, tree.log, doubts)
    files = modules.named((tree.source / _KVM).glob("*.ko"))
    built = {module: modules.read(path) for module, path in files.items()}
    for module, content in built.items():
        release = modules.release(module, content)
        if release != on.base.release:
            raise LabError(f"{module} was built for {release}, the kernel {spec} is {on.base.release}")
    kernel = kernels.keep_built(name, on.base, built)
    log = kernel.folder / stored.BUILD_LOG
    shutil.copyfile(tree.log, log)
    all_doubts = (*doubts, *_of_kernel(contents))
    return Built(kernel, tuple(applied), all_doubts, log, f"{compiler} {version}")


def _tree(spec: str, offline: bool) -> Tree:
    package = kernels.package_of(spec, offline)
    if package is None:
        return _tree_of_own(spec)
    place = cache.root() / "trees" / kernels.cache_name(package)
    if not place.is_dir():
        if offline:
            raise LabError(f"what {spec} was built from is not in the cache, and --offline fetches nothing")
        _LOG.info("%s: fetching what it was built from, 150 MB", spec)
        cache.published(place, lambda folder: debian_source.of_debian(package, folder))
    return Tree(place)


def _tree_of_own(spec: str) -> Tree:
    """A copy of what is needed of the user's tree, which is only read."""
    own = Path(spec)
    if "/" not in spec or not own.is_dir():
        raise LabError(
            f"{spec}: modules are built for debian:VERSION, debian:SUITE, host, or a built kernel tree"
        )
    path = own.resolve()
    name = f"local-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    tree = Tree(cache.root() / "trees" / name)
    with cache.locked(tree.place):
        tree.follow(user_tree.files(path))
    return tree


def _check_runs(spec: str, source: Path) -> None:
    """LabError where a program of the kernel's build system does not run here: they come built."""
    for program in (source / name for name in _BUILD_PROGRAMS if (source / name).exists()):
        try:
            done = subprocess.run([program], capture_output=True, check=False, stdin=subprocess.DEVNULL)
            lacks = _LOADER.search(done.stderr.decode(errors="replace"))
            reason = lacks[0] if lacks else ""
        except OSError as error:
            reason = error.strerror or str(error)
        if reason:
            raise LabError(
                f"{spec}: its build system's {program.name} does not run on this machine ({reason}): build "
                "where the distribution is as new as the kernel's"
            )


def _patched(
    tree: Tree, patches: Sequence[Patch], on_top_of: Contents | None = None
) -> tuple[dict[str, str], list[str]]:
    """The files that the patches change, as one after the other leaves them, and where each hunk went.

    `on_top_of` are files that are not the tree's own any more.
    """
    below = on_top_of or {}
    contents: dict[str, str] = {}
    applied: list[str] = []
    summaries: list[str] = []
    troubles: list[str] = []
    for patch in patches:
        for file in patch.files:
            if file.path in contents or file.path in below:
                before = contents.get(file.path, below.get(file.path))
            else:
                before = tree.original(file.path)
            try:
                result = apply.apply(file, before)
            except PatchRefusedError as refused:
                summaries.append(str(refused))
                troubles += refused.details
                continue
            contents[file.path] = result.text
            applied.append(f"{file.path}: at {', '.join(map(str, result.at))}")
    if summaries:
        raise PatchRefusedError(summaries[0], troubles)
    return contents, applied


def _compiler(source: Path) -> tuple[str, str, list[str]]:
    """The compiler that built the kernel, or the one that is here, its version, and what is doubtful."""
    options = config.read(source / ".config") or {}
    named = options.get("CONFIG_CC_VERSION_TEXT", "gcc").strip('"').split()[0]
    compiler = named if named.startswith("gcc") and shutil.which(named) else "gcc"
    command = [compiler, "-dumpfullversion"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    here = done.stdout.strip()
    number = int(options.get("CONFIG_GCC_VERSION", "0"))
    theirs = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    differs = number and theirs != here
    doubts = [f"the kernel was built by gcc {theirs}, the modules by {here}"] if differs else []
    return compiler, here, doubts


def _of_kernel(contents: Contents) -> list[str]:
    """Headers that the kernel itself was most likely built with too: a change of their structs would harm."""
    others = [path for path in contents if path.startswith(("include/", "arch/x86/include/"))]
    return [
        f"{path} is changed for the modules alone: the kernel stays as it was built"
        for path in others
        if "kvm" not in path.rpartition("/")[2]
    ]
