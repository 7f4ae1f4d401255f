# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scenario is: a script with the contract it puts to the test."""

from dataclasses import dataclass

from kvmharness.contract import Claim
from kvmharness.script import Script


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named script and what userspace is entitled to when it is played.

    `contract` says that in one sentence, `source` where it is from, `claims` what is checked on the
    trace. `needs` are capabilities (kvmharness.capabilities) without which it says nothing.
    """

    name: str
    contract: str
    source: str
    needs: tuple[str, ...]
    script: Script
    claims: tuple[Claim, ...]
