# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that runs on several vCPUs at once and holds its TSC against theirs.

As the kernel's own check_tsc_warp() (arch/x86/kernel/tsc_sync.c) does: under a lock it takes the TSC that
was read last, by whomever, reads its own, and leaves that for the next. Where another vCPU's was greater,
time ran backwards from the one to the other: a warp.
"""

from __future__ import annotations

from kvmharness.guests import layout
from kvmharness.guests.program import Instruction, Program, code_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvmharness.kvm import Memory


def _jump(mnemonic: str, opcode: int, over: tuple[Instruction, ...], to: str) -> Instruction:
    return Instruction(f"{mnemonic} {to}", bytes([opcode, len(code_of(over))]))


def _back(mnemonic: str, opcode: int, over: tuple[Instruction, ...], to: str) -> Instruction:
    return Instruction(f"{mnemonic} {to}", bytes([opcode, 256 - len(code_of(over)) - 2]))


def _counted(address: int) -> Instruction:
    return Instruction(f"incq {address:#x}(%rbx)", b"\x48\xff\x43" + bytes([address]))


_LOCK = (
    Instruction("movl $1, %eax", b"\xb8\x01\0\0\0"),
    Instruction("xchgl %eax, (%r8)", b"\x41\x87\x00"),
    Instruction("testl %eax, %eax", b"\x85\xc0"),
)
_READ = (
    Instruction("movq 8(%r8), %rsi", b"\x49\x8b\x70\x08"),
    Instruction("movq 16(%r8), %rdi", b"\x49\x8b\x78\x10"),
    Instruction("movq %rbx, 16(%r8)", b"\x49\x89\x58\x10"),
    Instruction("lfence", b"\x0f\xae\xe8"),  # not before the last one's is seen
    Instruction("rdtsc", b"\x0f\x31"),
    Instruction("shlq $32, %rdx", b"\x48\xc1\xe2\x20"),
    Instruction("orq %rdx, %rax", b"\x48\x09\xd0"),
    Instruction("movq %rax, 8(%r8)", b"\x49\x89\x40\x08"),
    Instruction("movl $0, (%r8)", b"\x41\xc7\x00\0\0\0\0"),
)
_KEEP = (Instruction(f"movq %rsi, {layout.LARGEST:#x}(%rbx)", b"\x48\x89\x73" + bytes([layout.LARGEST])),)
_MEASURE = (
    _counted(layout.WARPS),
    Instruction("subq %rax, %rsi", b"\x48\x29\xc6"),
    Instruction(f"cmpq {layout.LARGEST:#x}(%rbx), %rsi", b"\x48\x3b\x73" + bytes([layout.LARGEST])),
    _jump("jbe", 0x76, _KEEP, "next"),
    *_KEEP,
)
_COMPARE = (
    _counted(layout.HANDOVERS),
    Instruction("cmpq %rax, %rsi", b"\x48\x39\xc6"),
    _jump("jbe", 0x76, _MEASURE, "next"),
    *_MEASURE,
)
_BODY = (
    Instruction(f"movl ${layout.MEETING:#x}, %r8d", b"\x41\xb8" + layout.MEETING.to_bytes(4, "little")),
    Instruction("lock:", b""),
    *_LOCK,
    _back("jnz", 0x75, _LOCK, "lock"),
    *_READ,
    Instruction("cmpq %rbx, %rdi", b"\x48\x39\xdf"),
    _jump("je", 0x74, _COMPARE, "next"),
    *_COMPARE,
    Instruction("next:", b""),
)

WARP_64 = Program(
    "warp-64",
    64,
    0,
    (Instruction("start:", b""), *_BODY, _back("jmp", 0xEB, _BODY, "start")),
)


def prepare_meeting(memory: Memory) -> None:
    """The lock is free, and nobody has read a TSC."""
    memory.write(layout.MEETING, bytes(layout.MEETING_SIZE))


def meetings(memory: Memory, vcpu: int) -> list[int]:
    """How often a vCPU read its TSC right after another, how often in a warp, and the largest (cycles)."""
    results = layout.results_address(vcpu)
    places = (layout.HANDOVERS, layout.WARPS, layout.LARGEST)
    return [int.from_bytes(memory.read(results + place, 8), "little") for place in places]
