# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM while a script is played on it. Each operation is the method of its name."""

from __future__ import annotations

import errno
import os
import time

from kvmharness import guests
from kvmharness.guests.layout import (
    MEMORY_SIZE,
    TIMER_VECTOR,
    XEN_SHARED,
    xen_time_address,
    xen_vcpu_info_address,
)
from kvmharness.kvm import (
    BracketBuffer,
    Exit,
    Meeting,
    lapic,
    lib,
    of_hyperv,
    offers_svm,
    offers_vmx,
    read_host_clock,
)
from kvmharness.kvm.lapic import with_deadline_timer
from kvmharness.player.debugfs import Debugfs
from kvmharness.player.msr import MSRS
from kvmharness.player.run_delay import run_delay, wait_for_cpu
from kvmharness.player.threads import at_once, check, in_background
from kvmharness.player.values import NothingReadError, frequency, resolve

# The operations behind which a vCPU may have another scaling ratio than before.
_SCALING = ("create_vcpu", "set_tsc_khz")

# How long (n times as long the nth time), and how often, a guest goes on whose time was up before its timer's
# interrupt came.
_AGAIN_NS, _MOST_TRIES = 2_000_000, 50

# How long a guest with a guest of its own may go on to end what it was asked for before.
_END_NS = 1_000_000_000

# By a write of this MSR a Xen's guest asks for its page of hypercalls; ours never does.
_XEN_MSR = 0x40000200

# KVM_EXIT_*: what traces call an exit.
_EXITS = {number: name for name, number in vars(Exit).items() if name.isupper()}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from kvmharness.kvm import BracketNumbers, System, Vcpu
    from kvmharness.player.clocksource import Clocksource
    from kvmharness.player.cpu_hotplug import CpuHotplug


class Stage:
    """The VM of one script, and how far that has come.

    `cpus` are those the thread may move to, the one it is on first. `created` are the host's clocks around
    KVM_CREATE_VM, as a step of a trace has them. `cpu` is where the script was last:
    go_on() is to be called from there. `due_ns` is when the wait it is in is over (CLOCK_MONOTONIC).
    `clocksource` and `hotplug` are the host's, if the script may change that.
    """

    def __init__(
        self,
        system: System,
        cpuid: Any,
        cpus: list[int],
        name: str,
        script: list[dict[str, Any]],
        *,
        clocksource: Clocksource | None = None,
        hotplug: CpuHotplug | None = None,
    ) -> None:
        self.name = name
        self.cpu = cpus[0]
        self.due_ns = 0
        self.steps: list[dict[str, Any]] = []
        self._ahead = script[::-1]
        self._waits_since: BracketNumbers | None = None
        self._cpuid = cpuid
        self._cpus = cpus
        self._clocksource, self._hotplug = clocksource, hotplug
        self._brackets = BracketBuffer()
        self._vcpus: dict[int, Vcpu] = {}
        self._programs: dict[int, guests.Program] = {}
        self._unfinished: set[int] = set()  # whose guests did not exit by themselves
        self._khz: dict[int, int] = {}
        self._khz_created: dict[int, int] = {}
        self._read: dict[str, list[int]] = {}
        self._can_nest: set[int] = set()
        self._can_scale_l2: set[int] = set()
        self._l2_rates: dict[int, int | None] = {}  # as L1 last entered it
        self._exits: dict[int, list[str | int]] = {}  # of this step, by vCPU
        self._has_chip = False
        bracket = BracketBuffer()
        system.use_brackets(bracket)
        self._vm = system.create_vm()
        tsc_before, ns_before, ns_after, tsc_after = bracket.read()
        self.created = {"tsc": [tsc_before, tsc_after], "ns": [ns_before, ns_after]}
        self._debugfs = Debugfs(self._vm.fileno())
        try:
            self._memory = self._vm.add_memory(MEMORY_SIZE)
        except OSError:
            self.close()
            raise
        self._vm.use_brackets(self._brackets)

    def close(self) -> None:
        """Give the VM back."""
        self._debugfs.close()
        self._vm.close()

    def go_on(self) -> bool:
        """Play on to the next wait, which begins now; False at the end of the script."""
        while self._ahead:
            operation = self._ahead[-1]
            if operation["op"] == "sleep" and not self._waits_since:
                self._waits_since = read_host_clock()
                self.due_ns = time.monotonic_ns() + operation["ns"]
                return True
            self._ahead.pop()
            wanted = [operation["vcpu"]] if "vcpu" in operation else operation.get("vcpus", [])
            if operation["op"] == "create_vcpu":
                self._debugfs.expect(operation["vcpu"])
            elif not self._vcpus.keys() >= {*wanted}:
                break
            try:
                step = self._play(operation)
            except NothingReadError:
                break
            if self._exits and "errno" not in step:
                step["exits"] = [self._exits[each] for each in wanted]
            # Of a vCPU whose L2 is current debugfs shows that one's offset.
            show = wanted and not any(map(self._may_be_l2, wanted))
            if show and (shown := self._debugfs.read(wanted, ratio=operation["op"] in _SCALING)):
                step["debugfs"] = shown
            self.steps.append(step)
            if "values" in step and "errno" not in step:
                self._read[operation.get("label", "")] = step["values"]
        return False

    def _play(self, operation: dict[str, Any]) -> dict[str, Any]:
        # Set by operations that are not one ioctl, or that know what they write before it is refused.
        self._bracket: BracketNumbers | None = None
        self._written: list[int] = []
        self._exits = {}
        name = ""
        try:
            values = getattr(self, "_do_" + operation["op"])(operation)
        except OSError as error:  # a KvmError, or no memory for a vCPU's shared page
            values = self._written
            number = error.errno or errno.EIO
            name = errno.errorcode.get(number) or f"errno-{number}"
        tsc_before, ns_before, ns_after, tsc_after = self._bracket or self._brackets.read()
        step = {"op": operation, "tsc": [tsc_before, tsc_after], "ns": [ns_before, ns_after]}
        if values:
            step["values"] = values
        if name:
            step["errno"] = name
        return step

    def _do_create_vcpu(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        vcpu = self._vm.create_vcpu(number)
        self._bracket = self._vm.bracket
        vcpu.set_cpuid2(self._cpuid)
        if self._has_chip and number:
            vcpu.set_mp_state(lib.KVM_MP_STATE_RUNNABLE)  # it does not wait for a SIPI of the first one
        program = guests.PROGRAMS[operation["guest"]]
        guests.load(program, self._memory, vcpu)
        if program.has_l2 and (offers_svm(self._cpuid) or offers_vmx(self._cpuid)):
            scales = guests.prepare_l2(self._memory, vcpu, by_vmx=not offers_svm(self._cpuid))
            if scales is not None:
                self._can_nest.add(number)
                self._l2_rates[number] = None
            if scales:
                self._can_scale_l2.add(number)
        khz = vcpu.tsc_khz()
        self._vcpus[number], self._programs[number] = vcpu, program
        self._khz[number] = self._khz_created[number] = khz
        return [khz]

    def _do_set_msrs(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        names = [name for name, _ in operation["msrs"]]
        values = [resolve(value, self._khz[number], self._read) for _, value in operation["msrs"]]
        self._written = values
        self._vcpus[number].set_msrs([(MSRS[name], value) for name, value in zip(names, values, strict=True)])
        return values

    def _do_write_together(self, operation: dict[str, Any]) -> list[int]:
        numbers = operation["vcpus"]
        values = [
            resolve(value, self._khz[number], self._read)
            for number, value in zip(numbers, operation["values"], strict=True)
        ]
        cpus = [self._cpus[place % len(self._cpus)] for place in range(len(numbers))]
        self._written = [each for pair in zip(cpus, values, strict=True) for each in pair]
        self._bracket = read_host_clock()
        meeting = Meeting(len(numbers))
        buffers = [BracketBuffer() for _ in numbers]
        for number, buffer in zip(numbers, buffers, strict=True):
            self._vcpus[number].use_brackets(buffer, meeting)
        try:
            at_once(self._write_tsc, list(zip(cpus, numbers, values, strict=True)))
        finally:
            for number in numbers:
                self._vcpus[number].use_brackets(self._brackets)
        tsc_before, ns_before, ns_after, tsc_after = zip(*(each.read() for each in buffers), strict=True)
        self._bracket = (min(tsc_before), min(ns_before), max(ns_after), max(tsc_after))
        return self._written

    def _write_tsc(self, number: int, value: int) -> None:
        self._vcpus[number].set_msrs([(MSRS["TSC"], value)])

    def _do_get_msrs(self, operation: dict[str, Any]) -> list[int]:
        return self._vcpus[operation["vcpu"]].msrs([MSRS[name] for name in operation["indices"]])

    def _do_set_tsc_offset(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        offset = resolve(operation["offset"], self._khz[number], self._read)
        self._written = [offset]
        self._vcpus[number].set_tsc_offset(offset)
        return [offset]

    def _do_get_tsc_offset(self, operation: dict[str, Any]) -> list[int]:
        return [self._vcpus[operation["vcpu"]].tsc_offset()]

    def _do_set_tsc_khz(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        vcpu = self._vcpus[number]
        khz = frequency(operation["khz"], self._khz_created[number])
        self._written = [khz]
        vcpu.set_tsc_khz(khz)
        self._bracket = vcpu.bracket
        self._khz[number] = khz or vcpu.tsc_khz()  # 0 asked for the host's
        return [khz]

    def _do_get_tsc_khz(self, operation: dict[str, Any]) -> list[int]:
        return [self._vcpus[operation["vcpu"]].tsc_khz()]

    def _do_get_tsc_scale(self, operation: dict[str, Any]) -> list[int]:
        return [*self._vcpus[operation["vcpu"]].tsc_scale()]

    def _do_set_vm_tsc_khz(self, operation: dict[str, Any]) -> list[int]:
        khz = operation["khz"]
        khz = frequency(khz, 0 if isinstance(khz, int) else self._vm.tsc_khz())
        self._written = [khz]
        self._vm.set_tsc_khz(khz)
        return [khz]

    def _do_move_thread(self, operation: dict[str, Any]) -> list[int]:
        if operation["to"] >= len(self._cpus):
            self._refuse(errno.EINVAL)
        before, after = self.cpu, self._cpus[operation["to"]]
        tsc_before, ns_before, _, _ = self._bracket = read_host_clock()
        os.sched_setaffinity(0, {after})  # the kernel returns on the new CPU (__set_cpus_allowed_ptr)
        _, _, ns_after, tsc_after = read_host_clock()
        # The TSC may be behind the other CPU's; no bracket ends before it begins.
        self._bracket = (tsc_before, ns_before, ns_after, max(tsc_before, tsc_after))
        self.cpu = after
        return [before, after]

    def _do_run(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        self._prepare(number)
        self._run(number, operation["ns"])
        return guests.samples(self._programs[number], self._memory, number)

    def _do_run_together(self, operation: dict[str, Any]) -> list[int]:
        numbers, cpus = operation["vcpus"], self._cpus
        if len(numbers) > len(cpus) or any(self._programs[each].name != "warp-64" for each in numbers):
            self._refuse(errno.EINVAL)
        for number in numbers:
            self._prepare(number)
            # What they leave there at the same time is worth nothing.
            self._vcpus[number].use_brackets(BracketBuffer())
        guests.prepare_meeting(self._memory)
        tsc_before, ns_before, _, _ = self._bracket = read_host_clock()
        try:
            at_once(
                self._run,
                [(cpu, number, operation["ns"]) for cpu, number in zip(cpus, numbers, strict=False)],
            )
        finally:
            _, _, ns_after, tsc_after = read_host_clock()
            self._bracket = (tsc_before, ns_before, ns_after, max(tsc_before, tsc_after))
            for number in numbers:
                self._vcpus[number].use_brackets(self._brackets)
        found = [
            [cpu, *guests.meetings(self._memory, each)] for cpu, each in zip(cpus, numbers, strict=False)
        ]
        return [value for values in found for value in values]

    def _do_guest_write(self, operation: dict[str, Any]) -> list[int]:
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

    def _do_set_hv_cpuid(self, operation: dict[str, Any]) -> list[int]:
        vcpu = self._vcpus[operation["vcpu"]]
        vcpu.set_cpuid2(of_hyperv(self._cpuid, vcpu.supported_hv_cpuid()))
        return []

    def _do_read_reference_time(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        program = self._programs[number]
        if not program.reads_reference:
            self._refuse(errno.EINVAL)
        self._prepare(number)
        guests.take_reference(self._memory, number)
        try:
            self._run(number, operation["ns"])
        finally:
            guests.samples(program, self._memory, number)  # which are of no later run
        return guests.take_reference(self._memory, number)

    def _do_read_tsc_page(self, operation: dict[str, Any]) -> list[int]:
        self._bracket = read_host_clock()
        return guests.tsc_page(self._memory)

    def _do_set_xen(self, operation: dict[str, Any]) -> list[int]:
        self._vm.set_xen_config(_XEN_MSR)
        self._vm.set_xen_shared_info(XEN_SHARED)
        return []

    def _do_set_xen_time(self, operation: dict[str, Any]) -> list[int]:
        vcpu = self._vcpus[operation["vcpu"]]
        vcpu.set_xen_vcpu_info(xen_vcpu_info_address(vcpu.number))
        vcpu.set_xen_time_info(xen_time_address(vcpu.number))
        return []

    def _do_read_xen_time(self, operation: dict[str, Any]) -> list[int]:
        self._bracket = read_host_clock()
        return guests.xen_time(self._memory, operation["vcpu"])

    def _do_read_xen_vcpu_info(self, operation: dict[str, Any]) -> list[int]:
        self._bracket = read_host_clock()
        return guests.xen_vcpu_info(self._memory, operation["vcpu"])

    def _do_read_xen_wall_clock(self, operation: dict[str, Any]) -> list[int]:
        self._bracket = read_host_clock()
        return guests.xen_wall_clock(self._memory)

    def _do_read_steal_time(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        program = self._programs[number]
        if not program.reads_steal_time:
            self._refuse(errno.EINVAL)
        self._prepare(number)
        guests.take_steal_time(self._memory, number)
        before = run_delay()
        try:
            self._run(number, operation["ns"])
        finally:
            samples = guests.samples(program, self._memory, number)
        after, read = run_delay(), guests.take_steal_time(self._memory, number)
        return [*read, before, after, samples[-1]] if read and samples else []

    def _do_wait_for_cpu(self, operation: dict[str, Any]) -> list[int]:
        tsc_before, ns_before, _, _ = self._bracket = read_host_clock()
        waited = wait_for_cpu(self.cpu, operation["ns"])
        _, _, ns_after, tsc_after = read_host_clock()
        self._bracket = (tsc_before, ns_before, ns_after, max(tsc_before, tsc_after))
        return waited

    def _do_get_clock(self, operation: dict[str, Any]) -> list[int]:
        clock = self._vm.clock()
        both = lib.KVM_CLOCK_REALTIME | lib.KVM_CLOCK_HOST_TSC
        at = [clock.realtime, clock.host_tsc] if clock.flags & both == both else []
        return [clock.clock, clock.flags, *at]

    def _do_set_clock(self, operation: dict[str, Any]) -> list[int]:
        given = [operation["clock"], operation["realtime"]]
        # ns are counted like cycles of 1 GHz.
        values = self._written = [resolve(each, 1_000_000, self._read) for each in given if each is not None]
        flags = lib.KVM_CLOCK_REALTIME if len(values) > 1 else 0
        self._vm.set_clock(values[0], flags, values[-1])
        return values

    def _do_set_clock_during_run(self, operation: dict[str, Any]) -> list[int]:
        number, ns, cpus = operation["vcpu"], operation["ns"], self._cpus
        if len(cpus) < 2 or self._programs[number].name != "warp-64":
            self._refuse(errno.EINVAL)
        other = cpus[1] if self.cpu == cpus[0] else cpus[0]
        values = self._written = [self.cpu, other, resolve(operation["clock"], 1_000_000, self._read)]
        self._prepare(number)
        guests.prepare_meeting(self._memory)
        # Two threads, of which this one's bracket counts.
        self._vcpus[number].use_brackets(BracketBuffer())
        tsc_before, ns_before, _, _ = read_host_clock()
        running = in_background(lambda: self._run(number, ns), {other})
        time.sleep(ns / 2e9)
        try:
            self._vm.set_clock(values[2])
        finally:
            failed = running.wait()
            _, _, ns_after, tsc_after = read_host_clock()
            self._bracket = (tsc_before, ns_before, ns_after, max(tsc_before, tsc_after))
            self._vcpus[number].use_brackets(self._brackets)
        check([failed])
        return values

    def _do_kvmclock_ctrl(self, operation: dict[str, Any]) -> list[int]:
        self._vcpus[operation["vcpu"]].kvmclock_ctrl()
        return []

    def _do_get_clock_guest(self, operation: dict[str, Any]) -> list[int]:
        return self._vcpus[operation["vcpu"]].clock_guest()

    def _do_set_clock_guest(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        tsc = resolve(operation["tsc_timestamp"], self._khz[number], self._read)
        time, multiplier, shift = (
            resolve(operation[name], 1_000_000, self._read) for name in ("system_time", "multiplier", "shift")
        )
        values = self._written = [tsc, time, multiplier % 2**32, shift % 2**8]
        self._vcpus[number].set_clock_guest(*values)
        return values

    def _do_read_kvmclock(self, operation: dict[str, Any]) -> list[int]:
        self._bracket = read_host_clock()
        return guests.read_page(self._memory, operation["vcpu"])

    def _do_create_irqchip(self, operation: dict[str, Any]) -> list[int]:
        self._vm.create_irqchip()
        self._has_chip, self._cpuid = True, with_deadline_timer(self._cpuid)
        return []

    def _do_get_lapic(self, operation: dict[str, Any]) -> list[int]:
        state = self._vcpus[operation["vcpu"]].lapic()
        return [lapic.timer_entry(state), int(lapic.is_requested(state, TIMER_VECTOR))]

    def _do_set_lapic(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        if not self._programs[number].awaits_timer:
            self._refuse(errno.EINVAL)
        vcpu, requested = self._vcpus[number], resolve(operation["requested"], self._khz[number], self._read)
        state = vcpu.lapic()
        lapic.enable_timer(state, lapic.TSC_DEADLINE, TIMER_VECTOR)
        if requested:
            lapic.request(state, TIMER_VECTOR)
        vcpu.set_lapic(state)
        return [lapic.timer_entry(state), int(requested != 0)]

    def _do_await_timer(self, operation: dict[str, Any]) -> list[int]:
        number, deadline = operation["vcpu"], operation["deadline"]
        if not self._programs[number].awaits_timer:
            self._refuse(errno.EINVAL)
        self._prepare(number)
        written = [] if deadline is None else [resolve(deadline, self._khz[number], self._read)]
        for each in written:
            guests.ask_to_write(self._memory, number, MSRS["TSC_DEADLINE"], each)
        tsc_before, ns_before, _, _ = self._bracket = read_host_clock()
        self._run(number, operation["ns"])
        # A pending interrupt is taken at an entry. That none was is known once the guest went on after one.
        tries, counted = 0, guests.counted(self._memory, number)
        while (
            number in self._unfinished
            and tries < _MOST_TRIES
            and guests.counted(self._memory, number) == counted
        ):
            tries += 1
            self._run(number, tries * _AGAIN_NS)
        _, _, ns_after, tsc_after = read_host_clock()
        self._bracket = (tsc_before, ns_before, ns_after, max(tsc_before, tsc_after))
        armed = [guests.take_armed(self._memory, number) for _ in written]
        return [*written, *armed, guests.take_fired(self._memory, number)]

    def _do_run_l2(self, operation: dict[str, Any]) -> list[int]:
        number, offset, rate = operation["vcpu"], operation["offset"], operation["rate_ppm"]
        if number not in (self._can_nest if rate is None else self._can_scale_l2):
            self._refuse(errno.EINVAL)
        if offset is None and rate != self._l2_rates[number]:
            self._refuse(errno.EINVAL)
        value = None if offset is None else resolve(offset, self._khz[number], self._read)
        self._prepare(number)
        guests.ask_for_l2(self._memory, number, value, rate)
        self._l2_rates[number] = rate
        self._run(number, operation["ns"])
        tsc, _, by_rdmsr = (*guests.l2_samples(self._memory, number), None, None, None)[:3]
        read = [tsc, by_rdmsr]
        return [guests.l2_offset(self._memory, number), *(each for each in read if each is not None)]

    def _do_nested_write(self, operation: dict[str, Any]) -> list[int]:
        number, program = operation["vcpu"], self._programs[operation["vcpu"]]
        if number not in self._can_nest:
            self._refuse(errno.EINVAL)
        value = resolve(operation["value"], self._khz[number], self._read)
        self._prepare(number)
        if operation["level"] == 1:
            guests.ask_to_write(self._memory, number, MSRS[operation["msr"]], value)
            self._run(number, operation["ns"])
            return [value, *guests.samples(program, self._memory, number)]
        guests.ask_l2_to_write(self._memory, number, MSRS[operation["msr"]], value)
        guests.ask_for_l2(self._memory, number, None)
        self._run(number, operation["ns"])
        return [value, *guests.l2_samples(self._memory, number)[:2]]

    def _do_set_clocksource(self, operation: dict[str, Any]) -> list[int]:
        tsc_before, ns_before, _, _ = self._bracket = read_host_clock()
        if not self._clocksource:
            self._refuse(errno.ENODEV)
        self._clocksource.choose(tsc=operation["tsc"])
        _, _, ns_after, tsc_after = read_host_clock()
        self._bracket = (tsc_before, ns_before, ns_after, tsc_after)
        return []

    def _do_set_cpu_online(self, operation: dict[str, Any]) -> list[int]:
        number, online = operation["cpu"], operation["online"]
        tsc_before, ns_before, _, _ = self._bracket = read_host_clock()
        if not self._hotplug or number >= len(self._cpus) or self._cpus[number] == self.cpu:
            self._refuse(errno.ENODEV)
        self._hotplug.choose(self._cpus[number], online=online)
        _, _, ns_after, tsc_after = read_host_clock()
        self._bracket = (tsc_before, ns_before, ns_after, tsc_after)
        return []

    def _do_sleep(self, operation: dict[str, Any]) -> list[int]:
        """The end of a wait."""
        tsc_before, ns_before, _, _ = self._waits_since or read_host_clock()
        _, _, ns_after, tsc_after = read_host_clock()
        self._bracket = (tsc_before, ns_before, ns_after, tsc_after)
        self._waits_since = None
        return []

    def _prepare(self, number: int) -> None:
        """Have a guest that was stopped somewhere begin again: what it is about to store is of that run."""
        if self._programs[number].has_l2:
            # Which of the two is current cannot be set: what was begun is ended first.
            if number in self._unfinished and self._run(number, _END_NS) != Exit.IO:
                self._refuse(errno.EINTR)
            guests.ask_for_l1(self._memory, number)
        elif number in self._unfinished:
            guests.load(self._programs[number], self._memory, self._vcpus[number])

    def _may_be_l2(self, number: int) -> bool:
        """Whether a vCPU's L2 may be current."""
        unknown = number in self._unfinished
        return number in self._can_nest and (unknown or guests.is_asked_for_l2(self._memory, number))

    def _run(self, number: int, ns: int) -> int:
        self._unfinished.add(number)
        vcpu = self._vcpus[number]
        reason = vcpu.run(ns)
        if reason == Exit.IO:
            self._unfinished.remove(number)
        self._exits[number] = [_EXITS.get(reason) or f"exit-{reason}", *_detail(reason, vcpu)]
        return reason

    def _refuse(self, number: int) -> NoReturn:
        """Fail a step that comes to no ioctl, with this errno."""
        self._bracket = read_host_clock()
        raise OSError(number, os.strerror(number))


def _detail(reason: int, vcpu: Vcpu) -> list[int]:
    """What KVM says of an exit that is its own or the hardware's doing."""
    if reason == Exit.UNKNOWN:
        return [vcpu.shared.hw.hardware_exit_reason]
    if reason == Exit.FAIL_ENTRY:
        return [vcpu.shared.fail_entry.hardware_entry_failure_reason]
    return [vcpu.shared.internal.suberror] if reason == Exit.INTERNAL_ERROR else []
