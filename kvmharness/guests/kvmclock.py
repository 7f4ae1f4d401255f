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
    return _time_info(memory, layout.kvmclock_address(vcpu))


def xen_time(memory: Memory, vcpu: int) -> list[int]:
    """The same of the page in which a Xen tells a vCPU the time."""
    return _time_info(memory, layout.xen_time_address(vcpu))


def xen_vcpu_info(memory: Memory, vcpu: int) -> list[int]:
    """The same of the time that a Xen's vcpu_info has: its second half."""
    half = layout.XEN_VCPU_INFO_SIZE // 2
    return _time_info(memory, layout.xen_vcpu_info_address(vcpu) + half)


def xen_wall_clock(memory: Memory) -> list[int]:
    """The wall clock that a Xen shares: its version, and the real time (ns) at a VM's clock of 0."""
    version, seconds, ns = memoryview(memory.read(layout.XEN_WALL_CLOCK, 12)).cast("I").tolist()
    (high,) = memoryview(memory.read(layout.XEN_WALL_CLOCK_HIGH, 4)).cast("I").tolist()
    return [version, (((high << 32) + seconds) * 1_000_000_000 + ns) % 2**64]


def xen_runstate(memory: Memory, vcpu: int) -> list[int]:
    """A vCPU's runstate as a Xen of 32 bits has it (struct compat_vcpu_runstate_info), without alignment.

    Its state, state_entry_time (the VM's clock, ns), and how long (ns) it was running, runnable, blocked and
    offline; all 0 before KVM has first written it.
    """
    data = memory.read(layout.xen_runstate_address(vcpu), 44)
    places = ((0, 4), *((place, 8) for place in range(4, 44, 8)))
    return [int.from_bytes(data[place : place + size], "little") for place, size in places]


def _time_info(memory: Memory, address: int) -> list[int]:
    data = memory.read(address, layout.KVMCLOCK_SIZE)
    places = ((0, 4), (8, 8), (16, 8), (24, 4), (28, 1), (29, 1))
    return [int.from_bytes(data[place : place + size], "little") for place, size in places]
