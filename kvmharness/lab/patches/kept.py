# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches kept in the cache by their content, so that what was done with one can be done again, anywhere."""

import hashlib
import re
from pathlib import Path

from kvmharness.lab import cache
from kvmharness.lab.errors import LabError

# What a name of one begins with; as many digits of the hash follow as digest() has, or all 64.
PREFIX = "sha256:"
_DIGITS = 16
_FILE = "patch"
_UNUSED_S = 180 * 24 * 3600


def digest(data: bytes) -> str:
    """The first digits of the SHA-256, as sha256sum prints it."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def keep(data: bytes) -> str:
    """Keep a patch; the name that load() takes. One that nobody asks for in half a year goes."""

    def write(folder: Path) -> None:
        (folder / _FILE).write_bytes(data)

    place = cache.published(_place(digest(data)), write)
    cache.used(place, unused_s=lambda other: _UNUSED_S)
    return PREFIX + digest(data)


def load(name: str) -> bytes:
    """The patch of that name. LabError when it is not there any more, or is not what it was."""
    digits = name.removeprefix(PREFIX).lower()
    if not re.fullmatch(rf"[0-9a-f]{{{_DIGITS},64}}", digits):
        raise LabError(f"{name} names no patch: expected {PREFIX} and at least {_DIGITS} digits of its hash")
    place = _place(digits[:_DIGITS])
    try:
        data = (place / _FILE).read_bytes()
    except OSError:
        raise LabError(f"the cache holds no patch {name}: give its file") from None
    if not hashlib.sha256(data).hexdigest().startswith(digits):
        raise LabError(f"{place / _FILE} was damaged, or is another patch than {name}: remove {place}")
    cache.used(place)
    return data


def _place(digits: str) -> Path:
    return cache.root() / "patches" / digits
