# SPDX-License-Identifier: GPL-2.0-or-later
"""What befalls the machine that KVM runs on. Only a machine of the lab is changed so, which is nobody's."""

from dataclasses import dataclass

from kvmharness.script.codec import YesNo
from kvmharness.script.operations.base import Operation

__all__ = ["SetClocksource"]


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
