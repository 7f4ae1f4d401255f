# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel as the cache keeps it: what is booted, KVM's modules and what they need, and their order."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import config, modules, vmlinux
from kvmharness.lab.kernels.locate import VENDOR_MODULES, Parts

# What keep() leaves in the cache. A kernel kept in another format is fetched and unpacked again.
FORMAT = 1
_DESCRIPTION = "kernel.json"
# How a kernel with modules of `lab build` is named.
BUILT = "built:"
# What make said, beside modules that were built.
BUILD_LOG = "build.log"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel ready to boot: `spec` as the user named it, `release` as uname -r prints it.

    `folder` holds what is booted and the modules; `load_order` says which files to load for a vendor
    module: none, where it is built in.
    """

    spec: str
    release: str
    folder: Path
    load_order: dict[str, list[str]]
    image: str = "vmlinux"

    @property
    def vmlinux(self) -> Path:
        """What is booted: the ELF kernel; its bzImage, where the ELF has no entry to start it by."""
        return self.folder / self.image

    @property
    def is_built(self) -> bool:
        """Whether its modules are those of `lab build`: there may be others for the same kernel."""
        return self.spec.startswith(BUILT)

    @property
    def package(self) -> str:
        """The exact package of a kernel of Debian's: its name and version. "" for any other kernel."""
        return self.folder.name.replace("_", " ", 1) if self.spec.startswith("debian:") else ""

    def modules_for(self, vendor_module: str) -> list[Path]:
        """The modules to load, in order; LabError when the kernel lacks the vendor module."""
        if vendor_module not in self.load_order:
            raise LabError(f"{self.spec} ({self.release}) has no module {vendor_module}")
        return [self.folder / name for name in self.load_order[vendor_module]]


def modules_hash(kernel: Kernel) -> str:
    """What tells a kernel's modules from others: equal where they are, byte for byte."""
    whole = hashlib.sha256()
    for name in sorted({name for order in kernel.load_order.values() for name in order}):
        whole.update(hashlib.sha256((kernel.folder / name).read_bytes()).digest())
    return whole.hexdigest()


class DamagedError(LabError):
    """A kernel in the cache is not what was put there."""


def keep(parts: Parts, folder: Path, spec: str) -> None:
    """Put into `folder` what the lab boots: the kernel as ELF, KVM's modules, their order."""
    kernel = vmlinux.loaded_part(vmlinux.extract(parts.image))
    inside = vmlinux.config(kernel)
    if inside is not None:
        config.check(config.parsed(inside))
    image = "vmlinux"
    if not vmlinux.has_pvh_entry(kernel):
        if not vmlinux.is_bzimage(parts.image):
            raise LabError("the ELF kernel has no PVH entry (CONFIG_PVH) to start it by: give its bzImage")
        image, kernel = "bzImage", parts.image
    (folder / image).write_bytes(kernel)
    for order in parts.load_order.values():
        for name, module in order.items():
            bare = modules.without_debugging(modules.without_signature(module))
            (folder / f"{name}.ko").write_bytes(bare)
    load_order = {vendor: [f"{name}.ko" for name in order] for vendor, order in parts.load_order.items()}
    _describe(folder, spec, parts.release, image, load_order)


def keep_with(base: Kernel, built: Mapping[str, bytes], folder: Path, spec: str) -> None:
    """Put into `folder` the kernel `base` with other modules in place of its own, by name.

    A vendor module that is not among them is left out: it would not fit the others.
    """
    others = (*VENDOR_MODULES, *built)
    for path in base.folder.iterdir():
        if path.stem not in others and path.name not in (_DESCRIPTION, BUILD_LOG):
            _link(path, folder / path.name)
    for name, module in built.items():
        (folder / f"{name}.ko").write_bytes(modules.without_debugging(module))
    load_order = {}
    available = modules.named(folder.iterdir())
    for vendor in base.load_order:
        if vendor in built:
            load_order[vendor] = [f"{name}.ko" for name in modules.load_order(vendor, available)]
    _describe(folder, spec, base.release, base.image, load_order)


def _link(path: Path, other: Path) -> None:
    """The same file at another path; a copy, where a file can only be at one."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copy2(path, other)


def description(place: Path) -> dict[str, object]:
    """What is written about a kernel in the cache; empty where it cannot be read."""
    try:
        written = json.loads((place / _DESCRIPTION).read_text())
        return written if isinstance(written, dict) else {}
    except (OSError, ValueError):
        return {}


def _describe(
    folder: Path, spec: str, release: str, image: str, load_order: Mapping[str, Sequence[str]]
) -> None:
    files = sorted(folder.iterdir())
    written = {
        "format": FORMAT,
        "spec": spec,
        "release": release,
        "image": image,
        "load_order": load_order,
        "sizes": {path.name: path.stat().st_size for path in files},
        "unchanged": {path.name: mark(path) for path in files},
    }
    (folder / _DESCRIPTION).write_text(json.dumps(written, indent=1))


def mark(path: Path) -> list[object]:
    """What tells whether a file was written to: when it was, and what is in it."""
    with path.open("rb") as file:
        return [path.stat().st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]


def load(spec: str, place: Path) -> Kernel:
    """A kernel out of the cache. DamagedError when it is not as it was put there, or in another format."""
    again = f"remove {place} and try again"
    try:
        written = json.loads((place / _DESCRIPTION).read_text())
        # The first format did not say that it was.
        if written.get("format", 1) != FORMAT:
            raise DamagedError(f"{place} is of another kvmharness: {again}")
        marks = written.get("unchanged", {})
        for name, size in written["sizes"].items():
            when, content = marks.get(name, (0, ""))
            there = (place / name).stat()
            # Reading all of it would cost a tenth of a second at every run.
            touched = content and there.st_mtime_ns != when
            if there.st_size != size or (touched and mark(place / name)[1] != content):
                raise DamagedError(f"{place / name} was damaged: {again}")
        image = written.get("image", "vmlinux")
        return Kernel(spec, written["release"], place, written["load_order"], image)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"{place} is not what it was: {again}") from None
