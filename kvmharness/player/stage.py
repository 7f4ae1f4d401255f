# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM while a script is played on it, step by step."""

from __future__ import annotations

import errno
import time

from kvmharness.kvm import read_host_clock
from kvmharness.player.guest_operations import GuestOperations
from kvmharness.player.host_operations import CREATING, SCALING, HostOperations
from kvmharness.player.values import NothingReadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvmharness.kvm import System
    from kvmharness.player.clocksource import Clocksource
    from kvmharness.player.cpu_hotplug import CpuHotplug


class Stage(HostOperations, GuestOperations):
    """The VM of one script, and how far that has come.

    `cpu` is where the script was last: go_on() is to be called from there. `due_ns` is when the wait it is in
    is over (CLOCK_MONOTONIC). The rest is as a PlayedVm has it.
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
        super().__init__(system, cpuid, cpus, clocksource=clocksource, hotplug=hotplug)
        self.name = name
        self.due_ns = 0
        self.steps: list[dict[str, Any]] = []
        self._ahead = script[::-1]

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
            if operation["op"] == CREATING:
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
            if show and (shown := self._debugfs.read(wanted, ratio=operation["op"] in SCALING)):
                step["debugfs"] = shown
            self.steps.append(step)
            if "values" in step and "errno" not in step:
                self._read[operation.get("label", "")] = step["values"]
        return False

    def _play(self, operation: dict[str, Any]) -> dict[str, Any]:
        self._bracket = None
        self._written = []
        self._exits = {}
        name = ""
        try:
            # Each operation is the method of its name.
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
