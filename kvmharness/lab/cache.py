# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's cache: what was fetched or built once, published whole or not at all."""

import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvmharness.lab.errors import LabError

# What is left of a disk that counts as full.
_FULL = 1 << 20

# A lock of os.lockf() holds between processes, not between the threads of one.
_THREADS = threading.RLock()
# What this process has locked. Any descriptor of a locked file frees it when it is closed (fcntl(2)), so that
# a block within the block must not open the file once more.
_LOCKED: set[Path] = set()
# How a folder is called while it is filled, and while it goes.
_BUILDING = "building-"
# Whether this process has put something into the cache.
grown = threading.Event()


def root() -> Path:
    """Where the cache is: $XDG_CACHE_HOME/kvmharness, or ~/.cache/kvmharness."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser().absolute() / "kvmharness"
    except RuntimeError:
        raise LabError("there is no home directory for the cache: set XDG_CACHE_HOME") from None


def is_full(folder: Path) -> bool:
    """Whether the disk that a folder is on has no room left."""
    try:
        return shutil.disk_usage(folder).free < _FULL
    except OSError:
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` (made if need be) against others of this user; the lock dies with this process.

    A block within such a block holds it already.
    """
    with _THREADS:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder = folder.resolve()
            if folder in _LOCKED:
                yield
                return
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LabError(f"the cache in {folder} cannot be used: {error.strerror}") from None
        try:
            os.lockf(fd, os.F_LOCK, 0)
            _LOCKED.add(folder)
            yield
        finally:
            _LOCKED.discard(folder)
            os.close(fd)


def published(place: Path, build: Callable[[Path], None]) -> Path:
    """`place`, which `build` fills as a temporary folder of the same parent if it is not there yet.

    What was left half built by a process that died is removed on the way.
    """
    if place.is_dir():
        return place
    with locked(place.parent):
        if place.is_dir():
            return place
        try:
            for leftover in place.parent.glob(f"{_BUILDING}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=place.parent))
        except OSError as error:
            raise LabError(f"{place} cannot be written: {error.strerror or error}") from None
        try:
            build(building)
            building.chmod(0o755)
            building.rename(place)
            grown.set()
        except OSError as error:
            raise LabError(f"{place} cannot be written: {error.strerror or error}") from None
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return place


def removed(place: Path) -> None:
    """Take `place` out of the cache at once; what it holds goes piece by piece after that."""
    with locked(place.parent):
        # A full disk may have no room for another folder, but it has for another name.
        going = place.with_name(f"{_BUILDING}{os.getpid()}-{place.name}")
        try:
            if place.is_dir():
                place.rename(going)
        except OSError as error:
            raise LabError(f"{place} cannot be removed: {error.strerror or error}") from None
        finally:
            shutil.rmtree(going, ignore_errors=True)


def used(
    place: Path,
    pattern: str = "*",
    unused_s: Callable[[Path], float] = lambda other: math.inf,
    most: int | None = None,
) -> None:
    """Note that `place` is used now, and take out what is not, of the folders beside it with such a name.

    Those go that were not used for longer than `unused_s` says of them, in seconds, and the ones used least
    recently where there are more than `most`. A cache that can only be read, and others that are faster, are
    no trouble.
    """
    with suppress(OSError):
        os.utime(place)
    others = []
    for other in place.parent.glob(pattern):
        with suppress(OSError):
            if other != place and other.is_dir() and not other.name.startswith(_BUILDING):
                others.append((other.stat().st_mtime, other))
    others.sort()
    too_many = 0 if most is None else max(0, len(others) + 1 - most)
    now = time.time()
    for number, (when, other) in enumerate(others):
        if number < too_many or now - when > unused_s(other):
            with suppress(LabError, OSError):
                removed(other)
