# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays scripts on /dev/kvm and records what happened, both as JSON data (see `script` and `trace`).

A failed operation is recorded with its errno and the script goes on; it ends early only where the
rest cannot be played (a vCPU that was not created, a value that rests on a failed reading).
"""

from __future__ import annotations

import errno
import os
import time

from kvmharness import guests
from kvmharness.guests.layout import MEMORY_SIZE
from kvmharness.kvm import BracketBuffer, Exit, read_host_clock
from kvmharness.msr import MSRS
from kvmharness.values import NothingReadError, frequency, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from kvmharness.kvm import BracketNumbers, Memory, System, Vcpu, Vm


class Player:
    """Plays one script after the other on an open /dev/kvm, each on a VM of its own.

    The calling thread stays on the CPU it is on, unless the script moves it: CPUs' TSCs may be a few
    cycles apart, and a bracket is only as good as the TSC it was read from.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._cpuid = system.supported_cpuid()

    def play(self, script: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Play a script's operations; the steps of a trace. KvmError when not even a VM can be created."""
        affinity = os.sched_getaffinity(0)
        here = _this_cpu(affinity)
        cpus = [here, *sorted(affinity - {here})]
        os.sched_setaffinity(0, {here})
        try:
            with self._system.create_vm() as vm:
                return _Stage(vm, vm.add_memory(MEMORY_SIZE), self._cpuid, cpus).play(script)
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
    """A VM while a script is played on it. Each operation is the method of its name.

    `cpus` are those the thread may move to, the one it is on first.
    """

    def __init__(self, vm: Vm, memory: Memory, cpuid: Any, cpus: list[int]) -> None:
        self._vm = vm
        self._memory = memory
        self._cpuid = cpuid
        self._cpus = cpus
        self._cpu = cpus[0]
        self._brackets = BracketBuffer()
        self._vcpus: dict[int, Vcpu] = {}
        self._programs: dict[int, guests.Program] = {}
        self._unfinished: set[int] = set()  # whose guests did not exit by themselves
        self._khz: dict[int, int] = {}
        self._khz_created: dict[int, int] = {}
        self._read: dict[str, int] = {}
        vm.use_brackets(self._brackets)

    def play(self, script: list[dict[str, Any]]) -> list[dict[str, Any]]:
        steps = []
        for operation in script:
            if operation.get("vcpu") not in (None, *self._vcpus) and operation["op"] != "create_vcpu":
                break
            try:
                step = self._play(operation)
            except NothingReadError:
                break
            steps.append(step)
            if "values" in step and "errno" not in step:
                self._read[operation.get("label", "")] = step["values"][0]
        return steps

    def _play(self, operation: dict[str, Any]) -> dict[str, Any]:
        # Set by operations that are not one ioctl, or that know what they write before it is refused.
        self._bracket: BracketNumbers | None = None
        self._written: list[int] = []
        name = ""
        try:
            values = getattr(self, "do_" + operation["op"])(operation)
        except OSError as error:  # a KvmError, or no memory for a vCPU's shared page
            values = self._written
            name = errno.errorcode.get(error.errno or 0, "EIO")
        tsc_before, ns_before, ns_after, tsc_after = self._bracket or self._brackets.read()
        step = {"op": operation, "tsc": [tsc_before, tsc_after], "ns": [ns_before, ns_after]}
        if values:
            step["values"] = values
        if name:
            step["errno"] = name
        return step

    def do_create_vcpu(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        vcpu = self._vm.create_vcpu(number)
        self._bracket = self._vm.bracket
        vcpu.set_cpuid2(self._cpuid)
        program = guests.PROGRAMS[operation["guest"]]
        guests.load(program, self._memory, vcpu)
        khz = vcpu.tsc_khz()
        self._vcpus[number], self._programs[number] = vcpu, program
        self._khz[number] = self._khz_created[number] = khz
        return [khz]

    def do_set_msrs(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        names = [name for name, _ in operation["msrs"]]
        values = [resolve(value, self._khz[number], self._read) for _, value in operation["msrs"]]
        self._written = values
        self._vcpus[number].set_msrs([(MSRS[name], value) for name, value in zip(names, values, strict=True)])
        return values

    def do_get_msrs(self, operation: dict[str, Any]) -> list[int]:
        return self._vcpus[operation["vcpu"]].msrs([MSRS[name] for name in operation["indices"]])

    def do_set_tsc_offset(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        offset = resolve(operation["offset"], self._khz[number], self._read)
        self._written = [offset]
        self._vcpus[number].set_tsc_offset(offset)
        return [offset]

    def do_get_tsc_offset(self, operation: dict[str, Any]) -> list[int]:
        return [self._vcpus[operation["vcpu"]].tsc_offset()]

    def do_set_tsc_khz(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        vcpu = self._vcpus[number]
        khz = frequency(operation["khz"], self._khz_created[number])
        self._written = [khz]
        vcpu.set_tsc_khz(khz)
        self._bracket = vcpu.bracket
        self._khz[number] = khz or vcpu.tsc_khz()  # 0 asked for the host's
        return [khz]

    def do_get_tsc_khz(self, operation: dict[str, Any]) -> list[int]:
        return [self._vcpus[operation["vcpu"]].tsc_khz()]

    def do_set_vm_tsc_khz(self, operation: dict[str, Any]) -> list[int]:
        khz = operation["khz"]
        khz = frequency(khz, 0 if isinstance(khz, int) else self._vm.tsc_khz())
        self._written = [khz]
        self._vm.set_tsc_khz(khz)
        return [khz]

    def do_move_thread(self, operation: dict[str, Any]) -> list[int]:
        if operation["to"] >= len(self._cpus):
            self._refuse(errno.EINVAL)
        before, after = self._cpu, self._cpus[operation["to"]]
        tsc_before, ns_before, _, _ = self._bracket = read_host_clock()
        os.sched_setaffinity(0, {after})  # the kernel returns on the new CPU (__set_cpus_allowed_ptr)
        _, _, ns_after, tsc_after = read_host_clock()
        # The TSC may be behind the other CPU's; no bracket ends before it begins.
        self._bracket = (tsc_before, ns_before, ns_after, max(tsc_before, tsc_after))
        self._cpu = after
        return [before, after]

    def do_run(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        self._prepare(number)
        self._run(number, operation["ns"])
        return guests.samples(self._programs[number], self._memory, number)

    def do_guest_write(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        program = self._programs[number]
        if not program.writes_msrs:
            self._refuse(errno.EINVAL)
        value = resolve(operation["value"], self._khz[number], self._read)
        self._written = [value]
        self._prepare(number)
        guests.ask_to_write(self._memory, number, MSRS[operation["msr"]], value)
        try:
            self._run(number, operation["ns"])
        finally:
            self._written += guests.samples(program, self._memory, number)
        return self._written

    def do_get_clock(self, operation: dict[str, Any]) -> list[int]:
        clock = self._vm.clock()
        return [clock.clock, clock.flags]

    def do_sleep(self, operation: dict[str, Any]) -> list[int]:
        tsc_before, ns_before, _, _ = read_host_clock()
        time.sleep(operation["ns"] / 1e9)
        _, _, ns_after, tsc_after = read_host_clock()
        self._bracket = (tsc_before, ns_before, ns_after, tsc_after)
        return []

    def _prepare(self, number: int) -> None:
        """Have a guest that was stopped somewhere begin anew: what it is about to store is of that run."""
        if number in self._unfinished:
            guests.load(self._programs[number], self._memory, self._vcpus[number])

    def _run(self, number: int, ns: int) -> None:
        self._unfinished.add(number)
        if self._vcpus[number].run(ns) == Exit.IO:
            self._unfinished.remove(number)

    def _refuse(self, number: int) -> NoReturn:
        """Fail a step that comes to no ioctl, with this errno."""
        self._bracket = read_host_clock()
        raise OSError(number, os.strerror(number))
