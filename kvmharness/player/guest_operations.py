# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations in which guests run."""

from __future__ import annotations

import errno
import time

from kvmharness import guests
from kvmharness.kvm import BracketBuffer, Exit, read_host_clock
from kvmharness.player.msr import MSRS
from kvmharness.player.played_vm import PlayedVm
from kvmharness.player.run_delay import run_delay
from kvmharness.player.threads import at_once, check, in_background
from kvmharness.player.values import resolve

# How long (n times as long the nth time), and how often, a guest goes on whose time was up before its timer's
# interrupt came.
_AGAIN_NS, _MOST_TRIES = 2_000_000, 50

# How long a guest with a guest of its own may go on to end what it was asked for before.
_END_NS = 1_000_000_000

# KVM_EXIT_*: what traces call an exit.
_EXITS = {number: name for name, number in vars(Exit).items() if name.isupper()}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvmharness.kvm import Vcpu


class GuestOperations(PlayedVm):
    """Each operation in which a guest runs, as the method of its name."""

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


def _detail(reason: int, vcpu: Vcpu) -> list[int]:
    """What KVM says of an exit that is its own or the hardware's doing."""
    if reason == Exit.UNKNOWN:
        return [vcpu.shared.hw.hardware_exit_reason]
    if reason == Exit.FAIL_ENTRY:
        return [vcpu.shared.fail_entry.hardware_entry_failure_reason]
    return [vcpu.shared.internal.suberror] if reason == Exit.INTERNAL_ERROR else []
