# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that is a hypervisor (L1) with a guest of its own (L2), in long mode, on the same page tables.

L1 reads its TSC and exits, or enters L2, as the player asks for it. L2 reads its TSC and exits to the player
too, by an OUT that L1 does not intercept: L2 stays current. Asked to leave, it executes CPUID, which L1
intercepts. Each has a mailbox for what it is to write.

It uses SVM (AMD's manual vol. 2, "Secure Virtual Machine" and appendix B): the player fills L1's VMCB.
"""

from __future__ import annotations

from kvmharness.guests import layout
from kvmharness.guests.program import Instruction, Program, code_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvmharness.kvm import Memory, Vcpu

# Of the VMCB, in bytes.
_INTERCEPTS_1, _INTERCEPTS_2, _TSC_OFFSET, _ASID = 0x0C, 0x10, 0x50, 0x58
_ES, _CS, _SS, _DS, _CPL, _EFER = 0x400, 0x410, 0x420, 0x430, 0x4CB, 0x4D0
_CR4, _CR3, _CR0, _DR7, _DR6, _RFLAGS, _RIP = 0x548, 0x550, 0x558, 0x560, 0x568, 0x570, 0x578
_CPUID, _VMRUN = 1 << 18, 1 << 0
_CODE_64, _DATA = 0xA9B, 0xC93
_VM_HSAVE_PA, _SVME = 0xC0010117, 1 << 12
_STAY, _ENTER = 1, 2  # of layout.L2_WANTED; 0: L1


def _u32(value: int) -> bytes:
    return (value % 2**32).to_bytes(4, "little")


class _Jump(Instruction):
    """A short jump to a label."""

    def __init__(self, name: str, opcode: int, label: str) -> None:
        super().__init__(f"{name} {label}", bytes([opcode, 0]))
        self.label = label


def _resolved(*instructions: Instruction) -> tuple[Instruction, ...]:
    """The same with the jumps' distances."""
    texts = [each.text for each in instructions]
    found = []
    for place, each in enumerate(instructions):
        if isinstance(each, _Jump):
            target = len(code_of(instructions[: texts.index(f"{each.label}:")]))
            distance = target - len(code_of(instructions[: place + 1]))
            found.append(Instruction(each.text, each.code[:1] + distance.to_bytes(1, "little", signed=True)))
        else:
            found.append(each)
    return tuple(found)


def _label(name: str) -> Instruction:
    return Instruction(f"{name}:", b"")


def _at(opcode: bytes, register: int, place: int) -> bytes:
    """An instruction on what RBX points to, with that register or extension of the opcode."""
    if place < 0x80:
        return opcode + bytes([0x43 | register << 3, place])
    return opcode + bytes([0x83 | register << 3]) + _u32(place)


_RDTSC = Instruction("rdtsc", b"\x0f\x31")
_EXIT = Instruction(f"outb %al, ${layout.EXIT_PORT:#x}", b"\xe6" + bytes([layout.EXIT_PORT]))


def _store(place: int) -> tuple[Instruction, ...]:
    return (
        Instruction("shlq $32, %rdx", b"\x48\xc1\xe2\x20"),
        Instruction("orq %rdx, %rax", b"\x48\x09\xd0"),
        Instruction(f"movq %rax, {place:#x}(%rbx)", _at(b"\x48\x89", 0, place)),
    )


def _write(index: int, value: int, then: str) -> tuple[Instruction, ...]:
    """What a mailbox asks for, which is emptied first."""
    return (
        Instruction(f"movl {index:#x}(%rbx), %ecx", _at(b"\x8b", 1, index)),
        _Jump("jrcxz", 0xE3, then),
        Instruction(f"movl {value:#x}(%rbx), %eax", _at(b"\x8b", 0, value)),
        Instruction(f"movl {value + 4:#x}(%rbx), %edx", _at(b"\x8b", 2, value + 4)),
        Instruction(f"movl $0, {index:#x}(%rbx)", _at(b"\xc7", 0, index) + _u32(0)),
        Instruction("wrmsr", b"\x0f\x30"),
        _label(then),
    )


def _compare(place: int, number: int) -> Instruction:
    return Instruction(f"cmpl ${number}, {place:#x}(%rbx)", _at(b"\x83", 7, place) + bytes([number]))


_TSC = 0x10
_L1 = (
    _label("start"),
    _RDTSC,
    *_store(layout.SAMPLES),
    *_write(layout.MAILBOX_INDEX, layout.MAILBOX_VALUE, "written"),
    _RDTSC,
    *_store(layout.SAMPLES + 8),
    _compare(layout.L2_WANTED, 0),
    _Jump("je", 0x74, "exit"),
    Instruction(
        f"movl ${_STAY}, {layout.L2_WANTED:#x}(%rbx)", _at(b"\xc7", 0, layout.L2_WANTED) + _u32(_STAY)
    ),
    # An L2 that left stands at its CPUID.
    Instruction(f"movq {layout.VMCB_ADDRESS:#x}(%rbx), %rax", _at(b"\x48\x8b", 0, layout.VMCB_ADDRESS)),
    Instruction(f"movq {layout.L2_START:#x}(%rbx), %rcx", _at(b"\x48\x8b", 1, layout.L2_START)),
    Instruction(f"movq %rcx, {_RIP:#x}(%rax)", b"\x48\x89\x88" + _u32(_RIP)),
    Instruction("vmrun", b"\x0f\x01\xd8"),
    _Jump("jmp", 0xEB, "start"),
    _label("exit"),
    _EXIT,
    _Jump("jmp", 0xEB, "start"),
)
_L2 = (
    _label("l2"),
    _RDTSC,
    *_store(layout.L2_SAMPLES),
    *_write(layout.L2_MAILBOX_INDEX, layout.L2_MAILBOX_VALUE, "l2_written"),
    _RDTSC,
    *_store(layout.L2_SAMPLES + 8),
    Instruction(f"movl ${_TSC:#x}, %ecx", b"\xb9" + _u32(_TSC)),
    Instruction("rdmsr", b"\x0f\x32"),
    *_store(layout.L2_SAMPLES + 16),
    _EXIT,
    _compare(layout.L2_WANTED, _STAY),
    _Jump("je", 0x74, "l2"),
    Instruction("cpuid", b"\x0f\xa2"),
)

NESTED_64 = Program("nested-64", 64, 2, _resolved(*_L1, *_L2))


def prepare_l2(memory: Memory, vcpu: Vcpu) -> bool:
    """Have a vCPU be able to enter a guest of its own; False where its KVM offers it no SVM."""
    number = vcpu.number
    sregs = vcpu.sregs()
    sregs.efer |= _SVME
    try:
        vcpu.set_sregs(sregs)
        vcpu.set_msrs([(_VM_HSAVE_PA, layout.vmcb_address(number) + 0x1000)])
    except OSError:
        return False
    _fill_vmcb(memory, number)
    return True


def _fill_vmcb(memory: Memory, vcpu: int) -> None:
    vmcb, results = layout.vmcb_address(vcpu), layout.results_address(vcpu)
    memory.write(vmcb, bytes(0x1000))
    fields = (
        (_INTERCEPTS_1, 4, _CPUID),
        (_INTERCEPTS_2, 4, _VMRUN),
        (_ASID, 4, 1),
        *((each + 4, 4, 0xFFFFFFFF) for each in (_ES, _CS, _SS, _DS)),
        *((each, 4, _DATA << 16 | 0x10) for each in (_ES, _SS, _DS)),
        (_CS, 4, _CODE_64 << 16 | 0x8),
        (_EFER, 8, 0x1500),  # SVME, LMA, LME
        (_CR4, 8, 0x20),  # PAE
        (_CR3, 8, layout.PML4),
        (_CR0, 8, 0x80000011),  # PG, ET, PE
        (_DR7, 8, 0x400),
        (_DR6, 8, 0xFFFF0FF0),
        (_RFLAGS, 8, 0x202),
    )
    for place, size, value in fields:
        memory.write(vmcb + place, value.to_bytes(size, "little"))
    memory.write(results + layout.VMCB_ADDRESS, vmcb.to_bytes(8, "little"))
    start = layout.code_address(vcpu) + NESTED_64.place_of("l2")
    memory.write(results + layout.L2_START, start.to_bytes(8, "little"))


def ask_for_l1(memory: Memory, vcpu: int) -> None:
    """A vCPU's next run is L1's: L2 leaves first, if it is current."""
    _ask(memory, vcpu, 0)


def ask_for_l2(memory: Memory, vcpu: int, offset: int | None) -> None:
    """A vCPU's next run is L2's, with what L1 adds to its own TSC (cycles, modulo 2**64).

    An L2 that is current leaves first, and is entered again; without an `offset` it goes on.
    """
    if offset is not None:
        memory.write(layout.vmcb_address(vcpu) + _TSC_OFFSET, (offset % 2**64).to_bytes(8, "little"))
    _ask(memory, vcpu, _STAY if offset is None else _ENTER)


def _ask(memory: Memory, vcpu: int, wanted: int) -> None:
    results = layout.results_address(vcpu)
    memory.write(results + layout.SAMPLES, bytes(16))
    memory.write(results + layout.L2_SAMPLES, bytes(24))
    memory.write(results + layout.L2_WANTED, wanted.to_bytes(4, "little"))


def ask_l2_to_write(memory: Memory, vcpu: int, msr: int, value: int) -> None:
    """Put an MSR's index and a value modulo 2**64 into L2's mailbox: its next run writes them."""
    results = layout.results_address(vcpu)
    memory.write(results + layout.L2_MAILBOX_VALUE, (value % 2**64).to_bytes(8, "little"))
    memory.write(results + layout.L2_MAILBOX_INDEX, msr.to_bytes(4, "little"))


def is_asked_for_l2(memory: Memory, vcpu: int) -> bool:
    """Whether a vCPU's last run was to be L2's."""
    return any(memory.read(layout.results_address(vcpu) + layout.L2_WANTED, 4))


def l2_offset(memory: Memory, vcpu: int) -> int:
    """What L1 adds to its own TSC for L2, in cycles modulo 2**64."""
    return int.from_bytes(memory.read(layout.vmcb_address(vcpu) + _TSC_OFFSET, 8), "little")


def l2_samples(memory: Memory, vcpu: int) -> list[int]:
    """What L2 read in its last run, as far as it got: its TSC, before and after its WRMSR, and by RDMSR."""
    data = memory.read(layout.results_address(vcpu) + layout.L2_SAMPLES, 24)
    taken: list[int] = memoryview(data).cast("Q").tolist()
    return taken[: taken.index(0)] if 0 in taken else taken
