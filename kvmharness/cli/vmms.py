# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness vmms: the VMMs whose recordings come with us, by kernels or policies."""

import argparse
from pathlib import Path

from kvmharness.cli import lab_options, options, writing
from kvmharness.cli.errors import BAD_INPUT, NOTHING_FAILED
from kvmharness.judging.verdict import Expectation
from kvmharness.lab import kernels
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.runs import Matrix
from kvmharness.model.policy import Policy
from kvmharness.recording import vmms
from kvmharness.report.vmms import Column, as_markdown, as_text, of_kernel, of_policy
from kvmharness.scenarios import SCENARIOS, Scenario


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "vmms",
        help="which VMMs' guests get a wrong TSC from a kernel, or from a policy",
        description="Play the recordings of VMMs on kernels in emulated machines, or under policies on the "
        "model alone, and say where what their guests are entitled to is kept or broken.",
    )
    parser.add_argument(
        "of", nargs="*", metavar="KERNEL|POLICY", help="(default: each policy that honours TSC writes)"
    )
    parser.add_argument(
        "--recording",
        action="append",
        default=[],
        metavar="FILE",
        type=Path,
        help="only this recording, yours or one that comes with us (can be repeated)",
    )
    parser.add_argument(
        "--machine", default="amd", metavar="NAME", help="the emulated machine (default: amd)"
    )
    parser.add_argument("--offline", action="store_true", help="use only the kernels in the cache")
    parser.add_argument("--markdown", action="store_true", help="print a table of Markdown")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write to FILE instead of stdout")
    options.add_policy_file(parser)
    lab_options.add_executor(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table. 2 where a kernel could not be played on."""
    writing.check_places(arguments.output, None)
    known = options.policies(arguments.policy_file)
    usual = [name for name, policy in known.items() if policy.honours_writes]
    names = list(dict.fromkeys(arguments.of or usual))
    scenarios = [*vmms.shipped().values()]
    if arguments.recording:
        found = options.known_scenarios(arguments.recording)
        scenarios = [each for name, each in found.items() if name not in SCENARIOS]
    columns = {name: of_policy(known[name], scenarios) for name in names if name in known}
    wanted = [name for name in names if name not in known]
    columns |= _played(wanted, arguments, scenarios, known) if wanted else {}
    table = as_markdown if arguments.markdown else as_text
    writing.write_text(
        table(scenarios, [columns[name] for name in names if name in columns]),
        arguments.output,
        for_people=False,
    )
    return NOTHING_FAILED if len(columns) == len(names) else BAD_INPUT


def _played(
    wanted: list[str], arguments: argparse.Namespace, scenarios: list[Scenario], known: dict[str, Policy]
) -> dict[str, Column]:
    (machine,) = options.pick([arguments.machine], MACHINES, "machine")
    lab_options.check_emulators([machine], arguments)
    found = {name: kernels.find(name, None, arguments.offline) for name in wanted}
    boots = [(kernel, machine) for kernel in found.values()]
    names, columns = [*found], {}
    with Matrix(boots, scenarios, Expectation(None, known), lab_options.executor(arguments)) as matrix:
        for each in matrix:
            name = names[each.number]
            if each.played:
                columns[name] = of_kernel(name, each.played.results)
            else:
                writing.complain(f"kvmharness: {name} could not be played on: {each.trouble}")
    return columns
