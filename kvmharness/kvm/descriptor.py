# SPDX-License-Identifier: GPL-2.0-or-later
"""What /dev/kvm, a VM and a vCPU have in common: a file descriptor that takes ioctls."""

from __future__ import annotations

import errno
import os

from kvmharness.kvm._kvm import ffi, lib
from kvmharness.kvm.errors import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from kvmharness.kvm.clock import BracketBuffer, BracketNumbers, Meeting
    from kvmharness.kvm.ioctls import Ioctl


class Descriptor:
    """A KVM file descriptor, closed by close() or at the end of a `with` block.

    With brackets on, `bracket` is the one around the newest ioctl.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bracket_buffer: BracketBuffer | None = None
        # Bound here and not in each method: a plain ioctl costs little more than these two calls.
        self._call_value: Any = lib.ioctl_value
        self._call_pointer: Any = lib.ioctl_pointer

    def use_brackets(self, buffer: BracketBuffer, meeting: Meeting | None = None) -> None:
        """From now on read the host's clocks around each ioctl, into `buffer`.

        Those that take a pointer begin at a `meeting`, if there is one.
        """
        bracket = buffer.pointer

        def call_value(fd: int, number: int, value: int) -> Any:
            return lib.bracketed_ioctl_value(bracket, fd, number, value)

        def call_pointer(fd: int, number: int, pointer: Any) -> Any:
            if meeting is not None:
                return lib.ioctl_pointer_together(meeting.pointer, bracket, fd, number, pointer)
            return lib.bracketed_ioctl_pointer(bracket, fd, number, pointer)

        self._bracket_buffer = buffer
        self._call_value, self._call_pointer = call_value, call_pointer

    @property
    def bracket(self) -> BracketNumbers:
        """Host clocks around the newest ioctl; ValueError when brackets are off."""
        if self._bracket_buffer is None:
            raise ValueError("brackets are off: call use_brackets() first")
        return self._bracket_buffer.read()

    def _ioctl(self, ioctl: Ioctl, value: int = 0) -> int:
        result: int = self._call_value(self._fd, ioctl.number, value)
        if result < 0:
            raise KvmError(ioctl, -result)
        return result

    def _ioctl_pointer(self, ioctl: Ioctl, pointer: Any) -> int:
        result: int = self._call_pointer(self._fd, ioctl.number, pointer)
        if result < 0:
            raise KvmError(ioctl, -result)
        return result

    def _cpuid(self, ioctl: Ioctl) -> Any:
        """A `struct kvm_cpuid2 *`, filled in by an ioctl that refuses one which is too short."""
        entries = 64
        while True:
            cpuid = ffi.new("struct kvm_cpuid2 *", {"nent": entries, "entries": entries})
            try:
                self._ioctl_pointer(ioctl, cpuid)
            except KvmError as error:
                if error.errno != errno.E2BIG:
                    raise
                entries *= 2
            else:
                return cpuid

    def fileno(self) -> int:
        """The file descriptor, -1 once closed."""
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether it was given back."""
        return self._fd < 0

    def close(self) -> None:
        """Give the file descriptor back; again is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
