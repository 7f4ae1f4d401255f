# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules: plain ELF out of whatever they are packed in, and the order in which they load."""

import gzip
import lzma
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import zstandard

from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import elf

_SIGNATURE_MARK = b"~Module signature appended~\n"

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
# Where depmod looks first unless it is told otherwise (depmod.d(5)).
_BEFORE_OTHERS = "updates"


def find(folder: Path) -> dict[str, Path]:
    """Every module below `folder`, by name as the kernel has it (kvm_amd for kvm-amd.ko.xz).

    Of two with one name the one below updates/ counts, as it does for modprobe.
    """
    return named(sorted(folder.rglob("*.ko*"), key=lambda path: (_BEFORE_OTHERS in path.parts, path)))


def named(paths: Iterable[Path]) -> dict[str, Path]:
    """Those paths that are modules, by name; of two with one name the last."""
    return {_name(path.name): path for path in paths if path.name.endswith(_SUFFIXES)}


def built_in(folder: Path) -> frozenset[str] | None:
    """The modules that are built into the kernel, which stand in modules.builtin; None without the list."""
    try:
        lines = (folder / "modules.builtin").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return frozenset(_name(line.rpartition("/")[2]) for line in lines)


def read(path: Path) -> bytes:
    """A module's ELF file, decompressed. LabError when it is broken."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from None
    try:
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".zst":
            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise LabError(f"{path.name} does not decompress: {error}") from None


def load_order(
    name: str, available: dict[str, Path], is_built_in: Callable[[str], bool] = lambda name: True
) -> dict[str, bytes]:
    """The module `name` and all it depends on, as ELF files, in the order in which they load.

    What a module depends on stands in its .modinfo section. LabError when `name` is not there, or a
    dependency is neither there nor built into the kernel.
    """
    if name not in available:
        raise LabError(f"the kernel has no module {name}")
    ordered: dict[str, bytes] = {}

    def visit(current: str, needed_by: str) -> None:
        if current in ordered:
            return
        if current not in available:
            if is_built_in(current):
                return
            raise LabError(f"module {current} is missing, which {needed_by} needs")
        module = read(available[current])
        for dependency in _depends(current, module):
            visit(dependency, current)
        ordered[current] = module

    visit(name, name)
    return ordered


def release(name: str, module: bytes) -> str:
    """The release of the kernel a module was built for; "" if it does not say."""
    return (_modinfo(name, module).get("vermagic", "").split() or [""])[0]


def without_debugging(module: bytes) -> bytes:
    """A module without what is only for debuggers, where there is a strip to take it off.

    A build leaves it in, fifty megabytes in kvm.ko; the machine has 512 MB for all.
    """
    strip = shutil.which("strip")
    if b".debug_info\0" not in module or strip is None:
        return module
    with tempfile.NamedTemporaryFile() as file, tempfile.NamedTemporaryFile() as stripped:
        file.write(module)
        file.flush()
        command = [strip, "--strip-debug", "-o", stripped.name, file.name]
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
        return Path(stripped.name).read_bytes() if done.returncode == 0 else module


def without_signature(module: bytes) -> bytes:
    """A module without the signature that a distribution's build appends.

    Checking it takes an emulated CPU up to a second, and proves nothing here: apt has checked the
    package, and a module built from a patch has none. The kernel marks itself tainted by it (E).
    Source of the format: struct module_signature, include/linux/module_signature.h.
    """
    if not module.endswith(_SIGNATURE_MARK):
        return module
    trailer = len(module) - len(_SIGNATURE_MARK) - 12
    (size,) = struct.unpack(">I", module[trailer + 8 : trailer + 12])
    return module[: trailer - size]


def _name(file: str) -> str:
    return file.partition(".ko")[0].replace("-", "_")


def _depends(name: str, module: bytes) -> list[str]:
    return [word.replace("-", "_") for word in _modinfo(name, module).get("depends", "").split(",") if word]


def _modinfo(name: str, module: bytes) -> dict[str, str]:
    """What a module says of itself; of what it says more than once, the first."""
    with elf.opened(module, f"module {name}") as file:
        section = file.get_section_by_name(".modinfo")
        data = None if section is None else section.data()
    if data is None:
        raise LabError(f"module {name} has no .modinfo section")
    entries = (entry.partition("=") for entry in data.decode(errors="replace").split("\0") if "=" in entry)
    found: dict[str, str] = {}
    for key, _, value in entries:
        found.setdefault(key, value)
    return found
