# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest program is: instructions, each as assembly text beside the bytes it stands for."""


class Instruction:
    """One instruction, or a label ("loop:") with no bytes. The text is GNU assembler syntax."""

    def __init__(self, text: str, code: bytes) -> None:
        self.text = text
        self.code = code


class Program:
    """A tiny guest.

    `bits` is 16 (real mode) or 64 (long mode). An `endless` one never exits by itself: KVM_RUN ends
    at its deadline. Where it leaves what it reads: see `layout`.
    """

    def __init__(self, name: str, bits: int, endless: bool, instructions: tuple[Instruction, ...]) -> None:
        self.name = name
        self.bits = bits
        self.endless = endless
        self.instructions = instructions
        self.code = b"".join(instruction.code for instruction in instructions)

    @property
    def assembly(self) -> str:
        """The source for the GNU assembler; what it makes of it is `code`."""
        lines = [f".code{self.bits}", *(instruction.text for instruction in self.instructions)]
        return "\n".join(lines) + "\n"
