# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots: a machine as it stood when its kernel had booted and the player was ready.

The next job for the same kernel goes on from there. KVM was loaded by then; but where modules were built for
a kernel, its snapshot is one without KVM, which serves all builds. A snapshot is kept only of a boot that
went well to its end, and forgotten when a run from it did not: what was to come of it then comes of a boot.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import zstandard

from kvmharness.lab import cache
from kvmharness.lab.errors import LabError

# What keep() leaves in the cache.
_FORMAT = 2
_STATE, _CONSOLE = "state.zst", "console"
# Each takes some 25 MB.
_KEEP = 20
_NAME = 16  # letters of a folder's name


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the emulator needs to go on, and what the kernel's console had said until then."""

    state: bytes
    console: bytes


def place(kernel: Path, image: bytes, machine: list[str]) -> Path:
    """Where the snapshot of this kernel with this image is kept; `machine` is all that describes the
    machine, its emulator included.

    A kernel that has several names in the cache, one for each build of its modules, is one file.
    """
    found = kernel.stat()
    made_of = [
        *(_FORMAT, machine, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns),
        hashlib.sha256(image).hexdigest(),
    ]
    return _folder() / hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:_NAME]


def load(kept: Path) -> Snapshot | None:
    """The snapshot kept there; None if there is none, or not a whole one."""
    try:
        # The format carries size and checksum, which this checks.
        state = zstandard.ZstdDecompressor().decompress((kept / _STATE).read_bytes())
        snapshot = Snapshot(state, (kept / _CONSOLE).read_bytes())
    except (OSError, zstandard.ZstdError):
        return None
    cache.used(kept)
    return snapshot if state else None


def keep(kept: Path, snapshot: Snapshot) -> None:
    """Keep it there, instead of a damaged one.

    A cache that cannot be written is no fault of the run's: the next one boots again.
    """

    def write(folder: Path) -> None:
        compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
        (folder / _STATE).write_bytes(compressor.compress(snapshot.state))
        (folder / _CONSOLE).write_bytes(snapshot.console)

    with suppress(LabError, OSError):
        if kept.is_dir() and load(kept) is None:
            cache.removed(kept)
        cache.used(cache.published(kept, write), "[0-9a-f]" * _NAME, most=_KEEP)


def forget(kept: Path) -> None:
    """Take it out of the cache, if it is there."""
    with suppress(LabError, OSError):
        cache.removed(kept)


def _folder() -> Path:
    return cache.root() / "snapshots"
