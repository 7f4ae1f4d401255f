# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest reads of its steal time, the time for which its vCPU had to wait for a CPU.

It copies the page as a guest is to (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME): again, if the
version was another one meanwhile.
"""

from __future__ import annotations

from kvmharness.guests import layout
from kvmharness.guests.program import Instruction, code_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvmharness.kvm import Memory

# Of the page, in bytes (struct kvm_steal_time, asm/kvm_para.h): the time (ns), the version, flags, whether
# the vCPU is preempted; all else is padding.
_STEAL, _VERSION, _PREEMPTED, _PADDING = 0, 8, 16, 17


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _copied(place: int) -> tuple[Instruction, Instruction]:
    stored = layout.STOLEN + place
    return (
        Instruction(f"movl %es:{place:#x}, %eax", b"\x26\x66\xa1" + _u16(place)),
        Instruction(f"movl %eax, {stored:#x}", b"\x66\xa3" + _u16(stored)),
    )


_COPY = (
    Instruction(f"movl %es:{_VERSION:#x}, %esi", b"\x26\x66\x8b\x36" + _u16(_VERSION)),
    *(each for place in range(0, 24, 4) for each in _copied(place)),
    Instruction(f"cmpl %es:{_VERSION:#x}, %esi", b"\x26\x66\x3b\x36" + _u16(_VERSION)),
)

# Its data segment is its page of results, its extra segment the page of its steal time.
READ_STEAL_TIME = (
    Instruction("steal:", b""),
    *_COPY,
    Instruction("jne steal", b"\x75" + bytes([256 - len(code_of(_COPY)) - 2])),
    Instruction(
        f"movl $1, {layout.STOLEN_READ:#x}",
        b"\x66\xc7\x06" + _u16(layout.STOLEN_READ) + (1).to_bytes(4, "little"),
    ),
)


def take_steal_time(memory: Memory, vcpu: int) -> list[int]:
    """What a guest read of its steal time since this was last asked; [] if it did not come so far.

    The time in ns, the version, the flags, whether the vCPU was preempted, and the bits that are set in what
    is padding.
    """
    results = layout.results_address(vcpu)
    done = memory.read(results + layout.STOLEN_READ, 4)
    memory.write(results + layout.STOLEN_READ, bytes(4))
    if not any(done):
        return []
    read = memory.read(results + layout.STOLEN, 24)
    page = memory.read(layout.steal_time_address(vcpu), layout.STEAL_TIME_SIZE)
    padding = 0
    for byte in read[_PADDING:] + page[len(read) :]:
        padding |= byte
    numbers = ((_STEAL, 8), (_VERSION, 4), (_VERSION + 4, 4), (_PREEMPTED, 1))
    return [*(int.from_bytes(read[at : at + size], "little") for at, size in numbers), padding]
