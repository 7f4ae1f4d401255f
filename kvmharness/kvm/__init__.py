# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's ioctls, and nothing else: System (/dev/kvm) makes Vm makes Vcpu, each a context manager.

This package, `guests` and `player` also run inside the lab's machines, whose emulated CPU is a hundred
times slower than this one: they import neither typing nor dataclasses, enum or json, which would cost
each boot a second. A test holds them to it.
"""

from kvmharness.kvm._kvm import ffi, lib
from kvmharness.kvm.clock import BracketBuffer, BracketNumbers, Meeting, read_host_clock
from kvmharness.kvm.cpuid import of_hyperv, offers_svm, offers_vmx
from kvmharness.kvm.errors import KvmError, KvmUnavailableError, MsrError
from kvmharness.kvm.memory import Memory
from kvmharness.kvm.system import System
from kvmharness.kvm.vcpu import Exit, Vcpu
from kvmharness.kvm.vm import ClockData, Vm

__all__ = [
    "BracketBuffer",
    "BracketNumbers",
    "ClockData",
    "Exit",
    "KvmError",
    "KvmUnavailableError",
    "Meeting",
    "Memory",
    "MsrError",
    "System",
    "Vcpu",
    "Vm",
    "ffi",
    "lib",
    "of_hyperv",
    "offers_svm",
    "offers_vmx",
    "read_host_clock",
]
