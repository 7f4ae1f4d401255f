# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scenario is: a script with the contract it puts to the test."""

from dataclasses import dataclass

from kvmharness.contract import AnyClaim
from kvmharness.script import Script


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named script and what userspace is entitled to when it is played.

    `contract` says that in one sentence, `source` where it is from, `consequence` what it means for
    people's VMs when a kernel breaks it, `claims` what is checked on the trace. `needs` names the
    capabilities (kvmharness.capabilities) without which the scenario says nothing. `alone` is for a script
    that would be spoilt by waking up late: nothing else is played while it waits.
    """

    name: str
    contract: str
    source: str
    consequence: str
    needs: tuple[str, ...]
    script: Script
    claims: tuple[AnyClaim, ...]
    alone: bool = False
