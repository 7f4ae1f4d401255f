# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory shared between this process and a guest, or between this process and KVM."""

from __future__ import annotations

import os

from kvmharness.kvm._kvm import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class Memory:
    """`size` bytes of zeroed memory (a multiple of a page), or a file descriptor's mapping.

    Unlike the standard library's mmap it holds no duplicate of the descriptor, so that closing a
    vCPU really closes it. OSError when the system has no memory left.
    """

    def __init__(self, size: int, fd: int = -1) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise ValueError(f"{size} bytes are not a multiple of a page ({PAGE_SIZE})")
        address = lib.map_memory(fd, size)
        if not address:
            raise OSError(ffi.errno, f"mapping {size} bytes: {os.strerror(ffi.errno)}")
        self.size = size
        self._address: Any = address

    @property
    def address(self) -> Any:
        """Where it is in this process, a `void *`; ValueError once closed."""
        if self._address is None:
            raise ValueError("the memory is given back already")
        return self._address

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or offset + size > self.size:
            raise ValueError(f"bytes {offset} to {offset + size} are outside {self.size} bytes of memory")

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`; ValueError when it does not fit."""
        self._check(offset, len(data))
        ffi.memmove(self.address + offset, data, len(data))

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; ValueError outside the memory."""
        self._check(offset, size)
        return bytes(ffi.buffer(self.address + offset, size))

    def close(self) -> None:
        """Unmap it; again is harmless."""
        address, self._address = self._address, None
        if address is not None:
            lib.munmap(address, self.size)
