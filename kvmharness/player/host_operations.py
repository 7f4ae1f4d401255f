# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations in which no guest runs: ioctls, readings of memory, changes of the thread or the host."""

from __future__ import annotations

import errno
import os

from kvmharness import guests
from kvmharness.guests.layout import (
    TIMER_VECTOR,
    XEN_SHARED,
    xen_runstate_address,
    xen_time_address,
    xen_vcpu_info_address,
)
from kvmharness.kvm import (
    BracketBuffer,
    Meeting,
    lapic,
    lib,
    of_hyperv,
    offers_svm,
    offers_vmx,
    read_host_clock,
)
from kvmharness.kvm.lapic import with_deadline_timer
from kvmharness.player.msr import MSRS
from kvmharness.player.played_vm import PlayedVm
from kvmharness.player.run_delay import run_delay, wait_for_cpu
from kvmharness.player.threads import at_once
from kvmharness.player.values import frequency, resolve

# The operation that makes a vCPU, and those after which one may have another scaling ratio than before.
CREATING = "create_vcpu"
SCALING = (CREATING, "set_tsc_khz")

# By a write of this MSR a Xen's guest asks for its page of hypercalls; ours never does.
_XEN_MSR = 0x40000200

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class HostOperations(PlayedVm):
    """Each operation in which no guest runs, as the method of its name."""

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

    def _do_set_hv_cpuid(self, operation: dict[str, Any]) -> list[int]:
        vcpu = self._vcpus[operation["vcpu"]]
        vcpu.set_cpuid2(of_hyperv(self._cpuid, vcpu.supported_hv_cpuid()))
        return []

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

    def _do_set_xen_runstate(self, operation: dict[str, Any]) -> list[int]:
        number = operation["vcpu"]
        self._vcpus[number].set_xen_runstate(xen_runstate_address(number))
        return []

    def _do_enter_xen_runstate(self, operation: dict[str, Any]) -> list[int]:
        before = run_delay()
        self._vcpus[operation["vcpu"]].enter_xen_runstate(operation["state"])
        return [before, run_delay()]

    def _do_set_xen_runstate_times(self, operation: dict[str, Any]) -> list[int]:
        # ns are counted like cycles of 1 GHz.
        times = self._written = [resolve(each, 1_000_000, self._read) for each in operation["times"]]
        entered = sum(times) % 2**64
        self._vcpus[operation["vcpu"]].set_xen_runstate_times(operation["state"], entered, times)
        return times

    def _do_read_xen_runstate(self, operation: dict[str, Any]) -> list[int]:
        self._bracket = read_host_clock()
        return [*guests.xen_runstate(self._memory, operation["vcpu"]), run_delay()]

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
