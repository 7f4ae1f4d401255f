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
# In IA32_APIC_BASE: the guest reaches the registers of its local APIC as MSRs.
_X2APIC_MODE = 1 << 10
# Bit 1 is always set. Interrupts are on, of which a vCPU without an interrupt controller gets none: where
# they are off, Bochs' VMX (2.7) holds back the host's too, and an endless guest would never be stopped.
_RFLAGS = 0x2 | 1 << 9


def load(program: Program, memory: Memory, vcpu: Vcpu) -> None:
    """Put `program` where this vCPU finds it, the vCPU at its first instruction, and no results."""
    code, results = layout.code_address(vcpu.number), layout.results_address(vcpu.number)
    memory.write(code, program.code)
    memory.write(results, bytes(0x1000))
    sregs = vcpu.sregs()
    if program.bits == 64:
        _write_page_tables(memory)
        _enter_long_mode(sregs)
        vcpu.set_sregs(sregs)
        vcpu.set_regs({"rip": code, "rbx": results, "rflags": _RFLAGS})
    else:
        _set_real_mode_segment(sregs.cs, code)
        _set_real_mode_segment(sregs.ds, results)
        extra = layout.steal_time_address(vcpu.number) if program.reads_steal_time else layout.TSC_PAGE
        _set_real_mode_segment(sregs.es, extra)
        if program.catches_faults:
            _set_real_mode_segment(sregs.ss, results)
            _write_vectors(memory, results, (program.place_of("fault"), code >> 4))
            sregs.idt.base, sregs.idt.limit = results + layout.VECTORS, layout.VECTORS_SIZE - 1
        if program.awaits_timer:
            _write_vector(memory, results, layout.TIMER_VECTOR, (program.place_of("timer"), code >> 4))
            sregs.apic_base |= _X2APIC_MODE
        vcpu.set_sregs(sregs)
        vcpu.set_regs({"rflags": _RFLAGS, "rsp": layout.STACK})


def samples(program: Program, memory: Memory, vcpu: int) -> list[int]:
    """The guest TSCs the program read and nobody took yet, oldest first, in cycles; [] if none.

    Of an endless program the newest 255 since it was loaded: the oldest slot of the ring may be half
    written. They are of the newest run alone if a guest that did not exit by itself is loaded again
    before it runs on: it may stand between reading a sample and storing it.
    """
    results = layout.results_address(vcpu)
    if not program.endless:
        size = 8 * program.takes
        taken = _numbers(memory.read(results + layout.SAMPLES, size))
        memory.write(results + layout.SAMPLES, bytes(size))
        whole = [sample % 2**32 != 0 for sample in taken]
        return taken[: whole.index(False)] if False in whole else taken
    (count,) = _numbers(memory.read(results + layout.COUNT, 8))
    size = layout.RING_SIZE
    ring = _numbers(memory.read(results + layout.SAMPLES, 8 * size))
    return [ring[place % size] for place in range(max(0, count - (size - 1)), count)]


def ask_to_write(memory: Memory, vcpu: int, msr: int, value: int) -> None:
    """Put an MSR's index and a value modulo 2**64 into a vCPU's mailbox: its next run writes them."""
    results = layout.results_address(vcpu)
    memory.write(results + layout.MAILBOX_VALUE, (value % 2**64).to_bytes(8, "little"))
    memory.write(results + layout.MAILBOX_INDEX, msr.to_bytes(4, "little"))


def _write_vectors(memory: Memory, results: int, target: tuple[int, int]) -> None:
    """Have all that the CPU may raise go to one place, given as instruction pointer and segment."""
    for vector in range(layout.VECTORS_SIZE // 4):
        _write_vector(memory, results, vector, target)


def _write_vector(memory: Memory, results: int, vector: int, target: tuple[int, int]) -> None:
    place = results + layout.VECTORS + 4 * vector
    memory.write(place, b"".join(number.to_bytes(2, "little") for number in target))


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
