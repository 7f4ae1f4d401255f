# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest program is: instructions, each as assembly text beside the bytes it stands for."""

from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction, or a label ("loop:") with no bytes. The text is GNU assembler syntax."""

    text: str
    code: bytes


class Program(NamedTuple):
    """A tiny guest.

    `bits` is 16 (real mode) or 64 (long mode). An `endless` one never exits by itself: KVM_RUN ends
    at its deadline. Where it leaves what it reads: see `layout`.
    """

    name: str
    bits: int
    endless: bool
    instructions: tuple[Instruction, ...]

    @property
    def code(self) -> bytes:
        """The machine code."""
        return b"".join(instruction.code for instruction in self.instructions)

    @property
    def assembly(self) -> str:
        """The source for the GNU assembler; what it makes of it is `code`."""
        lines = [f".code{self.bits}", *(instruction.text for instruction in self.instructions)]
        return "\n".join(lines) + "\n"
