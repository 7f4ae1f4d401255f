# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in the user's cache, how large that is, and how it is kept below a limit.

The cache has a folder for each kind, and in it one for each thing, changed when that is used (cache.used()).
"""

import math
import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kvmharness.files import write_whole
from kvmharness.lab import cache
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import stored

# Each kind, and what it is.
KINDS = {
    "apt": "what Debian's mirror offers",
    "images": "the files of the machines, without kernels",
    "kernels": "kernels with their modules",
    "patches": "patches that were validated",
    "sent": "what a cluster's client sent here to be booted",
    "snapshots": "machines that are ready for a job",
    "trees": "what kernels are built from",
}
DEFAULT_LIMIT = 5 * 10**9
_LIMIT = "limit"
# So long after its last use a thing may still be needed by a command that runs.
_IN_USE_S = 6 * 3600
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Kept:
    """A thing in the cache: its kind, what to call it, where it is, how large, and when it was last used.

    `size` is in bytes on the disk, `used` in seconds since 1970.
    """

    kind: str
    name: str
    place: Path
    size: int
    used: float


def everything() -> list[Kept]:
    """All that is in the cache, what was used least recently first."""
    return sorted(_found(), key=lambda each: each.used)


def clear(kinds: Collection[str], unused_s: float = 0) -> list[Kept]:
    """Remove the things of these kinds that were not used for so many seconds. LabError if that fails."""
    now = time.time()
    going = [each for each in everything() if each.kind in kinds and now - each.used >= unused_s]
    for each in going:
        cache.removed(each.place)
    return going


def limit() -> int:
    """The bytes that the cache is kept below."""
    try:
        return int((cache.root() / _LIMIT).read_text())
    except (OSError, ValueError):
        return DEFAULT_LIMIT


def set_limit(size: int) -> None:
    """Keep the cache below so many bytes from now on. LabError where that cannot be noted."""
    try:
        cache.root().mkdir(parents=True, exist_ok=True)
        write_whole(cache.root() / _LIMIT, f"{size}\n".encode())
    except OSError as error:
        raise LabError(f"{cache.root() / _LIMIT} cannot be written: {error.strerror or error}") from None


def trim(in_use_s: float = _IN_USE_S) -> list[Kept]:
    """Remove what was used least recently while there is more than the limit; what is gone.

    What was used within `in_use_s` seconds stays. What cannot be removed stays, too: the command that this is
    done for has succeeded.
    """
    there, most, now = everything(), limit(), time.time()
    too_much = sum(each.size for each in there) - most
    gone = []
    for each in there:
        if too_much <= 0 or now - each.used < in_use_s:
            break
        with suppress(LabError, OSError):
            cache.removed(each.place)
            too_much -= each.size
            gone.append(each)
    return gone


def parse_size(text: str) -> int:
    """The bytes that 500M, 5G or 1.5G are, in powers of ten. ValueError for anything else."""
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    size = float(text[: len(text) - len(unit)]) * _UNITS[unit] if unit in _UNITS else math.nan
    if not 0 <= size < math.inf:
        raise ValueError(text)
    return int(size)


def size_text(size: int) -> str:
    """A number of bytes for people."""
    scaled = float(size)
    for unit in ("B", "kB", "MB"):
        if round(scaled) < 1000:
            return f"{scaled:.0f} {unit}"
        scaled /= 1000
    return f"{scaled:.1f} GB"


def _found() -> Iterator[Kept]:
    for kind in KINDS:
        folder = cache.root() / kind
        places = [folder] if kind == "apt" else sorted(folder.glob("*"))
        for place in places:
            with suppress(OSError):
                if place.is_dir():
                    yield Kept(kind, _name(kind, place), place, _size(place), place.stat().st_mtime)


def _name(kind: str, place: Path) -> str:
    return str(stored.description(place).get("spec", place.name)) if kind == "kernels" else place.name


def _size(place: Path) -> int:
    """The bytes that a folder takes on the disk; files that go meanwhile count nothing."""
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
