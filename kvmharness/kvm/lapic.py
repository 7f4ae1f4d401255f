# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU's local APIC as KVM_GET_LAPIC has it, and the CPUID that offers its deadline timer.

Registers: Intel SDM vol. 3, "Local APIC Register Address Map"; each is 32 bits wide, 16 bytes from the next.
"""

from __future__ import annotations

from kvmharness.kvm._kvm import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPURIOUS, _REQUESTED, _TIMER = 0xF0, 0x200, 0x320
_SOFTWARE_ENABLED = 1 << 8
_FIRST_LEAF, _DEADLINE_TIMER = 1, 1 << 24  # CPUID.01H:ECX

# The modes of the timer, in its entry of the local vector table.
ONE_SHOT, TSC_DEADLINE = 0, 2 << 17


def with_deadline_timer(cpuid: Any) -> Any:
    """A copy of a `struct kvm_cpuid2 *` that offers the TSC-deadline timer.

    Before 6.14 KVM_GET_SUPPORTED_CPUID leaves the bit out though KVM has the timer: it needs an interrupt
    chip in the kernel, which a VM may not have (Documentation/virt/kvm/api.rst). Without the bit KVM takes
    away the timer's mode (kvm_vcpu_after_set_cpuid).
    """
    entries = list(cpuid.entries[0 : cpuid.nent])
    copy = ffi.new("struct kvm_cpuid2 *", {"nent": len(entries), "entries": entries})
    for entry in copy.entries[0 : copy.nent]:
        if entry.function == _FIRST_LEAF:
            entry.ecx |= _DEADLINE_TIMER
    return copy


def enable_timer(lapic: Any, mode: int, vector: int) -> None:
    """Switch a `struct kvm_lapic_state *` on, with its timer in a mode, unmasked, at a vector."""
    _write(lapic, _SPURIOUS, _read(lapic, _SPURIOUS) | _SOFTWARE_ENABLED)
    _write(lapic, _TIMER, mode | vector)


def timer_entry(lapic: Any) -> int:
    """The timer's entry of the local vector table: mode, mask and vector."""
    return _read(lapic, _TIMER)


def is_requested(lapic: Any, vector: int) -> bool:
    """Whether an interrupt waits to be taken (its bit of IRR)."""
    return bool(_read(lapic, _requested(vector)) >> vector % 32 & 1)


def request(lapic: Any, vector: int) -> None:
    """Have an interrupt wait to be taken."""
    place = _requested(vector)
    _write(lapic, place, _read(lapic, place) | 1 << vector % 32)


def _requested(vector: int) -> int:
    return _REQUESTED + 16 * (vector // 32)


def _read(lapic: Any, place: int) -> int:
    return int.from_bytes(ffi.buffer(lapic.regs)[place : place + 4], "little")


def _write(lapic: Any, place: int, value: int) -> None:
    ffi.buffer(lapic.regs)[place : place + 4] = value.to_bytes(4, "little")
