# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts a program into a guest's memory, a vCPU at its start, and reads what it left."""

from __future__ import annotations

from kvmharness.guests import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvmharness.guests.program import Program
    from kvmharness.kvm import Memory, Vcpu

_PRESENT_WRITABLE = 0x3
_HUGE = 0x80
_CR0_PE, _CR0_PG = 1 << 0, 1 << 31
_CR4_PAE = 1 << 5
_EFER_LME, _EFER_LMA = 1 << 8, 1 << 10
_RFLAGS_RESERVED = 0x2  # bit 1 is always set


def load(program: Program, memory: Memory, vcpu: Vcpu) -> None:
    """Put `program` where this vCPU finds it, and the vCPU at its first instruction."""
    code, results = layout.code_address(vcpu.number), layout.results_address(vcpu.number)
    memory.write(code, program.code)
    memory.write(results, bytes(0x1000))
    sregs = vcpu.sregs()
    if program.bits == 64:
        _write_page_tables(memory)
        _enter_long_mode(sregs)
        vcpu.set_sregs(sregs)
        vcpu.set_regs({"rip": code, "rbx": results, "rflags": _RFLAGS_RESERVED})
    else:
        _set_real_mode_segment(sregs.cs, code)
        _set_real_mode_segment(sregs.ds, results)
        vcpu.set_sregs(sregs)
        vcpu.set_regs({"rflags": _RFLAGS_RESERVED})


def samples(program: Program, memory: Memory, vcpu: int) -> list[int]:
    """The guest TSCs the program read in its newest run, oldest first, in cycles; [] if none.

    Of an endless program the newest 255 at most: the oldest slot of the ring may be half written.
    """
    results = layout.results_address(vcpu)
    if not program.endless:
        (sample,) = _numbers(memory.read(results + layout.SAMPLES, 8))
        memory.write(results + layout.SAMPLES, bytes(8))
        return [sample] if sample else []
    (count,) = _numbers(memory.read(results + layout.COUNT, 8))
    size = layout.RING_SIZE
    ring = _numbers(memory.read(results + layout.SAMPLES, 8 * size))
    return [ring[place % size] for place in range(max(0, count - (size - 1)), count)]


def _numbers(data: bytes) -> list[int]:
    """64-bit numbers as this CPU has them in memory."""
    return memoryview(data).cast("Q").tolist()


def _set_real_mode_segment(segment: Any, base: int) -> None:
    segment.base = base
    segment.selector = base >> 4


def _write_page_tables(memory: Memory) -> None:
    for address, entry in (
        (layout.PML4, layout.PDPT | _PRESENT_WRITABLE),
        (layout.PDPT, layout.PAGE_DIRECTORY | _PRESENT_WRITABLE),
        (layout.PAGE_DIRECTORY, _PRESENT_WRITABLE | _HUGE),
    ):
        memory.write(address, entry.to_bytes(8, "little"))


def _enter_long_mode(sregs: Any) -> None:
    sregs.cr3 = layout.PML4
    sregs.cr4 |= _CR4_PAE
    sregs.cr0 |= _CR0_PE | _CR0_PG
    sregs.efer |= _EFER_LME | _EFER_LMA
    for segment, kind in ((sregs.cs, 0xB), (sregs.ds, 0x3), (sregs.es, 0x3), (sregs.ss, 0x3)):
        segment.base = 0
        segment.limit = 0xFFFFFFFF
        segment.type = kind
        segment.present = segment.s = segment.g = 1
        segment.l, segment.db = (1, 0) if kind == 0xB else (0, 1)
        segment.selector = 0x8 if kind == 0xB else 0x10
