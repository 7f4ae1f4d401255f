# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's ioctls, and nothing else: System (/dev/kvm) makes Vm makes Vcpu, each a context manager."""

from kvmharness.kvm._kvm import ffi, lib
from kvmharness.kvm.clock import Bracket, BracketBuffer, read_host_clock
from kvmharness.kvm.errors import KvmError, KvmUnavailableError, MsrError
from kvmharness.kvm.memory import Memory
from kvmharness.kvm.msr import Msr
from kvmharness.kvm.system import System
from kvmharness.kvm.vcpu import Exit, Vcpu
from kvmharness.kvm.vm import ClockData, Vm

__all__ = [
    "Bracket",
    "BracketBuffer",
    "ClockData",
    "Exit",
    "KvmError",
    "KvmUnavailableError",
    "Memory",
    "Msr",
    "MsrError",
    "System",
    "Vcpu",
    "Vm",
    "ffi",
    "lib",
    "read_host_clock",
]
