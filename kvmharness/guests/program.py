# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest program is: instructions, each as assembly text beside the bytes it stands for."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Instruction:
    """One instruction, or a label ("loop:") with no bytes. The text is GNU assembler syntax."""

    def __init__(self, text: str, code: bytes) -> None:
        self.text = text
        self.code = code


def code_of(instructions: Iterable[Instruction]) -> bytes:
    """The bytes of instructions in a row."""
    return b"".join(instruction.code for instruction in instructions)


class Program:
    """A tiny guest.

    `bits` is 16 (real mode) or 64 (long mode). It takes `takes` samples, then exits; 0 is endless: it
    never exits by itself, KVM_RUN ends at its deadline. Where it leaves what it reads: see `layout`.
    One that `writes_msrs` has a mailbox. One with a label "fault" goes on there when the CPU refuses, and one
    with a label "timer" when its timer's interrupt comes.
    """

    def __init__(
        self,
        name: str,
        bits: int,
        takes: int,
        instructions: tuple[Instruction, ...],
        *,
        writes_msrs: bool = False,
    ) -> None:
        self.name = name
        self.bits = bits
        self.takes = takes
        self.instructions = instructions
        self.writes_msrs = writes_msrs
        self.code = code_of(instructions)

    @property
    def endless(self) -> bool:
        """Whether it never exits by itself."""
        return self.takes == 0

    @property
    def reads_reference(self) -> bool:
        """Whether it reads its reference time, as a guest of a Hyper-V does."""
        return any(instruction.text == "copy:" for instruction in self.instructions)

    @property
    def catches_faults(self) -> bool:
        """Whether it has a place to go on at when the CPU refuses an instruction."""
        return any(instruction.text == "fault:" for instruction in self.instructions)

    @property
    def has_l2(self) -> bool:
        """Whether it is a hypervisor with a guest of its own."""
        return any(instruction.text == "l2:" for instruction in self.instructions)

    @property
    def awaits_timer(self) -> bool:
        """Whether it has a place to go on at when its timer's interrupt comes."""
        return any(instruction.text == "timer:" for instruction in self.instructions)

    def place_of(self, label: str) -> int:
        """How many bytes after the program's start a label is; ValueError when there is none."""
        texts = [instruction.text for instruction in self.instructions]
        return len(code_of(self.instructions[: texts.index(f"{label}:")]))

    @property
    def assembly(self) -> str:
        """The source for the GNU assembler; what it makes of it is `code`."""
        lines = [f".code{self.bits}", *(instruction.text for instruction in self.instructions)]
        return "\n".join(lines) + "\n"
