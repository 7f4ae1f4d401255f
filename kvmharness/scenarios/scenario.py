# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scenario is: a script with the contract it puts to the test."""

from dataclasses import dataclass, replace

from kvmharness.contract import AnyClaim
from kvmharness.model.simulate import HOST
from kvmharness.model.state import Host
from kvmharness.script import Script


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named script and what userspace is entitled to when it is played.

    `contract` says that in one sentence, `source` where it is from, `consequence` what it means for
    people's VMs when a kernel breaks it, `claims` what is checked on the trace. `needs` names the
    capabilities (kvmharness.capabilities) without which the scenario says nothing, and `lacks` those with
    which it does not. `alone` is for a script that would be spoilt by waking up late: nothing else is
    played while it waits.
    """

    name: str
    contract: str
    source: str
    consequence: str
    needs: tuple[str, ...]
    script: Script
    claims: tuple[AnyClaim, ...]
    lacks: tuple[str, ...] = ()
    alone: bool = False

    @property
    def host(self) -> Host:
        """A made-up machine that has what the scenario needs, and not what it must not have."""
        stable = "stable-tsc" not in self.lacks
        bits = 48 if "tsc-scaling" in self.needs else 0
        return replace(HOST, stable=stable, tsc_clocksource=stable, fraction_bits=bits)
