# SPDX-License-Identifier: GPL-2.0-or-later
"""What befalls the machine that KVM runs on. Only a machine of the lab is changed so, which is nobody's."""

from dataclasses import dataclass

from kvmharness.script.codec import CpuNumber, YesNo
from kvmharness.script.operations.base import Operation

__all__ = ["SetClocksource", "SetCpuOnline"]


@dataclass(frozen=True, kw_only=True)
class SetClocksource(Operation):
    """Have the host's own clock count by its TSC, or by another clocksource.

    ENODEV, and nothing is changed, where the kernel does not have both, and anywhere but in the lab.
    """

    name = "set_clocksource"
    phrase = "have the host's clock run"
    tsc: YesNo

    @property
    def host_clock_on_tsc(self) -> bool | None:
        """As it says."""
        return self.tsc

    def describe(self) -> str:
        """By which."""
        return f"{self.phrase} on {'the TSC' if self.tsc else 'another clocksource than the TSC'}"


@dataclass(frozen=True, kw_only=True)
class SetCpuOnline(Operation):
    """Have a CPU of the host be online, or offline. `cpu` is its number as MoveThread has it.

    ENODEV, and nothing is changed, where there are fewer CPUs, where it is the one that the thread is on or
    one that is always online, and anywhere but in the lab.
    """

    name = "set_cpu_online"
    phrase = "have a CPU of the host be"
    cpu: CpuNumber
    online: YesNo

    def describe(self) -> str:
        """Which, and what it is to be."""
        return f"have CPU {self.cpu} of the host be {'online' if self.online else 'offline'}"
