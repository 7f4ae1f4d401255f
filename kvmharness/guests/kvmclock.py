# SPDX-License-Identifier: GPL-2.0-or-later
"""The page through which KVM tells a guest the time (Documentation/virt/kvm/x86/msr.rst)."""

from __future__ import annotations

from kvmharness.guests import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvmharness.kvm import Memory


def read_page(memory: Memory, vcpu: int) -> list[int]:
    """A vCPU's struct pvclock_vcpu_time_info, while nobody writes it.

    Version, tsc_timestamp (cycles), system_time (ns), tsc_to_system_mul, tsc_shift (a signed byte, as 0 to
    255), flags; all 0 before KVM has first written it.
    """
    data = memory.read(layout.kvmclock_address(vcpu), layout.KVMCLOCK_SIZE)
    places = ((0, 4), (8, 8), (16, 8), (24, 4), (28, 1), (29, 1))
    return [int.from_bytes(data[place : place + size], "little") for place, size in places]
