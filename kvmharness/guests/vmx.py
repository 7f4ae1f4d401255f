# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest (L1) that enters a guest of its own (L2) by VMX: the player says what L1 is to write to its VMCS.

Intel SDM vol. 3, "VMX operation" and the chapters after it; encodings of the fields: appendix B. L1 uses no
EPT: L2 is on L1's page tables. What is not written is 0: KVM keeps L1's VMCS in L1's memory, which was empty.
"""

from __future__ import annotations

from kvmharness.guests import layout
from kvmharness.guests.assembly import Jump, at, compare, label, put
from kvmharness.guests.program import Instruction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvmharness.kvm import Memory, Vcpu

_CR0_NE, _CR4_VMXE = 1 << 5, 1 << 13
_FEATURE_CONTROL, _LOCKED_WITH_VMX = 0x3A, 0x5
_VMX_BASIC, _PROCBASED_2 = 0x480, 0x48B
# Of layout.L2_KIND.
_SVM, _VMX, _VMX_LAUNCHED = 0, 1, 2

_TSC_OFFSET, _TSC_MULTIPLIER = 0x2010, 0x2032
_PIN_BASED, _PROC_BASED, _EXIT, _ENTRY, _SECONDARY = 0x4000, 0x4002, 0x400C, 0x4012, 0x401E
_GUEST_RIP, _HOST_RIP = 0x681E, 0x6C16
# What has to be set, and TSC offsetting, an MSR bitmap and the secondary controls.
_PROC_BASED_WITH = 0x04006172 | 1 << 3 | 1 << 28 | 1 << 31
_SECONDARY_SCALING = 1 << 25
_CONTROL_REGISTERS = ((0, 0x80000031), (2, layout.PML4), (4, 0x2020))  # PG, NE, ET, PE; PAE, VMXE
_CODE_64, _DATA, _TASK, _UNUSABLE = 0xA09B, 0xC093, 0x8B, 1 << 16
_SELECTORS = (0x10, 0x8, 0x10, 0x10, 0, 0)  # ES, CS, SS, DS, FS, GS
_RIGHTS = (_DATA, _CODE_64, _DATA, _DATA, _UNUSABLE, _UNUSABLE, _UNUSABLE, _TASK)  # and LDTR, TR
_TASK_SELECTOR = 0x18

# The fields that stay: 64-bit mode on both sides, interrupts on, nothing intercepted but what has to be.
_FIELDS = (
    (0x2004, layout.MSR_BITMAP),
    (0x2800, 2**64 - 1),  # no shadow VMCS
    (_PIN_BASED, 0x16),
    (_PROC_BASED, _PROC_BASED_WITH),
    (_EXIT, 0x36DFB | 1 << 9),
    (_ENTRY, 0x11FB | 1 << 9),
    *((0x800 + 2 * place, selector) for place, selector in enumerate(_SELECTORS)),
    *((0xC00 + 2 * place, selector) for place, selector in enumerate((*_SELECTORS, _TASK_SELECTOR))),
    (0x80E, _TASK_SELECTOR),
    *((0x4800 + 2 * place, 0xFFFFFFFF) for place in range(4)),
    (0x480E, 0x67),  # the least limit of TR
    *((0x4814 + 2 * place, rights) for place, rights in enumerate(_RIGHTS)),
    *((0x6800 + place, value) for place, value in _CONTROL_REGISTERS),
    *((0x6C00 + place, value) for place, value in _CONTROL_REGISTERS),
    (0x681A, 0x400),  # DR7
    (0x6820, 0x202),  # RFLAGS
)


def _on_pointer(name: str, opcode: bytes, place: int) -> Instruction:
    return Instruction(f"{name} {place:#x}(%rbx)", at(opcode, 6, place))


# RBX points to the results. Where L2 cannot be entered, L1 goes on after it.
ENTER = (
    Instruction(f"movq {layout.L2_FIELDS:#x}(%rbx), %rsi", at(b"\x48\x8b", 6, layout.L2_FIELDS)),
    compare(layout.L2_KIND, _VMX),
    Jump("jne", 0x75, "write"),
    _on_pointer("vmxon", b"\xf3\x0f\xc7", layout.L2_VMXON),
    _on_pointer("vmclear", b"\x66\x0f\xc7", layout.L2_CONTROL),
    _on_pointer("vmptrld", b"\x0f\xc7", layout.L2_CONTROL),
    label("write"),
    Instruction("movq (%rsi), %rcx", b"\x48\x8b\x0e"),
    Jump("jrcxz", 0xE3, "written_all"),
    Instruction("vmwrite 8(%rsi), %rcx", b"\x0f\x79\x4e\x08"),
    Instruction("addq $16, %rsi", b"\x48\x83\xc6\x10"),
    Jump("jmp", 0xEB, "write"),
    label("written_all"),
    compare(layout.L2_KIND, _VMX),
    Jump("jne", 0x75, "resume"),
    put(layout.L2_KIND, _VMX_LAUNCHED),
    Instruction("vmlaunch", b"\x0f\x01\xc2"),
    label("resume"),
    Instruction("vmresume", b"\x0f\x01\xc3"),
)
# Where L1 goes on when L2 has left: with interrupts off, which it does not want (see `loader`).
LEFT = Instruction("sti", b"\xfb")


def prepare(memory: Memory, vcpu: Vcpu) -> bool:
    """Have a vCPU be able to execute ENTER; whether it may scale L2's TSC.

    OSError where its KVM does not let it.
    """
    number = vcpu.number
    results, vmcs = layout.results_address(number), layout.l2_control_address(number)
    vcpu.set_msrs([(_FEATURE_CONTROL, _LOCKED_WITH_VMX)])
    sregs = vcpu.sregs()
    sregs.cr0 |= _CR0_NE
    sregs.cr4 |= _CR4_VMXE
    vcpu.set_sregs(sregs)
    basic, secondary = vcpu.msrs([_VMX_BASIC, _PROCBASED_2])
    revision = (basic % 2**31).to_bytes(4, "little")
    for page in (vmcs, vmcs + 0x1000):
        memory.write(page, bytes(0x1000))
        memory.write(page, revision)
    memory.write(layout.MSR_BITMAP, bytes(0x1000))
    memory.write(results + layout.L2_KIND, _VMX.to_bytes(4, "little"))
    memory.write(results + layout.L2_VMXON, (vmcs + 0x1000).to_bytes(8, "little"))
    memory.write(results + layout.L2_FIELDS, (vmcs + 0x2000).to_bytes(8, "little"))
    set_offset(memory, number, 0, None)
    return bool(secondary >> 32 & _SECONDARY_SCALING)


def is_used(memory: Memory, vcpu: int) -> bool:
    """Whether a vCPU's L1 enters its L2 in this way."""
    return _kind(memory, vcpu) != _SVM


def set_offset(memory: Memory, vcpu: int, offset: int, multiplier: int | None) -> None:
    """What is added to L1's TSC for L2 when it is entered next (cycles below 2**64).

    Before that L1's TSC is multiplied by `multiplier`, of which 48 bits are after the point.
    """
    results = layout.results_address(vcpu)
    start, left = (memory.read(results + place, 8) for place in (layout.L2_START, layout.L2_LEFT))
    fields = (
        (_TSC_OFFSET, offset),
        (_TSC_MULTIPLIER, multiplier or 0),
        (_SECONDARY, 0 if multiplier is None else _SECONDARY_SCALING),
        # One that left stands at its CPUID.
        (_GUEST_RIP, int.from_bytes(start, "little")),
        *(() if _kind(memory, vcpu) == _VMX_LAUNCHED else _FIELDS),
        (_HOST_RIP, int.from_bytes(left, "little")),
        (0, 0),
    )
    numbers = b"".join(number.to_bytes(8, "little") for field in fields for number in field)
    memory.write(layout.l2_control_address(vcpu) + 0x2000, numbers)


def _kind(memory: Memory, vcpu: int) -> int:
    return int.from_bytes(memory.read(layout.results_address(vcpu) + layout.L2_KIND, 4), "little")
