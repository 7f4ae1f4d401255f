# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that waits for the interrupt of its TSC-deadline timer, and notes its TSC when that comes.

Its mailbox may have it write IA32_TSC_DEADLINE first. It never exits by itself, but by the interrupt. Its
local APIC has to be on, with the timer in TSC-deadline mode. In x2APIC mode it ends the interrupt by a WRMSR
(Intel SDM vol. 3, "EOI Register" and "x2APIC Register Address Space").
"""

from __future__ import annotations

from kvmharness.guests import layout
from kvmharness.guests.program import Instruction, Program, code_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvmharness.kvm import Memory

_END_OF_INTERRUPT = 0x80B


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _store_tsc(address: int) -> tuple[Instruction, Instruction]:
    return (
        Instruction(f"movl %edx, {address + 4:#x}", b"\x66\x89\x16" + _u16(address + 4)),
        Instruction(f"movl %eax, {address:#x}", b"\x66\xa3" + _u16(address)),
    )


# The mailbox is emptied before the WRMSR, so that one that is refused is not tried again.
_ARM = (
    Instruction(f"movl {layout.MAILBOX_VALUE:#x}, %eax", b"\x66\xa1" + _u16(layout.MAILBOX_VALUE)),
    Instruction(
        f"movl {layout.MAILBOX_VALUE + 4:#x}, %edx", b"\x66\x8b\x16" + _u16(layout.MAILBOX_VALUE + 4)
    ),
    Instruction(
        f"movl $0, {layout.MAILBOX_INDEX:#x}", b"\x66\xc7\x06" + _u16(layout.MAILBOX_INDEX) + _u32(0)
    ),
    Instruction("wrmsr", b"\x0f\x30"),
    Instruction("rdtsc", b"\x0f\x31"),
    *_store_tsc(layout.ARMED),
)
# A player that sees it count knows that no interrupt was pending.
_WAIT = (Instruction(f"incl {layout.COUNTED:#x}", b"\x66\xff\x06" + _u16(layout.COUNTED)),)
_BODY = (
    Instruction("start:", b""),
    Instruction("cli", b"\xfa"),
    # What the last interrupt pushed is never returned to.
    Instruction(f"movw ${layout.STACK:#x}, %sp", b"\xbc" + _u16(layout.STACK)),
    Instruction(f"movl {layout.MAILBOX_INDEX:#x}, %ecx", b"\x66\x8b\x0e" + _u16(layout.MAILBOX_INDEX)),
    Instruction("jecxz armed", b"\x67\xe3" + bytes([len(code_of(_ARM))])),
    *_ARM,
    Instruction("armed:", b""),
    Instruction("sti", b"\xfb"),
    # No interrupt is taken before the instruction after STI has ended: that is not to count.
    Instruction("nop", b"\x90"),
    Instruction("wait:", b""),
    *_WAIT,
    Instruction("jmp wait", b"\xeb" + bytes([256 - len(code_of(_WAIT)) - 2])),
    Instruction("timer:", b""),
    Instruction("rdtsc", b"\x0f\x31"),
    *_store_tsc(layout.FIRED),
    Instruction(f"movl ${_END_OF_INTERRUPT:#x}, %ecx", b"\x66\xb9" + _u32(_END_OF_INTERRUPT)),
    Instruction("xorl %eax, %eax", b"\x66\x31\xc0"),
    Instruction("xorl %edx, %edx", b"\x66\x31\xd2"),
    Instruction("wrmsr", b"\x0f\x30"),
    Instruction("fault:", b""),
    Instruction(f"outb %al, ${layout.EXIT_PORT:#x}", b"\xe6" + bytes([layout.EXIT_PORT])),
)

TIMER_16 = Program(
    "timer-16",
    16,
    0,
    (*_BODY, Instruction("jmp start", b"\xeb" + bytes([256 - len(code_of(_BODY)) - 2]))),
)


def take_armed(memory: Memory, vcpu: int) -> int:
    """A vCPU's TSC just after it wrote a deadline, in cycles; 0 if it wrote none since this was asked."""
    return _take(memory, layout.results_address(vcpu) + layout.ARMED)


def take_fired(memory: Memory, vcpu: int) -> int:
    """A vCPU's TSC when its timer's interrupt came, in cycles; 0 if none came since this was last asked."""
    return _take(memory, layout.results_address(vcpu) + layout.FIRED)


def counted(memory: Memory, vcpu: int) -> int:
    """A number that changes while a vCPU waits with interrupts on."""
    return int.from_bytes(memory.read(layout.results_address(vcpu) + layout.COUNTED, 4), "little")


def _take(memory: Memory, place: int) -> int:
    tsc = int.from_bytes(memory.read(place, 8), "little")
    memory.write(place, bytes(8))
    return tsc
