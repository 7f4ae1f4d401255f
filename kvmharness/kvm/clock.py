# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's clocks, and the bracket they make around an operation."""

from typing import NamedTuple

from kvmharness.kvm._kvm import ffi, lib


class Bracket(NamedTuple):
    """Host clocks just before and just after something.

    `tsc_*` in cycles of the host's TSC, `ns_*` in ns of CLOCK_MONOTONIC_RAW. What the kernel read of
    these clocks in between lies between them, ends included.
    """

    tsc_before: int
    ns_before: int
    ns_after: int
    tsc_after: int

    @property
    def width(self) -> int:
        """How far apart the TSC readings are, in cycles."""
        return self.tsc_after - self.tsc_before


class BracketBuffer:
    """Where the C side leaves the bracket of the newest ioctl it was given to."""

    __slots__ = ("pointer",)

    def __init__(self) -> None:
        self.pointer = ffi.new("struct bracket *")

    def read(self) -> Bracket:
        """The newest bracket."""
        pointer = self.pointer
        return Bracket(pointer.tsc_before, pointer.ns_before, pointer.ns_after, pointer.tsc_after)


def read_host_clock() -> Bracket:
    """Both host clocks now, as a bracket around nothing."""
    buffer = BracketBuffer()
    lib.read_host_clock(buffer.pointer)
    return buffer.read()
