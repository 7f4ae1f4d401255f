# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab validate: a kernel without a patch and with it, side by side."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from kvmharness.cli import lab_build, options
from kvmharness.judging.difference import compare_sessions
from kvmharness.judging.verdict import exit_status
from kvmharness.lab import kernels, runs
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import check_emulator
from kvmharness.lab.runs import Matrix
from kvmharness.report.validation import Validation, render

_LOG = logging.getLogger(__name__)


def add_parser(lab_commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = lab_commands.add_parser(
        "validate", help="show what a patch changes, before and after it, as a text for a mail"
    )
    lab_build.add_kernel_and_patches(parser)
    parser.add_argument(
        "--machine",
        action="append",
        default=[],
        metavar="NAME",
        help="the emulated machine (default: amd-smp; can be repeated; see `kvmharness list machines`)",
    )
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME",
        help="play only this scenario (can be repeated; default: all)",
    )
    options.add_jobs(parser)
    options.add_hang_after(parser)
    options.add_judging(parser)
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write the text to FILE instead of stdout"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build, play on both kernels, say what changed; the exit status is that of the patched one."""
    scenarios = options.pick_scenarios(arguments.scenario)
    machines = options.pick(arguments.machine or ["amd-smp"], MACHINES, "machine")
    machines = [replace(machine, hang_after_s=arguments.hang_after) for machine in machines]
    options.check_places(arguments.output, None)
    expectation = options.expectation(arguments)
    for machine in machines:
        check_emulator(machine)
    after = lab_build.build_kernel(arguments)
    before = kernels.find(arguments.kernel, offline=arguments.offline)
    boots = [(kernel, machine) for machine in machines for kernel in (before, after)]
    with Matrix(boots, scenarios, expectation, arguments.jobs) as matrix:
        for done, each in enumerate(matrix, 1):
            if each.trouble:
                raise each.trouble
            _LOG.info("%s on %s is done, %d of %d", each.kernel.spec, each.machine.name, done, len(boots))
        played = [
            (runs.report(each.kernel, each.machine, each.played, expectation), each.played.sessions)
            for each in matrix.finished
            if each.played
        ]
    validations = [
        Validation(before, after, compare_sessions(without, patched))
        for (before, without), (after, patched) in zip(played[::2], played[1::2], strict=True)
    ]
    text = render(validations, lab_build.called(arguments), _command(arguments))
    options.write_text(text, arguments.output)
    return exit_status(result for each in validations for result in each.after.results)


def _command(arguments: argparse.Namespace) -> list[str]:
    """What was asked, as words."""
    words = ["kvmharness", "lab", "validate", arguments.kernel]
    for number, file in enumerate(arguments.patch):
        words += ["--patch", file]
        words += [word for pick in lab_build.picks(arguments, number) for word in ("--pick", str(pick))]
    for option, names in (("--machine", arguments.machine), ("--scenario", arguments.scenario)):
        words += [word for name in names for word in (option, name)]
    words += ["--expect", arguments.expect]
    if arguments.judge != "policy":
        words += ["--judge", arguments.judge]
    if arguments.policy_file:
        words += ["--policy-file", str(arguments.policy_file)]
    return words
