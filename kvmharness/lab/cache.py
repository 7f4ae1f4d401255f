# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's cache: what was fetched or built once, published whole or not at all."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmharness.lab.errors import LabError

# What is left of a disk that counts as full.
_FULL = 1 << 20

# A lock of os.lockf() holds between processes, not between the threads of one.
_THREADS = threading.RLock()


def root() -> Path:
    """Where the cache is: $XDG_CACHE_HOME/kvmharness, or ~/.cache/kvmharness."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "kvmharness"
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
    """Hold `folder` (made if need be) against others of this user; the lock dies with this process."""
    with _THREADS:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LabError(f"the cache in {folder} cannot be used: {error.strerror}") from None
        try:
            os.lockf(fd, os.F_LOCK, 0)
            yield
        finally:
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
        for leftover in place.parent.glob("building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        building = Path(tempfile.mkdtemp(prefix="building-", dir=place.parent))
        try:
            build(building)
            building.chmod(0o755)
            building.rename(place)
        except OSError as error:
            raise LabError(f"{place} cannot be written: {error.strerror or error}") from None
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return place


def removed(place: Path) -> None:
    """Take `place` out of the cache at once; what it holds goes piece by piece behind that."""
    with locked(place.parent):
        going = Path(tempfile.mkdtemp(prefix="building-", dir=place.parent))
        try:
            if place.is_dir():
                place.rename(going)
        except OSError as error:
            raise LabError(f"{place} cannot be removed: {error.strerror or error}") from None
        finally:
            shutil.rmtree(going, ignore_errors=True)
