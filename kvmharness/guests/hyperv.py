# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest of a Hyper-V reads of its reference time: by the MSR, between two RDTSC, and by the TSC page.

It copies the page as the protocol has it (Hyper-V Top Level Functional Specification, "Reference TSC Page"):
again, if the sequence was another one meanwhile. A sequence of 0 says that only the MSR counts.
"""

from __future__ import annotations

from kvmharness.guests import layout
from kvmharness.guests.program import Instruction, code_of
from kvmharness.player.msr import MSRS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvmharness.kvm import Memory

# Of the page, in bytes (struct ms_hyperv_tsc_page, asm-generic/hyperv-tlfs.h).
_SEQUENCE, _SCALE, _OFFSET = 0, 8, 16


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _store(place: int) -> tuple[Instruction, Instruction]:
    address = layout.REFERENCE + 8 * place
    return (
        Instruction(f"movl %edx, {address + 4:#x}", b"\x66\x89\x16" + _u16(address + 4)),
        Instruction(f"movl %eax, {address:#x}", b"\x66\xa3" + _u16(address)),
    )


def _of_page(place: int) -> tuple[Instruction, Instruction]:
    return (
        Instruction(f"movl %es:{place:#x}, %eax", b"\x26\x66\xa1" + _u16(place)),
        Instruction(f"movl %es:{place + 4:#x}, %edx", b"\x26\x66\x8b\x16" + _u16(place + 4)),
    )


_RDTSC = Instruction("rdtsc", b"\x0f\x31")
_TIME_REF_COUNT = MSRS["HV_TIME_REF_COUNT"]
_COPY = (
    Instruction(f"movl %es:{_SEQUENCE:#x}, %esi", b"\x26\x66\x8b\x36" + _u16(_SEQUENCE)),
    *_of_page(_SCALE),
    *_store(4),
    *_of_page(_OFFSET),
    *_store(5),
    Instruction(f"cmpl %es:{_SEQUENCE:#x}, %esi", b"\x26\x66\x3b\x36" + _u16(_SEQUENCE)),
)

# Its data segment is its page of results, its extra segment the TSC page.
READ_REFERENCE = (
    _RDTSC,
    *_store(0),
    Instruction(f"movl ${_TIME_REF_COUNT:#x}, %ecx", b"\x66\xb9" + _TIME_REF_COUNT.to_bytes(4, "little")),
    Instruction("rdmsr", b"\x0f\x32"),
    *_store(1),
    _RDTSC,
    *_store(2),
    Instruction("copy:", b""),
    *_COPY,
    Instruction("jne copy", b"\x75" + bytes([256 - len(code_of(_COPY)) - 2])),
    Instruction(f"movl %esi, {layout.REFERENCE + 24:#x}", b"\x66\x89\x36" + _u16(layout.REFERENCE + 24)),
    Instruction(
        f"movl $1, {layout.REFERENCE_READ:#x}",
        b"\x66\xc7\x06" + _u16(layout.REFERENCE_READ) + (1).to_bytes(4, "little"),
    ),
)


def take_reference(memory: Memory, vcpu: int) -> list[int]:
    """What a guest read of its reference time since this was last asked; [] if it did not come so far.

    Its TSC before (cycles), the reference counter (units of 100 ns) and its TSC after that, and the page as
    tsc_page() has it.
    """
    results = layout.results_address(vcpu)
    done = memory.read(results + layout.REFERENCE_READ, 4)
    memory.write(results + layout.REFERENCE_READ, bytes(4))
    return _numbers(memory.read(results + layout.REFERENCE, 48)) if any(done) else []


def tsc_page(memory: Memory) -> list[int]:
    """The VM's struct ms_hyperv_tsc_page, while nobody writes it: sequence, scale and offset.

    The reference time in units of 100 ns is (TSC * scale >> 64) + offset, modulo 2**64. A sequence of 0 says
    that the guest is not to go by the page.
    """
    sequence, scale, offset = _numbers(memory.read(layout.TSC_PAGE, 24))
    return [sequence % 2**32, scale, offset]


def _numbers(data: bytes) -> list[int]:
    return memoryview(data).cast("Q").tolist()
