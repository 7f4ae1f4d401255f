# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels by name: fetched, unpacked, and kept ready to boot.

A kernel is named
    debian:VERSION    the newest kernel of this machine's Debian sources whose version begins so
                      (6.1 means 6.1.x, not 6.12)
"""

import difflib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab import apt, cache, modules, vmlinux
from kvmharness.lab.errors import LabError

# KVM's two vendor modules; a machine loads the one for its CPU.
VENDOR_MODULES = ("kvm_amd", "kvm_intel")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel ready to boot: `spec` as the user named it, `release` as uname -r prints it.

    `folder` holds vmlinux and the modules; `load_order` says which files to load for a vendor module.
    """

    spec: str
    release: str
    folder: Path
    load_order: dict[str, list[str]]

    @property
    def vmlinux(self) -> Path:
        """The ELF kernel."""
        return self.folder / "vmlinux"

    def modules_for(self, vendor_module: str) -> list[Path]:
        """The modules to load, in order; LabError when the kernel lacks the vendor module."""
        if vendor_module not in self.load_order:
            raise LabError(f"{self.spec} ({self.release}) has no module {vendor_module}")
        return [self.folder / name for name in self.load_order[vendor_module]]


def find(spec: str) -> Kernel:
    """The kernel called `spec`, fetched if it is not in the cache. LabError when there is none."""
    kind, colon, version = spec.partition(":")
    if kind != "debian" or not colon or not version:
        raise LabError(f"unknown kernel {spec!r}: name it debian:VERSION, as in debian:6.1")
    package = _choose(spec, version)
    place = cache.root() / "kernels" / cache_name(package)
    cache.published(place, lambda folder: _build(package, folder))
    return _load(spec, place)


def cache_name(package: apt.KernelPackage) -> str:
    """What a package's kernel is called in the cache."""
    return f"{package.package}_{package.version}"


def cached() -> list[str]:
    """The kernels in the cache, by cache_name()."""
    folder = cache.root() / "kernels"
    return sorted(path.parent.name for path in folder.glob("*/kernel.json"))


def _choose(spec: str, version: str) -> apt.KernelPackage:
    packages = apt.offered()
    package = apt.matching(version, packages)
    if package is None:
        packages = apt.offered(refresh=True)
        package = apt.matching(version, packages)
    if package is None:
        series = sorted({"debian:" + ".".join(each.version.split(".")[:2]) for each in packages})
        near = difflib.get_close_matches(spec, series, cutoff=0.3) or series
        raise LabError(
            f"unknown kernel {spec!r}: the apt sources here offer {', '.join(near) or 'no kernel at all'}"
        )
    return package


def _build(package: apt.KernelPackage, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as scratch:
        deb = apt.download(package, Path(scratch))
        tree = Path(scratch) / "tree"
        done = subprocess.run(
            ["dpkg-deb", "-x", deb, tree],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise LabError(
                f"{deb.name} does not unpack: {(done.stderr.splitlines() or ['no reason given'])[-1]}"
            )
        _take(package.release, tree, folder)


def _take(release: str, tree: Path, folder: Path) -> None:
    """Keep of an unpacked package what the lab boots: the kernel as ELF, KVM's modules, their order."""
    images = sorted(tree.glob(f"boot/vmlinuz-{release}"))
    if not images:
        raise LabError(f"the package of {release} holds no boot/vmlinuz-{release}")
    (folder / "vmlinux").write_bytes(vmlinux.extract(images[0].read_bytes()))
    available = modules.find(tree)
    load_order = {}
    for vendor_module in VENDOR_MODULES:
        if vendor_module in available:
            ordered = modules.load_order(vendor_module, available)
            for name, module in ordered.items():
                (folder / f"{name}.ko").write_bytes(modules.without_signature(module))
            load_order[vendor_module] = [f"{name}.ko" for name in ordered]
    if not load_order:
        raise LabError(f"{release} has neither {' nor '.join(VENDOR_MODULES)}: a kernel without KVM")
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    description = {"release": release, "load_order": load_order, "sizes": sizes}
    (folder / "kernel.json").write_text(json.dumps(description, indent=1))


def _load(spec: str, place: Path) -> Kernel:
    try:
        description = json.loads((place / "kernel.json").read_text())
        for name, size in description["sizes"].items():
            if (place / name).stat().st_size != size:
                raise LabError(f"{place / name} was damaged: remove {place} and try again")
        return Kernel(spec, description["release"], place, description["load_order"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise LabError(f"{place} is not what it was: remove it and try again") from None
