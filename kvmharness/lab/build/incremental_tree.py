# SPDX-License-Identifier: GPL-2.0-or-later
"""A tree in the cache in which KVM's modules are built again and again, with one patch after the other.

What was built stays. A file is written to only where it has to become another, so that make builds again
what a patch changes, and what the patch before it had changed, and no more.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kvmharness.files import write_whole
from kvmharness.lab.errors import LabError


class Tree:
    """The tree in a folder of the cache: `source`, and beside it the originals of what was ever patched."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.source = place / "tree"
        self.log = place / "build.log"
        self._originals = place / "originals"
        self._list = place / "patched.json"
        self._followed = place / "followed.json"

    def follow(self, files: Mapping[str, Path]) -> None:
        """Be a copy of these files. Only those that changed since the last time are copied again."""
        before = _listed(self._followed)
        now = {}
        for name, path in files.items():
            status = path.stat()
            now[name] = [status.st_size, status.st_mtime_ns]
        if now == before:
            return
        patched = self._patched()
        for name, path in files.items():
            if before.get(name) != now[name]:
                _copy(path, (self._originals if name in patched else self.source) / name)
        for name in before.keys() - now.keys():
            ((self._originals if name in patched else self.source) / name).unlink(missing_ok=True)
        _write(self._list, json.dumps({name: name in now for name in patched}))
        _write(self._followed, json.dumps(now))

    def original(self, path: str) -> str | None:
        """A file as it was before any patch; None where there is none. Odd bytes are surrogates."""
        patched = self._patched()
        if path not in patched:
            return _read(self.source / path)
        return _read(self._originals / path) if patched[path] else None

    def originals(self, folders: Iterable[str], is_wanted: Callable[[Path], bool]) -> list[str]:
        """The files in these folders as they were before any patch."""
        patched = self._patched()
        there = {str(path.relative_to(self.source)) for each in folders for path in self._files(each)}
        there |= {path for path in patched if path.startswith(tuple(f"{each}/" for each in folders))}
        return sorted(path for path in there if patched.get(path, True) and is_wanted(Path(path)))

    def become(self, contents: Mapping[str, str | None]) -> None:
        """Make these files so (None: gone), and all others what they were; none that is so already is
        touched."""
        patched = self._patched()
        for path in contents:
            self._check_inside(path)
            if path not in patched:
                text = _read(self.source / path)
                if text is not None:
                    _write(self._originals / path, text)
                patched[path] = text is not None
        # First it is known what is to be restored, then it is changed: this may end at any moment.
        _write(self._list, json.dumps(patched))
        for path, was_there in patched.items():
            wanted = contents.get(path) if path in contents or not was_there else self.original(path)
            if wanted is None:
                (self.source / path).unlink(missing_ok=True)
            elif _read(self.source / path) != wanted:
                _write(self.source / path, wanted)

    def _check_inside(self, path: str) -> None:
        """LabError where a link leads from a path of the tree out of it."""
        if not (self.source / path).parent.resolve().is_relative_to(self.source.resolve()):
            raise LabError(f"{path} leads out of {self.source}")

    def _files(self, folder: str) -> Iterator[Path]:
        return (path for path in (self.source / folder).rglob("*") if path.is_file())

    def _patched(self) -> dict[str, bool]:
        """Every file that a patch ever changed, and whether it was there before."""
        return {path: bool(was_there) for path, was_there in _listed(self._list).items()}


def _listed(path: Path) -> dict[str, Any]:
    try:
        listed = json.loads(_read(path) or "{}")
        return {**listed}
    except (ValueError, TypeError):
        raise LabError(f"{path} was damaged: remove {path.parent} and try again") from None


def _copy(path: Path, to: Path) -> None:
    """Copy a file. Where one was there it becomes as new as it is, whatever the other's age: for make."""
    try:
        content = path.read_bytes()
        new = not to.exists()
        if new or to.read_bytes() != content:
            to.parent.mkdir(parents=True, exist_ok=True)
            write_whole(to, content)
            shutil.copymode(path, to)
        if new:
            shutil.copystat(path, to)
    except OSError as error:
        raise LabError(f"cannot copy {path} to {to}: {error.strerror}") from None


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode(errors="surrogateescape"))
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror}") from None
