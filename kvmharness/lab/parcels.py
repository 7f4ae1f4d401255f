# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that travel to another machine: what is booted, and what runs in it, by content.

A content has the name of its hash. It is kept under that name where it arrives, so that it need not arrive
again; the kernels that are made of contents there share them as links.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache as remembered
from pathlib import Path

import zstandard

from kvmharness.lab import cache
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import initramfs

# The file beside a kernel's own that has init, Python and the player, as the sender's machine has them.
SYSTEM = "system.cpio"
_CONTENT = "content"
_KEEP_S = 7 * 24 * 3600
_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Parcel:
    """A kernel, and the hashes of its files by name."""

    kernel: Kernel
    files: Mapping[str, str]

    @property
    def digests(self) -> set[str]:
        """The contents that it is made of."""
        return set(self.files.values())

    @property
    def name(self) -> str:
        """What it is called where it arrives: the same for the same files."""
        listed = "".join(f"{name} {digest}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(listed.encode()).hexdigest()[:16]


# Where each content that was packed is to be had.
_PLACES: dict[str, Path] = {}
_SYSTEM: dict[str, bytes] = {}


def packed(kernel: Kernel) -> Parcel:
    """A kernel as it is sent; content() has what belongs to it."""
    modules = {name for order in kernel.load_order.values() for name in order}
    files = {name: _known(kernel.folder / name) for name in sorted({kernel.image, *modules})}
    system = initramfs.base() + initramfs.python()
    files[SYSTEM] = hashlib.sha256(system).hexdigest()
    _SYSTEM[files[SYSTEM]] = system
    return Parcel(replace(kernel, folder=Path()), files)


def content(digest: str) -> bytes:
    """A content of what was packed, compressed."""
    whole = _SYSTEM[digest] if digest in _SYSTEM else _PLACES[digest].read_bytes()
    return zstandard.ZstdCompressor(level=_LEVEL, threads=-1).compress(whole)


def unpacked(parcel: Parcel, contents: Mapping[str, bytes]) -> Kernel:
    """The kernel, kept in this machine's cache. LabError where a content is not what its name says."""

    def build(folder: Path) -> None:
        for name, digest in parcel.files.items():
            os.link(_kept(digest, contents[digest]), folder / name)

    place = cache.published(cache.root() / "kernels" / f"sent-{parcel.name}", build)
    cache.used(place, "sent-*", lambda other: _KEEP_S)
    return replace(parcel.kernel, folder=place)


def _kept(digest: str, compressed: bytes) -> Path:
    def build(folder: Path) -> None:
        try:
            whole = zstandard.ZstdDecompressor().decompress(compressed)
        except zstandard.ZstdError as error:
            raise LabError(f"what was sent cannot be unpacked: {error}") from None
        if hashlib.sha256(whole).hexdigest() != digest:
            raise LabError("what was sent is not what its name says")
        (folder / _CONTENT).write_bytes(whole)

    place = cache.published(cache.root() / "sent" / digest, build)
    cache.used(place, "*", lambda other: _KEEP_S)
    return place / _CONTENT


def _known(path: Path) -> str:
    found = path.stat()
    digest = _digest(path, found.st_size, found.st_mtime_ns)
    _PLACES[digest] = path
    return digest


@remembered
def _digest(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
