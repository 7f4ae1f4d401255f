# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of programs of long mode that are more than one loop: jumps to labels, and what RBX points to."""

from __future__ import annotations

from kvmharness.guests.program import Instruction, code_of


def u32(value: int) -> bytes:
    """An immediate of 32 bits."""
    return (value % 2**32).to_bytes(4, "little")


class Jump(Instruction):
    """A jump to a label: a short one, or `far` with a distance of 32 bits."""

    def __init__(self, name: str, opcode: int, label: str, *, far: bool = False) -> None:
        super().__init__(f"{name} {label}", bytes([opcode, *bytes(4 if far else 1)]))
        self.label = label


def resolved(*instructions: Instruction) -> tuple[Instruction, ...]:
    """The same with the jumps' distances."""
    texts = [each.text for each in instructions]
    found = []
    for place, each in enumerate(instructions):
        if isinstance(each, Jump):
            target = len(code_of(instructions[: texts.index(f"{each.label}:")]))
            distance = target - len(code_of(instructions[: place + 1]))
            size = len(each.code) - 1
            code = each.code[:1] + distance.to_bytes(size, "little", signed=True)
            found.append(Instruction(each.text, code))
        else:
            found.append(each)
    return tuple(found)


def label(name: str) -> Instruction:
    """A place to jump to."""
    return Instruction(f"{name}:", b"")


def at(opcode: bytes, register: int, place: int) -> bytes:
    """An instruction on what RBX points to, with that register or extension of the opcode."""
    if place < 0x80:
        return opcode + bytes([0x43 | register << 3, place])
    return opcode + bytes([0x83 | register << 3]) + u32(place)


def compare(place: int, number: int) -> Instruction:
    """Compare the u32 there with a number below 128."""
    return Instruction(f"cmpl ${number}, {place:#x}(%rbx)", at(b"\x83", 7, place) + bytes([number]))


def put(place: int, number: int) -> Instruction:
    """Store a u32 there."""
    return Instruction(f"movl ${number}, {place:#x}(%rbx)", at(b"\xc7", 0, place) + u32(number))


def load_rax(place: int) -> Instruction:
    """Load RAX from there."""
    return Instruction(f"movq {place:#x}(%rbx), %rax", at(b"\x48\x8b", 0, place))
