# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM of a script that is being played: its vCPUs, the guests in them, and what was read so far."""

from __future__ import annotations

import os

from kvmharness.guests.layout import MEMORY_SIZE
from kvmharness.kvm import BracketBuffer, read_host_clock
from kvmharness.player.debugfs import Debugfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from kvmharness.guests import Program
    from kvmharness.kvm import BracketNumbers, System, Vcpu
    from kvmharness.player.clocksource import Clocksource
    from kvmharness.player.cpu_hotplug import CpuHotplug


class PlayedVm:
    """A VM, and what operations on it know of each other.

    `cpus` are those the thread may move to, the one it is on first. `created` are the host's clocks around
    KVM_CREATE_VM, as a step of a trace has them. `cpu` is where the script was last.
    `clocksource` and `hotplug` are the host's, if the script may change that.
    """

    def __init__(
        self,
        system: System,
        cpuid: Any,
        cpus: list[int],
        *,
        clocksource: Clocksource | None = None,
        hotplug: CpuHotplug | None = None,
    ) -> None:
        self.cpu = cpus[0]
        self._waits_since: BracketNumbers | None = None
        self._cpuid = cpuid
        self._cpus = cpus
        self._clocksource, self._hotplug = clocksource, hotplug
        self._brackets = BracketBuffer()
        self._vcpus: dict[int, Vcpu] = {}
        self._programs: dict[int, Program] = {}
        self._unfinished: set[int] = set()  # whose guests did not exit by themselves
        self._khz: dict[int, int] = {}
        self._khz_created: dict[int, int] = {}
        self._read: dict[str, list[int]] = {}
        self._can_nest: set[int] = set()
        self._can_scale_l2: set[int] = set()
        self._l2_rates: dict[int, int | None] = {}  # as L1 last entered it
        self._has_chip = False
        # Of this step: how guests came back, by vCPU; what an operation sets that is not one ioctl, or that
        # knows what it writes before it is refused.
        self._exits: dict[int, list[str | int]] = {}
        self._bracket: BracketNumbers | None = None
        self._written: list[int] = []
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

    def _refuse(self, number: int) -> NoReturn:
        """Fail a step that comes to no ioctl, with this errno."""
        self._bracket = read_host_clock()
        raise OSError(number, os.strerror(number))
