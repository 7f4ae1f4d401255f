# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness list: the names that other commands take."""

import argparse
import textwrap

from kvmharness.cli.errors import NOTHING_FAILED
from kvmharness.lab import apt, kernels
from kvmharness.lab.machine import MACHINES
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import SCENARIOS


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("list", help="the names of scenarios, policies, machines and kernels")
    parser.add_argument("what", choices=_LISTS)
    parser.set_defaults(run=lambda arguments: _LISTS[arguments.what]())


def _list_scenarios() -> int:
    for scenario in SCENARIOS.values():
        _entry(scenario.name, scenario.contract, f"source: {scenario.source}")
    return NOTHING_FAILED


def _list_policies() -> int:
    for policy in POLICIES.values():
        _entry(policy.name, policy.summary, f"source: {policy.source}")
    return NOTHING_FAILED


def _list_machines() -> int:
    for machine in MACHINES.values():
        _entry(machine.name, machine.summary + ".", f"needs {machine.package}")
    return NOTHING_FAILED


def _list_kernels() -> int:
    in_cache = set(kernels.cached())
    for package in apt.offered():
        name = f"debian:{package.version}"
        kept = "  (in the cache)" if kernels.cache_name(package) in in_cache else ""
        print(f"{name:28}  {package.release}{kept}")
    return NOTHING_FAILED


def _entry(name: str, *paragraphs: str) -> None:
    print(name)
    for text in paragraphs:
        print(
            textwrap.fill(text, 78, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        )


_LISTS = {
    "scenarios": _list_scenarios,
    "policies": _list_policies,
    "machines": _list_machines,
    "kernels": _list_kernels,
}
