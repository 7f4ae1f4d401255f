# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays scripts on /dev/kvm and records what happened.

A failed operation is recorded with its errno and the script goes on; it ends early only where the
rest cannot be played (a vCPU that was not created, a value that rests on a failed reading).
"""

import errno
import os
import time
from collections.abc import Callable

from kvmharness import guests
from kvmharness.guests.layout import MEMORY_SIZE
from kvmharness.kvm import Bracket, BracketBuffer, Memory, Msr, System, Vcpu, Vm, read_host_clock
from kvmharness.kvm.errors import KvmError
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscOffset,
    Operation,
    Run,
    Script,
    ScriptError,
    SetMsrs,
    SetTscOffset,
    Sleep,
    resolve,
)
from kvmharness.trace import Event, Trace


class Player:
    """Plays one script after the other on an open /dev/kvm, each on a VM of its own.

    The calling thread stays on the CPU it is on: CPUs' TSCs may be a few cycles apart, and a bracket
    is only as good as the TSC it was read from.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._cpuid = system.supported_cpuid()

    def play(self, scenario: str, script: Script) -> Trace:
        """Play `script` from its first step; KvmError when not even a VM can be created."""
        affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {_this_cpu(affinity)})
        try:
            with self._system.create_vm() as vm:
                stage = _Stage(vm, vm.add_memory(MEMORY_SIZE), self._cpuid)
                return Trace(scenario, os.uname().release, tuple(stage.play(script)))
        finally:
            os.sched_setaffinity(0, affinity)


def _this_cpu(allowed: set[int]) -> int:
    """The CPU this thread runs on: field 39 of /proc/thread-self/stat (proc(5)); else the first allowed."""
    try:
        with open("/proc/thread-self/stat", "rb") as stat:
            cpu = int(stat.read().rsplit(b")", 1)[1].split()[36])
    except (OSError, ValueError, IndexError):
        cpu = -1
    return cpu if cpu in allowed else min(allowed)


class _Stage:
    """A VM while a script is played on it."""

    def __init__(self, vm: Vm, memory: Memory, cpuid: object) -> None:
        self._vm = vm
        self._memory = memory
        self._cpuid = cpuid
        self._brackets = BracketBuffer()
        self._programs: dict[int, guests.Program] = {}
        self._vcpus: dict[int, Vcpu] = {}
        self._khz: dict[int, int] = {}
        self._read: dict[str, int] = {}
        vm.use_brackets(self._brackets)
        self._act: dict[type[Operation], Callable[..., tuple[int, ...]]] = {
            CreateVcpu: self._create_vcpu,
            SetMsrs: self._set_msrs,
            GetMsrs: self._get_msrs,
            SetTscOffset: self._set_tsc_offset,
            GetTscOffset: self._get_tsc_offset,
            Run: self._run,
            GetClock: self._get_clock,
            Sleep: self._sleep,
        }

    def play(self, script: Script) -> list[Event]:
        events = []
        for operation in script:
            try:
                event = self._play(operation)
            except (ScriptError, KeyError):
                break
            events.append(event)
            if operation.label and event.values and not event.error:
                self._read[operation.label] = event.values[0]
        return events

    def _play(self, operation: Operation) -> Event:
        self._bracket: Bracket | None = None
        self._written: tuple[int, ...] = ()
        try:
            values = self._act[type(operation)](operation)
        except KvmError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            return Event(operation, self._bracket or self._brackets.read(), self._written, name)
        return Event(operation, self._bracket or self._brackets.read(), values)

    def _create_vcpu(self, operation: CreateVcpu) -> tuple[int, ...]:
        vcpu = self._vm.create_vcpu(operation.vcpu)
        self._bracket = self._vm.bracket
        vcpu.set_cpuid2(self._cpuid)
        program = guests.PROGRAMS[operation.guest]
        guests.load(program, self._memory, vcpu)
        khz = vcpu.tsc_khz()
        self._vcpus[operation.vcpu], self._programs[operation.vcpu] = vcpu, program
        self._khz[operation.vcpu] = khz
        return (khz,)

    def _set_msrs(self, operation: SetMsrs) -> tuple[int, ...]:
        vcpu, khz = self._vcpus[operation.vcpu], self._khz[operation.vcpu]
        values = [resolve(value, khz, self._read) for _, value in operation.msrs]
        self._written = tuple(values)
        vcpu.set_msrs([(Msr[name], value) for (name, _), value in zip(operation.msrs, values, strict=True)])
        return self._written

    def _get_msrs(self, operation: GetMsrs) -> tuple[int, ...]:
        return tuple(self._vcpus[operation.vcpu].msrs([Msr[name] for name in operation.indices]))

    def _set_tsc_offset(self, operation: SetTscOffset) -> tuple[int, ...]:
        vcpu = self._vcpus[operation.vcpu]
        offset = resolve(operation.offset, self._khz[operation.vcpu], self._read)
        self._written = (offset,)
        vcpu.set_tsc_offset(offset)
        return self._written

    def _get_tsc_offset(self, operation: GetTscOffset) -> tuple[int, ...]:
        return (self._vcpus[operation.vcpu].tsc_offset(),)

    def _run(self, operation: Run) -> tuple[int, ...]:
        self._vcpus[operation.vcpu].run(operation.ns)
        return tuple(guests.samples(self._programs[operation.vcpu], self._memory, operation.vcpu))

    def _get_clock(self, operation: GetClock) -> tuple[int, ...]:
        clock = self._vm.clock()
        return (clock.clock, clock.flags)

    def _sleep(self, operation: Sleep) -> tuple[int, ...]:
        before = read_host_clock()
        time.sleep(operation.ns / 1e9)
        after = read_host_clock()
        self._bracket = Bracket(before.tsc_before, before.ns_before, after.ns_after, after.tsc_after)
        return ()
