# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest (L1) that enters a guest of its own (L2) by SVM: the player fills L1's VMCB.

AMD's manual vol. 2, "Secure Virtual Machine" and appendix B.
"""

from __future__ import annotations

from kvmharness.guests import layout
from kvmharness.guests.assembly import at, load_rax, u32
from kvmharness.guests.program import Instruction

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

# RBX points to the results. L2 begins anew: one that left stands at its CPUID.
ENTER = (
    load_rax(layout.L2_CONTROL),
    Instruction(f"movq {layout.L2_START:#x}(%rbx), %rcx", at(b"\x48\x8b", 1, layout.L2_START)),
    Instruction(f"movq %rcx, {_RIP:#x}(%rax)", b"\x48\x89\x88" + u32(_RIP)),
    Instruction("vmrun", b"\x0f\x01\xd8"),
)


def prepare(memory: Memory, vcpu: Vcpu) -> None:
    """Have a vCPU be able to execute ENTER; OSError where its KVM does not let it."""
    vmcb = layout.l2_control_address(vcpu.number)
    sregs = vcpu.sregs()
    sregs.efer |= _SVME
    vcpu.set_sregs(sregs)
    vcpu.set_msrs([(_VM_HSAVE_PA, vmcb + 0x1000)])
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


def set_offset(memory: Memory, vcpu: int, offset: int) -> None:
    """What is added to L1's TSC for L2 when it is entered next (cycles below 2**64)."""
    memory.write(layout.l2_control_address(vcpu) + _TSC_OFFSET, offset.to_bytes(8, "little"))
