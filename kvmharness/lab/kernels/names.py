# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels by name: fetched or found, unpacked, and kept ready to boot.

A kernel is named
    debian:VERSION    the newest kernel of this machine's Debian sources whose version begins so
                      (6.1 means 6.1.x, not 6.12); the newest of Debian's suites, if they have none
    debian:SUITE      the kernel that a suite (bullseye, sid) installs by itself
    debian:...:amd64  that flavour of either, which physical machines run, instead of cloud-amd64
    host              the kernel that runs this machine
    built:NAME        what `kvmharness lab build` made
    PATH              an image, a built kernel tree, or a .deb
"""

import difflib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab import cache
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import archive, debs, locate, packages, stored, suites
from kvmharness.lab.kernels.packages import FLAVOURS, KernelPackage, flavour_of
from kvmharness.lab.kernels.stored import BUILT, Kernel

__all__ = [
    "BUILT",
    "Cached",
    "Kernel",
    "cache_name",
    "cached",
    "find",
    "keep_built",
    "package_of",
    "takes_modules",
]

_DEBIAN = "debian:"
_HOST = "host"
_BUILT_PREFIX = "built-"
# What somebody writes who means a version.
_VERSION = re.compile(r"(?:linux-|v)?(\d+\.\d[\w.+~-]*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
# Kernels from a path are kept until something else is found there, or nothing, but not taken from under a
# run that may still boot them; and in any case only until nobody has asked for them this long.
_LOCAL = "local"
_SUPERSEDED_S = 3600
_UNUSED_S = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Cached:
    """A kernel in the cache: what to call it, and its release."""

    spec: str
    release: str


def find(spec: str, modules_folder: Path | None = None, offline: bool = False) -> Kernel:
    """The kernel called `spec`, fetched if it is not in the cache; with `offline` it has to be there.

    `modules_folder` is where the modules of a kernel from a path are (see takes_modules()). LabError,
    saying what is missing, when there is no such kernel or the lab cannot boot it.
    """
    package = package_of(spec, offline)
    if package is not None:
        return _find_debian(spec, package, offline)
    if spec.startswith(BUILT):
        return _find_built(spec, spec.removeprefix(BUILT))
    path = Path(spec)
    if spec != _HOST and "/" not in spec and path.suffix != ".deb" and not os.path.lexists(spec):
        version = _VERSION.fullmatch(spec)
        meant = "name it debian:VERSION, as in debian:6.1, or host, or by a path"
        if version:
            meant = f"did you mean {_DEBIAN}{version[1]}?"
        raise LabError(f"unknown kernel {spec!r}: {meant}")
    try:
        if spec != _HOST and debs.is_deb(path):
            return _find_deb(spec, path)
        place = locate.of_host() if spec == _HOST else locate.of_path(path, modules_folder)
        parts = locate.gather(place)
        content = hashlib.sha256(parts.image)
        for order in parts.load_order.values():
            for name, module in order.items():
                content.update(f"\0{name}\0{len(module)}\0".encode() + module)
        called = _HOST if spec == _HOST else str(path.absolute())
        return _found_locally(
            spec, place.image, content.digest(), lambda folder: stored.keep(parts, folder, called)
        )
    except LabError as error:
        text = str(error)
        raise LabError(text if text.startswith(spec) else f"{spec}: {text}") from None
    except OSError as error:
        raise LabError(f"{spec}: cannot read {error.filename or path}: {error.strerror}") from None


def takes_modules(spec: str) -> bool:
    """Whether a kernel called so may have its modules elsewhere."""
    return not spec.startswith((_DEBIAN, BUILT)) and spec != _HOST and not debs.is_deb(Path(spec))


def cache_name(package: KernelPackage) -> str:
    """What a package's kernel is called in the cache."""
    return f"{package.package}_{package.version}"


def cached() -> list[Cached]:
    """The kernels in the cache: those of Debian oldest first, then those that were built, or from a path."""
    found = [Cached(each.spec, each.release) for each in _cached_packages()]
    places_of = [
        place for name in (_BUILT_PREFIX, f"{_LOCAL}-") for place in sorted(_kernels().glob(f"{name}*"))
    ]
    local = [stored.description(place) for place in places_of]
    others = {(str(each["spec"]), str(each["release"])) for each in local if "spec" in each}
    return found + [Cached(*each) for each in sorted(others)]


def _kernels() -> Path:
    return cache.root() / "kernels"


def _cached_packages() -> list[KernelPackage]:
    """Debian's kernels in the cache, oldest first."""
    found = []
    for description in _kernels().glob("linux-image-*_*/kernel.json"):
        package, _, version = description.parent.name.partition("_")
        found.append(KernelPackage(package, version, package.removeprefix("linux-image-")))
    return packages.by_version(found)


def package_of(spec: str, offline: bool = False) -> KernelPackage | None:
    """The package that holds a kernel of Debian's; None for any other kernel. LabError when there is none.

    With `offline` it is one that is in the cache, and of which suite it was is not known.
    """
    if not spec.startswith(_DEBIAN):
        return None
    name, colon, flavour = spec.removeprefix(_DEBIAN).partition(":")
    by_version = name[:1].isdigit()
    if not by_version and name not in suites.SUITES:
        raise LabError(
            f"unknown kernel {spec!r}: name it debian:VERSION, as in debian:6.1, or debian:SUITE, "
            f"which is one of {', '.join(suites.SUITES)}"
        )
    if colon and flavour not in FLAVOURS:
        raise LabError(f"unknown kernel {spec!r}: its flavour is one of {', '.join(FLAVOURS)}")
    flavour = flavour or flavour_of(name) or FLAVOURS[0]  # a release, as uname -r has it, says its own
    if offline:
        return _of_cache(spec, name, flavour)
    return _of_version(spec, name, flavour) if by_version else _of_suite(spec, name, flavour)


def _find_debian(spec: str, package: KernelPackage, offline: bool) -> Kernel:
    """A kernel of Debian's. One that is damaged in the cache is fetched again."""
    place = _kernels() / cache_name(package)
    if offline:
        return stored.load(spec, place)
    return _published(spec, place, lambda folder: _build(package, folder))


def _find_built(spec: str, name: str) -> Kernel:
    place = _built(name)
    if not _NAME.fullmatch(name) or not place.is_dir():
        names = [each.spec for each in cached() if each.spec.startswith(BUILT)]
        near = difflib.get_close_matches(spec, names) or names
        there = f"there is {', '.join(near)}" if near else "`kvmharness lab build` has made none"
        raise LabError(f"unknown kernel {spec!r}: {there}")
    cache.used(place, f"{_BUILT_PREFIX}*", lambda other: _UNUSED_S)
    return stored.load(spec, place)


def keep_built(name: str, base: Kernel, modules: Mapping[str, bytes]) -> Kernel:
    """Keep `base` with other modules as built:NAME, in place of what was called so before.

    LabError for a name that is none, and where the modules do not fit the kernel.
    """
    if not _NAME.fullmatch(name):
        raise LabError(f"{name!r} is no name for a kernel: take letters, digits and any of . _ + ~ -")
    spec, place = BUILT + name, _built(name)
    cache.removed(place)
    cache.published(place, lambda folder: stored.keep_with(base, modules, folder, spec))
    return _find_built(spec, name)


def _built(name: str) -> Path:
    return _kernels() / f"{_BUILT_PREFIX}{name}"


def _of_cache(spec: str, name: str, flavour: str) -> KernelPackage:
    """The kernel of that version or suite in the cache; which suite has which, as far as it was asked."""
    there = _cached_packages()
    if name in suites.SUITES:
        of_suite = packages.of_flavour(flavour, suites.remembered(name))
        usual = [each for each in of_suite if each.usual] or of_suite
        names = {cache_name(each) for each in usual}
        package = packages.newest(each for each in there if cache_name(each) in names)
    else:
        package = packages.matching(name, there, flavour)
    if package is None:
        has = ", ".join(each.spec for each in there)
        raise LabError(
            f"{spec} is not in the cache, which has {has or 'none of Debian'}, and --offline fetches nothing"
        )
    return package


def _of_version(spec: str, version: str, flavour: str) -> KernelPackage:
    """The kernel of a version. First what is known of the machine's sources, then of the other suites;
    both are asked again, and only then is it unknown."""
    troubles: list[str] = []
    for refresh in (False, True):
        own = archive.offered(refresh)
        package = packages.matching(version, own, flavour)
        if package is not None:
            return package
        others, troubles = _all_suites(refresh)
        package = packages.matching(version, others, flavour)
        if package is not None:
            return package
    offered = packages.of_flavour(flavour, (*own, *others))
    series = {".".join(each.version.split(".")[:2]) for each in offered}
    named = spec.removeprefix(_DEBIAN + version)  # the flavour, as far as it was named
    offers = ", ".join(f"{_DEBIAN}{each}{named}" for each in sorted(series, key=_by_number))
    raise LabError(
        f"unknown kernel {spec!r}: Debian's mirror offers {offers or 'no kernel at all'}"
        + "".join(f"; not asked: {trouble}" for trouble in troubles[:1])
    )


def _by_number(series: str) -> list[int]:
    """What to sort a series by: 6.1 comes before 6.12, and that after 6.2."""
    return [int(number) for number in re.findall(r"\d+", series)]


def _all_suites(refresh: bool) -> tuple[list[KernelPackage], list[str]]:
    found, troubles = [], []
    for suite in suites.SUITES:
        of_suite, troubles_of_suite = suites.offered(suite, refresh)
        found += of_suite
        troubles += troubles_of_suite
    return found, troubles


def _of_suite(spec: str, suite: str, flavour: str) -> KernelPackage:
    all_of_suite, troubles = suites.offered(suite)
    of_suite = packages.of_flavour(flavour, all_of_suite)
    # Suites also have later kernels for those who want them; theirs is the one they install.
    package = packages.newest(each for each in of_suite if each.usual) or packages.newest(of_suite)
    if package is None:
        reason = troubles[0] if troubles else f"it has no kernel for {flavour}"
        raise LabError(f"no kernel {spec!r}: {reason}")
    return package


def _find_deb(spec: str, deb: Path) -> Kernel:
    files = debs.with_siblings(deb)
    content = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            content.update(hashlib.file_digest(opened, "sha256").digest())
    release = debs.package(deb).release

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as scratch:
            debs.unpack(files, Path(scratch))
            try:
                parts = locate.gather(locate.of_unpacked(Path(scratch), release))
            except LabError as error:
                raise LabError(
                    f"{str(error).replace(scratch, '')}; looked into {', '.join(file.name for file in files)}"
                ) from None
            stored.keep(parts, folder, str(deb.absolute()))

    return _found_locally(spec, deb, content.digest(), build)


def _build(package: KernelPackage, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as scratch:
        tree = Path(scratch) / "tree"
        found = archive.download(package, Path(scratch))
        try:
            debs.unpack(found, tree)
            parts = locate.gather(locate.of_unpacked(tree, package.release))
        except LabError as error:
            raise LabError(f"{package.package}: {str(error).replace(str(tree), '')}") from None
        stored.keep(parts, folder, package.spec)


def _found_locally(spec: str, path: Path, content: bytes, build: Callable[[Path], None]) -> Kernel:
    """A kernel from a path, kept under both: so a tree that was built again is another kernel, and what
    it was before can go."""
    of_path = f"{_LOCAL}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    place = _kernels() / f"{of_path}-{content.hex()[:16]}"
    kernel = _published(spec, place, build)

    def unused_s(other: Path) -> float:
        superseded = other.name.startswith(of_path) or _is_gone(other)
        return _SUPERSEDED_S if superseded else _UNUSED_S

    cache.used(place, f"{_LOCAL}-*", unused_s)
    return kernel


def _is_gone(place: Path) -> bool:
    """Whether what a kernel in the cache was made of is no longer there."""
    spec = stored.description(place).get("spec", _HOST)
    return spec != _HOST and not os.path.lexists(str(spec))


def _published(spec: str, place: Path, build: Callable[[Path], None]) -> Kernel:
    """The kernel in `place`, built if it is not there, and built again if it is not as it was."""
    cache.published(place, build)
    try:
        return stored.load(spec, place)
    except stored.DamagedError:
        cache.removed(place)
    cache.published(place, build)
    return stored.load(spec, place)
