# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes cpio archives of the "newc" kind, the only one the kernel unpacks at boot.

Source of the format: Documentation/driver-api/early-userspace/buffer-format.rst. Archives may follow
one another in one image. No root is needed: a device node is only an entry.
"""

import stat
from pathlib import PurePosixPath

_MAGIC = "070701"
_ALIGNMENT = 4


class Archive:
    """An archive under construction; bytes() of it is the finished one. Equal content, equal bytes."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0
        self._folders: set[PurePosixPath] = set()

    def add_file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A file at an absolute path, and the folders it lies in."""
        self._add_parents(path)
        self._add(path, stat.S_IFREG | mode, content)

    def add_folder(self, path: str) -> None:
        """An empty folder."""
        self._add_parents(path + "/_")

    def add_device(self, path: str, major: int, minor: int) -> None:
        """A character device node."""
        self._add_parents(path)
        self._add(path, stat.S_IFCHR | 0o600, b"", (major, minor))

    def __bytes__(self) -> bytes:
        finished = Archive()
        finished._data = bytearray(self._data)
        finished._add("/TRAILER!!!", 0, b"")
        return bytes(finished._data)

    def _add_parents(self, path: str) -> None:
        for folder in reversed(PurePosixPath(path).parents):
            if folder != PurePosixPath("/") and folder not in self._folders:
                self._folders.add(folder)
                self._add(str(folder), stat.S_IFDIR | 0o755, b"")

    def _add(self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        name = path.removeprefix("/").encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        self._append(_MAGIC.encode() + b"".join(b"%08x" % field for field in fields) + name)
        self._append(content)

    def _append(self, data: bytes) -> None:
        self._data += data
        self._data += bytes(-len(self._data) % _ALIGNMENT)
