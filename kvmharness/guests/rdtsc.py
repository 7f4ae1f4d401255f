# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs: read the TSC and stop, or over and over into a ring, or around a WRMSR.

Each finds its page of results through its data segment (16 bits) or RBX (64 bits), and is entered
with all other registers zero. Encodings: Intel SDM vol. 2. A test assembles the texts and compares.
"""

from kvmharness.guests.hyperv import READ_REFERENCE
from kvmharness.guests.layout import COUNT, EXIT_PORT, MAILBOX_INDEX, MAILBOX_VALUE, RING_SIZE, SAMPLES, STACK
from kvmharness.guests.nested import NESTED_64
from kvmharness.guests.program import Instruction, Program, code_of
from kvmharness.guests.steal import READ_STEAL_TIME
from kvmharness.guests.timer import TIMER_16
from kvmharness.guests.warp import WARP_64
from kvmharness.player.msr import MSRS


def _u8(value: int) -> bytes:
    return (value % 2**8).to_bytes(1, "little")


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _label(name: str) -> Instruction:
    return Instruction(f"{name}:", b"")


def _loop(*body: Instruction) -> tuple[Instruction, ...]:
    length = len(code_of(body))
    near = b"\xeb" + _u8(-(length + 2)) if length <= 126 else b"\xe9" + _u16(-(length + 3) % 2**16)
    jump_back = Instruction("jmp start", near)
    return (_label("start"), *body, jump_back)


def _unless_ecx_is_zero(*body: Instruction, then: str) -> tuple[Instruction, ...]:
    skip = Instruction(f"jecxz {then}", b"\x67\xe3" + _u8(len(code_of(body))))
    return (skip, *body, _label(then))


def _store_tsc_16(address: int) -> tuple[Instruction, Instruction]:
    # The low half comes last: where it is, the sample is whole, wherever the guest was stopped.
    return (
        Instruction(f"movl %edx, {address + 4:#x}", b"\x66\x89\x16" + _u16(address + 4)),
        Instruction(f"movl %eax, {address:#x}", b"\x66\xa3" + _u16(address)),
    )


_RDTSC = Instruction("rdtsc", b"\x0f\x31")
_EXIT = Instruction(f"outb %al, ${EXIT_PORT:#x}", b"\xe6" + _u8(EXIT_PORT))

RDTSC_16 = Program(
    "rdtsc-16",
    16,
    1,
    _loop(_RDTSC, *_store_tsc_16(SAMPLES), _EXIT),
)

RDTSC_64 = Program(
    "rdtsc-64",
    64,
    1,
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
    0,
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
    0,
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

# The mailbox is emptied before the WRMSR, so that one that is refused is not tried again, and so that
# the second RDTSC comes right behind it. Where nothing is to be written the two samples are taken all
# the same.
_WRITE = (
    Instruction(f"movw ${STACK:#x}, %sp", b"\xbc" + _u16(STACK)),
    _RDTSC,
    *_store_tsc_16(SAMPLES),
    Instruction(f"movl {MAILBOX_INDEX:#x}, %ecx", b"\x66\x8b\x0e" + _u16(MAILBOX_INDEX)),
    *_unless_ecx_is_zero(
        Instruction(f"movl {MAILBOX_VALUE:#x}, %eax", b"\x66\xa1" + _u16(MAILBOX_VALUE)),
        Instruction(f"movl {MAILBOX_VALUE + 4:#x}, %edx", b"\x66\x8b\x16" + _u16(MAILBOX_VALUE + 4)),
        Instruction(f"movl $0, {MAILBOX_INDEX:#x}", b"\x66\xc7\x06" + _u16(MAILBOX_INDEX) + _u32(0)),
        Instruction("wrmsr", b"\x0f\x30"),
        then="written",
    ),
    _RDTSC,
    *_store_tsc_16(SAMPLES + 8),
)

WRMSR_16 = Program("wrmsr-16", 16, 2, _loop(*_WRITE, _label("fault"), _EXIT), writes_msrs=True)

# The same, and then it reads its reference time; where there is no Hyper-V, the CPU refuses that.
HYPERV_16 = Program(
    "hyperv-16", 16, 2, _loop(*_WRITE, *READ_REFERENCE, _label("fault"), _EXIT), writes_msrs=True
)

# The same, and then it reads its steal time.
STEAL_16 = Program(
    "steal-16", 16, 2, _loop(*_WRITE, *READ_STEAL_TIME, _label("fault"), _EXIT), writes_msrs=True
)

# A CPU without RDTSCP refuses it, and the guest exits without a sample. ECX becomes IA32_TSC_AUX.
RDTSCP_16 = Program(
    "rdtscp-16",
    16,
    1,
    _loop(
        Instruction(f"movw ${STACK:#x}, %sp", b"\xbc" + _u16(STACK)),
        Instruction("rdtscp", b"\x0f\x01\xf9"),
        *_store_tsc_16(SAMPLES),
        _label("fault"),
        _EXIT,
    ),
)

# IA32_TIME_STAMP_COUNTER between two RDTSC.
RDMSR_16 = Program(
    "rdmsr-16",
    16,
    3,
    _loop(
        _RDTSC,
        *_store_tsc_16(SAMPLES),
        Instruction(f"movl ${MSRS['TSC']:#x}, %ecx", b"\x66\xb9" + _u32(MSRS["TSC"])),
        Instruction("rdmsr", b"\x0f\x32"),
        *_store_tsc_16(SAMPLES + 8),
        _RDTSC,
        *_store_tsc_16(SAMPLES + 16),
        _EXIT,
    ),
)

PROGRAMS = {
    program.name: program
    for program in (
        *(RDTSC_16, RDTSC_64, RDTSCP_16, RDMSR_16, RING_16, RING_64, WRMSR_16, WARP_64),
        *(TIMER_16, HYPERV_16, STEAL_16, NESTED_64),
    )
}
