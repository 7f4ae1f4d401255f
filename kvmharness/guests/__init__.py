# SPDX-License-Identifier: GPL-2.0-or-later
"""Tiny guests that read or write their TSC, and where they leave what they read."""

from kvmharness.guests.hyperv import take_reference, tsc_page
from kvmharness.guests.kvmclock import read_page, xen_runstate, xen_time, xen_vcpu_info, xen_wall_clock
from kvmharness.guests.loader import ask_to_write, load, samples
from kvmharness.guests.nested import (
    ask_for_l1,
    ask_for_l2,
    ask_l2_to_write,
    is_asked_for_l2,
    l2_offset,
    l2_samples,
    prepare_l2,
)
from kvmharness.guests.program import Instruction, Program
from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.guests.steal import take_steal_time
from kvmharness.guests.timer import counted, take_armed, take_fired
from kvmharness.guests.warp import meetings, prepare_meeting

__all__ = [
    "PROGRAMS",
    "Instruction",
    "Program",
    "ask_for_l1",
    "ask_for_l2",
    "ask_l2_to_write",
    "ask_to_write",
    "counted",
    "is_asked_for_l2",
    "l2_offset",
    "l2_samples",
    "load",
    "meetings",
    "prepare_l2",
    "prepare_meeting",
    "read_page",
    "samples",
    "take_armed",
    "take_fired",
    "take_reference",
    "take_steal_time",
    "tsc_page",
    "xen_runstate",
    "xen_time",
    "xen_vcpu_info",
    "xen_wall_clock",
]
