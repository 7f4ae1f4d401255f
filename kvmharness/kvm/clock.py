# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's clocks, and the bracket they make around an operation.

A bracket is four numbers: the host's TSC (cycles) and CLOCK_MONOTONIC_RAW (ns) just before, then
CLOCK_MONOTONIC_RAW and the TSC just after. What the kernel read of these clocks in between lies
between them, ends included.
"""

from kvmharness.kvm._kvm import ffi, lib

BracketNumbers = tuple[int, int, int, int]


class BracketBuffer:
    """Where the C side leaves the bracket of the newest ioctl it was given to."""

    def __init__(self) -> None:
        self.pointer = ffi.new("struct bracket *")

    def read(self) -> BracketNumbers:
        """The newest bracket."""
        pointer = self.pointer
        return (pointer.tsc_before, pointer.ns_before, pointer.ns_after, pointer.tsc_after)


class Meeting:
    """Where `expected` threads wait for each other before an ioctl; none for longer than 100 ms."""

    def __init__(self, expected: int) -> None:
        self.pointer = ffi.new("struct meeting *", {"expected": expected})


def read_host_clock() -> BracketNumbers:
    """Both host clocks now, as a bracket around nothing."""
    buffer = BracketBuffer()
    lib.read_host_clock(buffer.pointer)
    return buffer.read()
