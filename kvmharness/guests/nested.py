# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that is a hypervisor (L1) with a guest of its own (L2), in long mode, on the same page tables.

L1 reads its TSC and exits, or enters L2, as the player asks for it. L2 reads its TSC and exits to the player
too, by an OUT that L1 does not intercept: L2 stays current. Asked to leave, it executes CPUID, which L1
intercepts. Each has a mailbox for what it is to write. L1 uses SVM or VMX, whichever its KVM offers it.
"""

from __future__ import annotations

from kvmharness.guests import layout, svm, vmx
from kvmharness.guests.assembly import Jump, at, compare, label, put, resolved, u32
from kvmharness.guests.program import Instruction, Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvmharness.kvm import Memory, Vcpu

_STAY, _ENTER = 1, 2  # of layout.L2_WANTED; 0: L1

_RDTSC = Instruction("rdtsc", b"\x0f\x31")
_EXIT = Instruction(f"outb %al, ${layout.EXIT_PORT:#x}", b"\xe6" + bytes([layout.EXIT_PORT]))


def _store(place: int) -> tuple[Instruction, ...]:
    return (
        Instruction("shlq $32, %rdx", b"\x48\xc1\xe2\x20"),
        Instruction("orq %rdx, %rax", b"\x48\x09\xd0"),
        Instruction(f"movq %rax, {place:#x}(%rbx)", at(b"\x48\x89", 0, place)),
    )


def _write(index: int, value: int, then: str) -> tuple[Instruction, ...]:
    """What a mailbox asks for, which is emptied first."""
    return (
        Instruction(f"movl {index:#x}(%rbx), %ecx", at(b"\x8b", 1, index)),
        Jump("jrcxz", 0xE3, then),
        Instruction(f"movl {value:#x}(%rbx), %eax", at(b"\x8b", 0, value)),
        Instruction(f"movl {value + 4:#x}(%rbx), %edx", at(b"\x8b", 2, value + 4)),
        put(index, 0),
        Instruction("wrmsr", b"\x0f\x30"),
        label(then),
    )


_TSC = 0x10
_L1 = (
    label("start"),
    _RDTSC,
    *_store(layout.SAMPLES),
    *_write(layout.MAILBOX_INDEX, layout.MAILBOX_VALUE, "written"),
    _RDTSC,
    *_store(layout.SAMPLES + 8),
    compare(layout.L2_WANTED, 0),
    Jump("jne", 0x75, "enter"),
    label("exit"),
    _EXIT,
    Jump("jmp", 0xEB, "start"),
    label("enter"),
    put(layout.L2_WANTED, _STAY),
    compare(layout.L2_KIND, 0),
    Jump("jne", 0x75, "by_vmx"),
    *svm.ENTER,
    Jump("jmp", 0xEB, "start"),
    label("by_vmx"),
    *vmx.ENTER,
    Jump("jmp", 0xE9, "exit", far=True),
    label("left"),
    vmx.LEFT,
    Jump("jmp", 0xE9, "start", far=True),
)
_L2 = (
    label("l2"),
    _RDTSC,
    *_store(layout.L2_SAMPLES),
    *_write(layout.L2_MAILBOX_INDEX, layout.L2_MAILBOX_VALUE, "l2_written"),
    _RDTSC,
    *_store(layout.L2_SAMPLES + 8),
    Instruction(f"movl ${_TSC:#x}, %ecx", b"\xb9" + u32(_TSC)),
    Instruction("rdmsr", b"\x0f\x32"),
    *_store(layout.L2_SAMPLES + 16),
    _EXIT,
    compare(layout.L2_WANTED, _STAY),
    Jump("je", 0x74, "l2"),
    Instruction("cpuid", b"\x0f\xa2"),
)

NESTED_64 = Program("nested-64", 64, 2, resolved(*_L1, *_L2))


def prepare_l2(memory: Memory, vcpu: Vcpu, *, by_vmx: bool) -> bool | None:
    """Have a vCPU be able to enter a guest of its own, by SVM or VMX; whether it may scale the TSC of that.

    None where its KVM does not let it enter one.
    """
    results, code = layout.results_address(vcpu.number), layout.code_address(vcpu.number)
    for place, address in (
        (layout.L2_CONTROL, layout.l2_control_address(vcpu.number)),
        (layout.L2_START, code + NESTED_64.place_of("l2")),
        (layout.L2_LEFT, code + NESTED_64.place_of("left")),
    ):
        memory.write(results + place, address.to_bytes(8, "little"))
    try:
        if by_vmx:
            return vmx.prepare(memory, vcpu)
        svm.prepare(memory, vcpu)
    except OSError:
        return None
    return False


def ask_for_l1(memory: Memory, vcpu: int) -> None:
    """A vCPU's next run is L1's: L2 leaves first, if it is current."""
    _ask(memory, vcpu, 0)


def ask_for_l2(memory: Memory, vcpu: int, offset: int | None, rate_ppm: int | None = None) -> None:
    """A vCPU's next run is L2's, with what L1 adds to its own TSC (cycles, modulo 2**64).

    An L2 that is current leaves first, and is entered again; without an `offset` it goes on. L1's TSC is
    multiplied before: with a `rate_ppm` of 10**6 by 1. Only by an L1 that may scale (see `prepare_l2`).
    """
    if offset is not None:
        memory.write(layout.results_address(vcpu) + layout.L2_OFFSET, (offset % 2**64).to_bytes(8, "little"))
        if vmx.is_used(memory, vcpu):
            multiplier = None if rate_ppm is None else layout.l2_multiplier(rate_ppm)
            vmx.set_offset(memory, vcpu, offset % 2**64, multiplier)
        else:
            svm.set_offset(memory, vcpu, offset % 2**64)
    _ask(memory, vcpu, _STAY if offset is None else _ENTER)


def _ask(memory: Memory, vcpu: int, wanted: int) -> None:
    results = layout.results_address(vcpu)
    memory.write(results + layout.SAMPLES, bytes(16))
    memory.write(results + layout.L2_SAMPLES, bytes(24))
    memory.write(results + layout.L2_WANTED, wanted.to_bytes(4, "little"))


def ask_l2_to_write(memory: Memory, vcpu: int, msr: int, value: int) -> None:
    """Put an MSR's index and a value modulo 2**64 into L2's mailbox: its next run writes them."""
    results = layout.results_address(vcpu)
    memory.write(results + layout.L2_MAILBOX_VALUE, (value % 2**64).to_bytes(8, "little"))
    memory.write(results + layout.L2_MAILBOX_INDEX, msr.to_bytes(4, "little"))


def is_asked_for_l2(memory: Memory, vcpu: int) -> bool:
    """Whether a vCPU's last run was to be L2's."""
    return any(memory.read(layout.results_address(vcpu) + layout.L2_WANTED, 4))


def l2_offset(memory: Memory, vcpu: int) -> int:
    """What L1 adds to its own TSC for L2, in cycles modulo 2**64."""
    return int.from_bytes(memory.read(layout.results_address(vcpu) + layout.L2_OFFSET, 8), "little")


def l2_samples(memory: Memory, vcpu: int) -> list[int]:
    """What L2 read in its last run, as far as it got: its TSC, before and after its WRMSR, and by RDMSR."""
    data = memory.read(layout.results_address(vcpu) + layout.L2_SAMPLES, 24)
    taken: list[int] = memoryview(data).cast("Q").tolist()
    return taken[: taken.index(0)] if 0 in taken else taken
