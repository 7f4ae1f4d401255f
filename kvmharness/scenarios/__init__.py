# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue: every scenario by name, in the order in which they are played."""

from kvmharness.scenarios import (
    clock,
    concurrent,
    defects,
    frequency,
    guest_view,
    host_clock,
    host_cpus,
    hotplug,
    hyperv,
    kvmclock,
    line,
    moves,
    nested,
    nested_rates,
    offset,
    pair,
    proposed,
    protected,
    qemu,
    qemu_restore,
    restore,
    runstate,
    steal,
    timer,
    unstable,
    vmms,
    window,
    writes,
    xen,
)
from kvmharness.scenarios.scenario import Scenario

# Each subject with its scenarios, under the heading of its module's docstring.
SUBJECTS = (
    restore,
    pair,
    writes,
    window,
    offset,
    hotplug,
    moves,
    clock,
    kvmclock,
    line,
    hyperv,
    xen,
    runstate,
    steal,
    guest_view,
    concurrent,
    qemu,
    qemu_restore,
    vmms,
    frequency,
    timer,
    nested,
    nested_rates,
    host_clock,
    host_cpus,
    unstable,
    protected,
    defects,
    proposed,
)

SCENARIOS = {scenario.name: scenario for subject in SUBJECTS for scenario in subject.SCENARIOS}

__all__ = ["SCENARIOS", "SUBJECTS", "Scenario"]
