# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels by name: fetched, unpacked, and kept ready to boot.

A kernel is named
    debian:VERSION    the newest kernel of this machine's Debian sources whose version begins so
                      (6.1 means 6.1.x, not 6.12); the newest of Debian's suites, if they have none
    debian:SUITE      the kernel that a suite (bullseye, sid) installs by itself
"""

import difflib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab import apt, cache, modules, suites, vmlinux
from kvmharness.lab.errors import LabError

# KVM's two vendor modules; a machine loads the one for its CPU.
VENDOR_MODULES = ("kvm_amd", "kvm_intel")

# What _take() leaves in the cache. A kernel kept in another format is fetched and unpacked again.
_FORMAT = 1


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
    kind, colon, name = spec.partition(":")
    if kind != "debian" or not colon or not name:
        raise LabError(f"unknown kernel {spec!r}: name it debian:VERSION, as in debian:6.1")
    package = _of_version(spec, name) if name[0].isdigit() else _of_suite(spec, name)
    place = cache.root() / "kernels" / cache_name(package)
    if _format_of(place) not in (None, _FORMAT):
        cache.removed(place)
    cache.published(place, lambda folder: _build(package, folder))
    return _load(spec, place)


def cache_name(package: apt.KernelPackage) -> str:
    """What a package's kernel is called in the cache."""
    return f"{package.package}_{package.version}"


def cached() -> list[str]:
    """The kernels in the cache, by cache_name()."""
    folder = cache.root() / "kernels"
    return sorted(path.parent.name for path in folder.glob("*/kernel.json"))


def _of_version(spec: str, version: str) -> apt.KernelPackage:
    """The kernel of a version. First what is known of the machine's sources, then of the other suites;
    both are asked anew, and only then is it unknown."""
    troubles: list[str] = []
    for refresh in (False, True):
        own = apt.offered(refresh)
        package = apt.matching(version, own)
        if package is not None:
            return package
        others, troubles = _all_suites(refresh)
        package = apt.matching(version, others)
        if package is not None:
            return package
    series = sorted({"debian:" + ".".join(each.version.split(".")[:2]) for each in (*own, *others)})
    near = difflib.get_close_matches(spec, series, cutoff=0.3) or series
    raise LabError(
        f"unknown kernel {spec!r}: Debian's mirror offers {', '.join(near) or 'no kernel at all'}"
        + "".join(f"; not asked: {trouble}" for trouble in troubles[:1])
    )


def _all_suites(refresh: bool) -> tuple[list[apt.KernelPackage], list[str]]:
    packages, troubles = [], []
    for suite in suites.SUITES:
        of_suite, troubles_of_suite = suites.offered(suite, refresh)
        packages += of_suite
        troubles += troubles_of_suite
    return packages, troubles


def _of_suite(spec: str, suite: str) -> apt.KernelPackage:
    if suite not in suites.SUITES:
        raise LabError(
            f"unknown kernel {spec!r}: name it debian:VERSION, as in debian:6.1, or debian:SUITE, "
            f"which is one of {', '.join(suites.SUITES)}"
        )
    packages, troubles = suites.offered(suite)
    # Suites also have later kernels for those who want them; theirs is the one they install.
    package = apt.newest(each for each in packages if each.usual) or apt.newest(packages)
    if package is None:
        reason = troubles[0] if troubles else "it has no kernel for cloud-amd64"
        raise LabError(f"no kernel {spec!r}: {reason}")
    return package


def _build(package: apt.KernelPackage, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as scratch:
        tree = Path(scratch) / "tree"
        for deb in apt.download(package, Path(scratch)):
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
    # Since 7.x the kernel lies beside its modules, and says by its name when it is not signed.
    images = [
        image
        for pattern in (f"boot/vmlinuz-{release}", f"usr/lib/modules/{release}/vmlinuz*")
        for image in sorted(tree.glob(pattern))
    ]
    if not images:
        raise LabError(f"the package of {release} holds no kernel image")
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
    description = {"format": _FORMAT, "release": release, "load_order": load_order, "sizes": sizes}
    (folder / "kernel.json").write_text(json.dumps(description, indent=1))


def _format_of(place: Path) -> int | None:
    """The format of a kernel in the cache (the first one did not say); None when none can be read."""
    try:
        return int(json.loads((place / "kernel.json").read_text()).get("format", 1))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _load(spec: str, place: Path) -> Kernel:
    try:
        description = json.loads((place / "kernel.json").read_text())
        for name, size in description["sizes"].items():
            if (place / name).stat().st_size != size:
                raise LabError(f"{place / name} was damaged: remove {place} and try again")
        return Kernel(spec, description["release"], place, description["load_order"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise LabError(f"{place} is not what it was: remove it and try again") from None
