# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's modules built with patches, and nothing else of a kernel; nothing is installed.

The kernel itself stays the distribution's own. The modules are built as modules of another source would be,
against its headers and configuration, and the CRCs of what it exports keep a wrong mix from loading.
"""

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab import cache, config, hunks, kept, kernels, modules, owntree, sources
from kvmharness.lab.errors import LabError
from kvmharness.lab.hunks import RefusedError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.patches import Patch
from kvmharness.lab.tree import Tree

_KVM = "arch/x86/kvm"
# What make is told: KVM alone, without debugging information, and without BTF, which needs a program (pahole)
# and which nobody here reads.
MODULES = (f"M={_KVM}", "KCFLAGS=-g0", "CONFIG_DEBUG_INFO_BTF_MODULES=")
_UNUSED_S = 30 * 24 * 3600
# How many errors of the compiler are shown; the log has all.
_SHOWN = 5
# What the environment of a make above us, or of a kernel developer, would change about the build.
_NOT_OURS = re.compile(
    r"MAKE|MFLAGS|KBUILD|KC|KAFLAGS|KCPP|ARCH$|CROSS_COMPILE|LLVM|CC$|HOSTCC|M$|O$|V$|W$|INSTALL"
)
_ERROR = re.compile(r"(?P<where>[\w./+-]+:\d+)(:\d+)?: (fatal )?error: (?P<what>.*)")
# Programs that come with a kernel's headers (some behind a wrapper), and what the dynamic loader says where
# they are too new.
_BUILD_PROGRAMS = (
    *("scripts/basic/fixdep", "scripts/mod/modpost", "scripts/mod/modpost.real-lsb-64"),
    *("tools/objtool/objtool", "tools/objtool/objtool.real-x86"),
)
_LOADER = re.compile(r"version `\S+' not found|\S+: cannot open shared object file")
# Errors of others than the compiler, from what is plainest to what only comes of them.
_OTHERS = (
    re.compile(r".*error: unrecognized command-line option.*"),
    re.compile(r"ERROR: .*"),
    re.compile(r".*: (command )?not found|(\S*-)?ld(\.bfd)?: .*"),
    re.compile(r"make.*\*\*\* (?!Deleting|Waiting).*"),
)


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel with the modules that were built; where each hunk went; what is doubtful; make's whole log."""

    kernel: Kernel
    applied: tuple[str, ...]
    doubts: tuple[str, ...]
    log: Path


class CompileError(LabError):
    """The modules do not compile. `details` are the compiler's first errors, each with its line of source."""

    def __init__(self, summary: str, details: Sequence[str]) -> None:
        super().__init__(summary)
        self.details = tuple(details)


def build(
    spec: str,
    patches: Sequence[Patch],
    name: str,
    offline: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Built:
    """Build KVM's modules for the kernel `spec` with these patches, as the kernel built:NAME.

    LabError when the kernel or what it was built from is not to be had, RefusedError with every hunk that
    does not apply, CompileError when make fails.
    """
    _check_programs()
    progress(f"{spec}: fetching, unless it is in the cache")
    base = kernels.find(spec, offline=offline)
    if not any(base.load_order.values()):
        raise LabError(f"{spec} has KVM built in: no module can take its place")
    tree = _tree(spec, offline, progress)
    _check_runs(spec, tree.source)
    with cache.locked(tree.place):
        _forget_others(tree.place)
        contents, applied = _patched(tree, patches)
        tree.become(contents)
        compiler, doubts = _compiler(tree.source)
        progress(f"{spec}: KVM's modules are built")
        _make(spec, tree, compiler, doubts)
        files = modules.named((tree.source / _KVM).glob("*.ko"))
        built = {module: modules.read(path) for module, path in files.items()}
        for module, content in built.items():
            release = modules.release(module, content)
            if release != base.release:
                raise LabError(f"{module} was built for {release}, the kernel {spec} is {base.release}")
        kernel = kernels.keep_built(name, base, built)
        log = kernel.folder / kept.BUILD_LOG
        shutil.copyfile(tree.log, log)
    return Built(kernel, tuple(applied), (*doubts, *_of_kernel(contents)), log)


def _check_programs() -> None:
    packages = {"make": "make", "gcc": "gcc", "ld": "binutils", "setpriv": "util-linux"}
    missing = [name for name in packages if shutil.which(name) is None]
    if missing:
        lacking = " ".join(packages[name] for name in missing)
        raise LabError(f"there is no {missing[0]} on this machine to build modules with: install {lacking}")


def _tree(spec: str, offline: bool, progress: Callable[[str], None]) -> Tree:
    package = kernels.package_of(spec, offline)
    if package is None:
        return _tree_of_own(spec)
    place = cache.root() / "trees" / kernels.cache_name(package)
    if not place.is_dir():
        if offline:
            raise LabError(f"what {spec} was built from is not in the cache, and --offline fetches nothing")
        progress(f"{spec}: fetching what it was built from, 150 MB")
        cache.published(place, lambda folder: sources.of_debian(package, folder))
    return Tree(place)


def _tree_of_own(spec: str) -> Tree:
    """A copy of what is needed of the user's tree, which is only read."""
    own = Path(spec)
    if "/" not in spec or not own.is_dir():
        raise LabError(f"{spec}: modules are built for debian:VERSION, debian:SUITE, or a built kernel tree")
    path = own.resolve()
    name = f"local-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    tree = Tree(cache.root() / "trees" / name)
    with cache.locked(tree.place):
        tree.follow(owntree.files(path))
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


def _forget_others(place: Path) -> None:
    """Take trees out of the cache in which nothing was built for long."""
    try:
        os.utime(place)
        for other in place.parent.iterdir():
            if other.is_dir() and time.time() - other.stat().st_mtime > _UNUSED_S:
                cache.removed(other)
    except OSError:
        pass  # somebody else was first, or the cache is read-only


def _patched(tree: Tree, patches: Sequence[Patch]) -> tuple[dict[str, str], list[str]]:
    """The files that the patches change, as one after the other leaves them, and where each hunk went."""
    contents: dict[str, str] = {}
    applied: list[str] = []
    summaries: list[str] = []
    troubles: list[str] = []
    for patch in patches:
        for file in patch.files:
            before = contents[file.path] if file.path in contents else tree.original(file.path)
            try:
                result = hunks.apply(file, before)
            except RefusedError as refused:
                summaries.append(str(refused))
                troubles += refused.details
                continue
            contents[file.path] = result.text
            applied.append(f"{file.path}: at {', '.join(map(str, result.at))}")
    if summaries:
        raise RefusedError(summaries[0], troubles)
    return contents, applied


def _compiler(source: Path) -> tuple[list[str], list[str]]:
    """What tells make to take the compiler that built the kernel, if it is here; and what is doubtful."""
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
    return [f"CC={compiler}"], doubts


def _of_kernel(contents: dict[str, str]) -> list[str]:
    """Headers that the kernel itself was most likely built with too: a change of their structs would harm."""
    others = [path for path in contents if path.startswith(("include/", "arch/x86/include/"))]
    return [
        f"{path} is changed for the modules alone: the kernel stays as it was built"
        for path in others
        if "kvm" not in path.rpartition("/")[2]
    ]


def _make(spec: str, tree: Tree, compiler: Sequence[str], doubts: Sequence[str]) -> None:
    command = ["setpriv", "--pdeathsig", "TERM", "--", "make", "-C", str(tree.source)]
    command += [f"-j{os.cpu_count() or 1}", *MODULES, *compiler, "modules"]
    environment = {name: value for name, value in os.environ.items() if not _NOT_OURS.match(name)}
    with (
        tree.log.open("wb") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, "LC_ALL": "C"},
            start_new_session=True,
        ) as make,
    ):
        try:
            status = make.wait()
        except BaseException:
            make.terminate()
            raise
    if status:
        errors = complaints(tree.log.read_text(errors="replace"))
        also = "".join(f"; {doubt}" for doubt in doubts)
        summary = f"{spec} does not build with this: {errors[0]}{also} (the whole log: {tree.log})"
        raise CompileError(summary, errors[1:])


def complaints(log: str) -> list[str]:
    """What went wrong in a log of make's: the compiler's first errors, each with its line of source behind
    it, and how many more there are; where the compiler has none, the plainest of what the others said."""
    lines = log.splitlines()
    found = [at for at, line in enumerate(lines) if _ERROR.match(line)]
    if not found:
        by_kind = ([line for line in lines if each.fullmatch(line)] for each in _OTHERS)
        return next((kind[:_SHOWN] for kind in by_kind if kind), lines[-1:] or ["make failed without a word"])
    shown = []
    for at in found[:_SHOWN]:
        error = _ERROR.match(lines[at])
        shown.append(f"{error['where']}: {error['what']}" if error else lines[at])
        if re.match(r" +\d+ \|", lines[at + 1] if at + 1 < len(lines) else ""):
            shown.append(f"    {lines[at + 1].partition('|')[2].strip()}")
    more = len(found) - _SHOWN
    return shown + ([f"and {more} more"] if more > 0 else [])
