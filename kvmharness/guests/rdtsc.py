# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs: read the TSC once and stop, or over and over into a ring.

Each finds its page of results through its data segment (16 bits) or RBX (64 bits), and is entered
with all other registers zero. Encodings: Intel SDM vol. 2. A test assembles the texts and compares.
"""

from kvmharness.guests.layout import COUNT, EXIT_PORT, RING_SIZE, SAMPLES
from kvmharness.guests.program import Instruction, Program


def _u8(value: int) -> bytes:
    return (value % 2**8).to_bytes(1, "little")


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _jump_back(label: str, body: list[Instruction]) -> Instruction:
    distance = sum(len(instruction.code) for instruction in body) + 2
    return Instruction(f"jmp {label}", b"\xeb" + _u8(-distance))


def _loop(*body: Instruction) -> tuple[Instruction, ...]:
    return (Instruction("start:", b""), *body, _jump_back("start", list(body)))


_RDTSC = Instruction("rdtsc", b"\x0f\x31")
_EXIT = Instruction(f"outb %al, ${EXIT_PORT:#x}", b"\xe6" + _u8(EXIT_PORT))

RDTSC_16 = Program(
    "rdtsc-16",
    16,
    False,
    _loop(
        _RDTSC,
        Instruction(f"movl %eax, {SAMPLES:#x}", b"\x66\xa3" + _u16(SAMPLES)),
        Instruction(f"movl %edx, {SAMPLES + 4:#x}", b"\x66\x89\x16" + _u16(SAMPLES + 4)),
        _EXIT,
    ),
)

RDTSC_64 = Program(
    "rdtsc-64",
    64,
    False,
    _loop(
        _RDTSC,
        Instruction("shlq $32, %rdx", b"\x48\xc1\xe2\x20"),
        Instruction("orq %rdx, %rax", b"\x48\x09\xd0"),
        Instruction(f"movq %rax, {SAMPLES:#x}(%rbx)", b"\x48\x89\x83" + _u32(SAMPLES)),
        _EXIT,
    ),
)

# The count is stored after its sample, so that a guest stopped anywhere has `count` whole samples.
RING_16 = Program(
    "ring-16",
    16,
    True,
    _loop(
        _RDTSC,
        Instruction("movw %cx, %di", b"\x89\xcf"),
        Instruction(f"andw ${RING_SIZE - 1:#x}, %di", b"\x81\xe7" + _u16(RING_SIZE - 1)),
        Instruction("shlw $3, %di", b"\xc1\xe7\x03"),
        Instruction(f"movl %eax, {SAMPLES:#x}(%di)", b"\x66\x89\x85" + _u16(SAMPLES)),
        Instruction(f"movl %edx, {SAMPLES + 4:#x}(%di)", b"\x66\x89\x95" + _u16(SAMPLES + 4)),
        Instruction("incl %ecx", b"\x66\x41"),
        Instruction(f"movl %ecx, {COUNT:#x}", b"\x66\x89\x0e" + _u16(COUNT)),
    ),
)

RING_64 = Program(
    "ring-64",
    64,
    True,
    _loop(
        _RDTSC,
        Instruction("shlq $32, %rdx", b"\x48\xc1\xe2\x20"),
        Instruction("orq %rdx, %rax", b"\x48\x09\xd0"),
        Instruction("movq %rcx, %rdi", b"\x48\x89\xcf"),
        Instruction(f"andl ${RING_SIZE - 1:#x}, %edi", b"\x81\xe7" + _u32(RING_SIZE - 1)),
        Instruction(f"movq %rax, {SAMPLES:#x}(%rbx,%rdi,8)", b"\x48\x89\x84\xfb" + _u32(SAMPLES)),
        Instruction("incq %rcx", b"\x48\xff\xc1"),
        Instruction("movq %rcx, (%rbx)", b"\x48\x89\x0b"),
    ),
)

PROGRAMS = {program.name: program for program in (RDTSC_16, RDTSC_64, RING_16, RING_64)}
