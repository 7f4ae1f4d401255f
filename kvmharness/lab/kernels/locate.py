# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a kernel lies on a disk, in whatever shape: this host's own, an image with its modules, a built
tree, an unpacked package. And what the lab boots of it.
"""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import config, modules, vmlinux

# KVM's two vendor modules; a machine loads the one for its CPU.
VENDOR_MODULES = ("kvm_amd", "kvm_intel")

_MODULES = ("lib/modules", "usr/lib/modules")
_TREE_IMAGE = "arch/x86/boot/bzImage"
# What distributions call an image in /boot.
_IMAGES = ("vmlinuz", "vmlinux", "bzImage", "kernel")


@dataclass(frozen=True, slots=True)
class Place:
    """A kernel's image, and its modules by name; `looked_in` says where those were looked for.

    `built_in` are the modules built into it, `config` the options it was built with; None where nothing
    at hand says so.
    """

    image: Path
    modules: dict[str, Path]
    looked_in: str
    built_in: frozenset[str] | None = None
    config: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What the lab boots of a kernel: its image, and for each vendor module what to load, in order.

    Nothing is loaded for a module that is built in.
    """

    release: str
    image: bytes
    load_order: dict[str, dict[str, bytes]]


def of_host(root: Path = Path("/"), release: str | None = None) -> Place:
    """The kernel that runs this machine. LabError when its image is not there or not readable."""
    release = release or os.uname().release
    folders = [root / folder / release for folder in _MODULES]
    candidates = [root / "boot" / f"{name}-{release}" for name in _IMAGES]
    candidates += [folder / "vmlinuz" for folder in folders]
    image = next((path for path in candidates if os.path.lexists(path)), None)
    if image is None:
        raise LabError(
            f"the image of this machine's kernel, {release}, is not on it: there is neither {candidates[0]} "
            f"nor {candidates[-1]}"
        )
    configs = (root / "boot" / f"config-{release}", root / "proc/config.gz")
    return _with_modules(image, folders, configs)


def of_path(path: Path, modules_folder: Path | None = None) -> Place:
    """The kernel at a path: an image, a built tree, or a folder of modules that has its image as well.

    Modules are taken from `modules_folder`, where it is given; otherwise from where they usually are.
    LabError when there is no kernel.
    """
    path = path.absolute()
    if modules_folder is not None and not modules_folder.is_dir():
        raise LabError(f"no folder {modules_folder}")
    if not path.is_dir():
        return _of_image(path, modules_folder)
    image = _image_of_folder(path)
    if modules_folder is not None:
        return _with_modules(image, [modules_folder], [path / ".config"])
    return _with_modules(image, [path], []) if image.name == "vmlinuz" else _of_tree(path, image)


def of_unpacked(root: Path, release: str = "") -> Place:
    """The kernel in a file system that packages were unpacked into; that of `release`, if one is given.

    LabError when it has none, or several.
    """
    # Since 7.x Debian's kernel lies beside its modules, and says by its name when it is not signed.
    patterns = [f"boot/vmlinuz-{release or '*'}"]
    patterns += [f"{folder}/{release or '*'}/vmlinuz*" for folder in _MODULES]
    images = [image for pattern in patterns for image in sorted(root.glob(pattern))]
    releases = {_release_of(image) for image in images}
    if len(releases) != 1:
        raise LabError(f"it holds {'several kernels' if releases else 'no kernel image'}")
    (found,) = releases
    folders = [root / folder / found for folder in _MODULES]
    return _with_modules(images[0], folders, [root / "boot" / f"config-{found}"])


def gather(place: Place) -> Parts:
    """Read what the lab boots. LabError, saying what, when anything is missing or does not fit."""
    image = _read_image(place.image)
    kernel = functools.cache(lambda: vmlinux.extract(image))
    release = vmlinux.release(image)
    if not release:
        raise LabError("the kernel image does not say of which release it is")
    if place.config is not None:
        config.check(place.config)

    def is_built_in(name: str) -> bool:
        if place.built_in is not None and name in place.built_in:
            return True
        if name.startswith("kvm"):
            return vmlinux.has_built_in(kernel(), name)
        return place.built_in is None  # nothing says what of the rest is built in; loading will tell

    load_order: dict[str, dict[str, bytes]] = {}
    for vendor_module in VENDOR_MODULES:
        if place.built_in is not None and vendor_module in place.built_in:
            load_order[vendor_module] = {}
        elif vendor_module in place.modules:
            load_order[vendor_module] = modules.load_order(vendor_module, place.modules, is_built_in)
        elif is_built_in(vendor_module):
            load_order[vendor_module] = {}
    if not load_order:
        lacks = f"{' and '.join(VENDOR_MODULES)} are neither built in nor {place.looked_in}"
        raise LabError(f"{release} is without KVM: {lacks}")
    for order in load_order.values():
        for name, module in order.items():
            built_for = modules.release(name, module)
            if built_for not in ("", release):
                raise LabError(f"the kernel is {release}, {place.modules[name]} was built for {built_for}")
    return Parts(release, image, load_order)


def _of_image(path: Path, modules_folder: Path | None) -> Place:
    if not path.is_file():
        raise LabError("not a file" if path.exists() else "no such file")
    release = _release_of(path)
    configs = [path.with_name(f"config-{release}"), path.with_name(".config")]
    if modules_folder is not None:
        # Also a folder with modules of several releases, such as /lib/modules, or one that has that.
        inside = [modules_folder / release, *(modules_folder / each / release for each in _MODULES)]
        usual = [folder for folder in inside if folder.is_dir()]
        return _with_modules(path, usual or [modules_folder], configs)
    for tree, image in ((path.parent, "vmlinux"), (path.parents[min(3, len(path.parents) - 1)], _TREE_IMAGE)):
        if path == tree / image and _is_tree(tree):
            return _of_tree(tree, path)
    if any(path.parent.glob("modules.*")):
        return _with_modules(path, [path.parent], configs)
    roots = [path.parent, path.parent.parent]
    where = f"in a lib/modules/{release} beside {path} or above it (--modules DIR names another place)"
    return _with_modules(path, [root / each / release for root in roots for each in _MODULES], configs, where)


def _of_tree(tree: Path, image: Path) -> Place:
    """The kernel of a tree that make left (or the output folder of make O=)."""
    try:
        listed = (tree / "modules.order").read_text(errors="replace").splitlines()
    except OSError:
        listed = []
    # The list is of objects, or of modules as they will be installed, depending on the kernel's age. What
    # `make M=arch/x86/kvm` built is not in it.
    files = [tree / Path(line.removeprefix("kernel/")).with_suffix(".ko") for line in listed if line.strip()]
    files += [*(tree / "arch/x86/kvm").glob("*.ko*"), *(tree / "virt").rglob("*.ko*")]
    try:
        built = (tree / "include/config/kernel.release").read_text(errors="replace").strip()
    except OSError:
        built = ""
    found = _release_of(image)
    if built not in ("", found):
        raise LabError(f"{image} is {found}, but the tree has gone on to {built}: run make there")
    available = modules.named(path for path in files if path.is_file())
    where = f"built as modules in {tree}"
    return Place(image, available, where, modules.built_in(tree), config.read(tree / ".config"))


def _image_of_folder(folder: Path) -> Path:
    """A tree's image: the bzImage, which needs less reading, unless the ELF kernel is newer."""
    images = [path for path in (folder / "vmlinux", folder / _TREE_IMAGE) if path.is_file()]
    if not images and (folder / "vmlinuz").is_file():
        return folder / "vmlinuz"
    if not images:
        built = "is not built: run make there" if (folder / "Kconfig").is_file() else "holds no kernel"
        raise LabError(f"the folder {built} (there is neither {_TREE_IMAGE} nor vmlinux)")
    return max(images, key=lambda path: (path.stat().st_mtime, path.name == "bzImage"))


def _is_tree(folder: Path) -> bool:
    return (folder / "include/config/kernel.release").is_file() or (folder / "arch/x86").is_dir()


def _with_modules(image: Path, folders: list[Path], configs: Sequence[Path], where: str = "") -> Place:
    """An image with the modules of the first of `folders` that is there, and the first .config; `where`
    says of the folders what they are, if it is not enough to name the first."""
    folder = next((each for each in folders if each.is_dir()), None)
    candidates = [*configs, *([] if folder is None else [folder / "config"])]
    options = next((found for found in map(config.read, candidates) if found is not None), None)
    if folder is None:
        return Place(image, {}, where or f"in {folders[0]}", None, options)
    return Place(image, modules.find(folder), f"in {folder}", modules.built_in(folder), options)


def _release_of(image: Path) -> str:
    return vmlinux.release(_read_image(image))


def _read_image(path: Path) -> bytes:
    """An image; of an ELF kernel what is loaded. LabError for a file that is no image of the lab's."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
            if start[:4] != b"\x7fELF" and not vmlinux.is_bzimage(start):
                vmlinux.extract(start)  # says what it is instead
            image = start + file.read()
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from None
    return image if vmlinux.is_bzimage(image) else vmlinux.loaded_part(image)
