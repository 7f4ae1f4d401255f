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
    One that `writes_msrs` has a mailbox. Labels say more: with "fault" it goes on there when the CPU refuses
    (`catches_faults`), with "timer" when its timer's interrupt comes (`awaits_timer`); with "copy" it reads
    its reference time as a guest of a Hyper-V does (`reads_reference`), with "l2" it is a hypervisor that has
    a guest (`has_l2`).
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
        # Worked out once: the player asks before and after each run.
        labels = {instruction.text for instruction in instructions if not instruction.code}
        self.endless = takes == 0
        self.reads_reference = "copy:" in labels
        self.reads_steal_time = "steal:" in labels
        self.catches_faults = "fault:" in labels
        self.awaits_timer = "timer:" in labels
        self.has_l2 = "l2:" in labels

    def place_of(self, label: str) -> int:
        """How many bytes after the program's start a label is; ValueError when there is none."""
        texts = [instruction.text for instruction in self.instructions]
        return len(code_of(self.instructions[: texts.index(f"{label}:")]))

    @property
    def assembly(self) -> str:
        """The source for the GNU assembler; what it makes of it is `code`."""
        lines = [f".code{self.bits}", *(instruction.text for instruction in self.instructions)]
        return "\n".join(lines) + "\n"
