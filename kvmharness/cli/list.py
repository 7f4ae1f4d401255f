# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness list: the names that other commands take."""

import argparse
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

from kvmharness.cli import about, options, writing
from kvmharness.cli.errors import NOTHING_FAILED, UsageError
from kvmharness.lab import kernels
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import archive, suites
from kvmharness.lab.kernels.packages import KernelPackage
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.model.policies import POLICIES
from kvmharness.printable import printable
from kvmharness.report import catalogue, listing
from kvmharness.scenarios import SUBJECTS


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("list", help="list scenarios, policies, machines or kernels")
    parser.add_argument("what", choices=(*_LISTS, "scenarios", "kernels"))
    parser.add_argument("name", nargs="*", help="with scenarios: show everything about these")
    options.add_scenario_file(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")
    parser.add_argument("--offline", action="store_true", help="with kernels: only those in the cache")
    parser.add_argument(
        "--all-suites", action="store_true", help="with kernels: ask all of Debian's other suites"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for. UsageError for what makes no sense there."""
    if (arguments.name or arguments.scenario_file) and arguments.what != "scenarios":
        raise UsageError("only `list scenarios` takes names")
    if arguments.what == "kernels":
        return _list_kernels(arguments)
    if arguments.offline or arguments.all_suites:
        raise UsageError("only `list kernels` takes --offline and --all-suites")
    if arguments.format == "json":
        _print_json(arguments, _rows(arguments))
        return NOTHING_FAILED
    if arguments.what == "scenarios":
        return _list_scenarios(arguments.name, arguments.scenario_file)
    return _LISTS[arguments.what]()


def _rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What was asked for, as data."""
    if arguments.what == "policies":
        return listing.policies(POLICIES.values())
    if arguments.what == "machines":
        return listing.machines(MACHINES.values())
    named = options.pick_scenarios(arguments.name, arguments.scenario_file)
    return listing.scenarios(named)


def _print_json(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    print(listing.render(arguments.what, rows, about.of(arguments)), end="")


def _list_scenarios(names: list[str], files: list[Path]) -> int:
    """Each with its contract, by subject; those that are named, or in files, with all there is to say."""
    if names or files:
        for scenario in options.pick_scenarios(names, files):
            facts = catalogue.facts(scenario)
            _entry(scenario.name, scenario.contract, *(f"{what}: {text}" for what, text in facts))
        return NOTHING_FAILED
    for subject in SUBJECTS:
        print(f"\n{textwrap.fill(catalogue.heading(subject)[0], 78)}\n")
        for scenario in subject.SCENARIOS:
            _entry(scenario.name, scenario.contract)
    print("\n`kvmharness list scenarios NAME...` shows everything about a scenario.")
    return NOTHING_FAILED


def _list_policies() -> int:
    for policy in POLICIES.values():
        _entry(policy.name, policy.summary, f"source: {policy.source}")
    return NOTHING_FAILED


def _list_machines() -> int:
    for machine in MACHINES.values():
        _entry(machine.name, machine.summary + ".", f"needs {machine.package}")
    return NOTHING_FAILED


def _list_kernels(arguments: argparse.Namespace) -> int:
    """A line for each kernel: its name, its release, and where it is to be had."""
    offline, all_suites = arguments.offline, arguments.all_suites
    if offline and all_suites:
        raise UsageError("--offline and --all-suites contradict each other")
    releases, places = {}, defaultdict[str, list[str]](list)
    kept = kernels.cached()
    trouble = None
    if not offline:
        try:
            for package in archive.offered():
                places[package.spec].append("this machine's sources")
                releases[package.spec] = package.release
        except LabError as error:
            trouble = error  # the cache can be shown all the same
    for suite in () if offline else suites.SUITES:
        for package in _of_suite(suite, all_suites):
            places[package.spec].append(suite)
            releases[package.spec] = package.release
    for kernel in kept:
        places[kernel.spec].append("in the cache")
        releases[kernel.spec] = kernel.release
    if arguments.format == "json":
        _print_json(arguments, listing.kernels(releases, places))
        releases = {}
    for name, release in releases.items():
        print(printable(f"{name:28}  {release:30}  {', '.join(dict.fromkeys(places[name]))}"))
    if trouble is not None:
        raise trouble
    return NOTHING_FAILED


def _of_suite(suite: str, ask: bool) -> list[KernelPackage]:
    """What a suite offers, as far as it is known here, or after asking the mirror."""
    if not ask:
        return suites.remembered(suite)
    packages, troubles = suites.offered(suite)
    for trouble in troubles:
        writing.complain(f"kvmharness: not asked: {trouble}")
    return packages


def _entry(name: str, *paragraphs: str) -> None:
    print(name)
    for text in paragraphs:
        print(
            textwrap.fill(text, 78, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        )


_LISTS = {
    "policies": _list_policies,
    "machines": _list_machines,
}
