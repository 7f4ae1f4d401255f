# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue: every scenario by name, in the order in which they are played."""

from kvmharness.scenarios import clock, hotplug, moves, offset, pair, restore, writes
from kvmharness.scenarios.scenario import Scenario

SCENARIOS = {
    scenario.name: scenario
    for subject in (restore, pair, offset, hotplug, writes, moves, clock)
    for scenario in subject.SCENARIOS
}

__all__ = ["SCENARIOS", "Scenario"]
