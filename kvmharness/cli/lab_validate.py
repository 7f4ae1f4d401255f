# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab validate: a kernel without a patch and with it, side by side."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kvmharness.cli import lab_build, options, patch_files
from kvmharness.cli.errors import NOTHING_JUDGED
from kvmharness.cli.patch_files import PatchFile
from kvmharness.judging.difference import compare_sessions
from kvmharness.judging.verdict import Expectation, exit_status
from kvmharness.lab import kernels, runs
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import check_emulator
from kvmharness.lab.patches import kept
from kvmharness.lab.runs import Matrix
from kvmharness.report.validation import Validation, render


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
    options.add_scenario_file(parser)
    options.add_jobs(parser)
    options.add_hang_after(parser)
    options.add_judging(parser)
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write the text to FILE instead of stdout"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build, play on both kernels, say what changed; the exit status is that of the patched one."""
    scenarios = options.pick_scenarios(arguments.scenario, arguments.scenario_file)
    machines = options.pick(arguments.machine or ["amd-smp"], MACHINES, "machine")
    machines = [replace(machine, hang_after_s=arguments.hang_after) for machine in machines]
    options.check_places(arguments.output, None)
    expectation = options.expectation(arguments)
    for machine in machines:
        check_emulator(machine)
    files = patch_files.read(arguments)
    patches, command = _described(arguments, files), _command(arguments, files)
    after = lab_build.build_kernel(arguments, files)
    before = kernels.find(arguments.kernel, offline=arguments.offline)
    boots = [(kernel, machine) for machine in machines for kernel in (before, after)]
    with Matrix(boots, scenarios, expectation, arguments.jobs) as matrix:
        try:
            for each in matrix:
                if each.trouble:
                    raise each.trouble
        except KeyboardInterrupt:
            try:
                _report(arguments, expectation, patches, command, matrix)
            except Exception as trouble:  # who reads the output may have been interrupted too
                options.complain(f"kvmharness: {trouble}")
            raise
        return _report(arguments, expectation, patches, command, matrix)


def _described(arguments: argparse.Namespace, files: Sequence[PatchFile]) -> list[str]:
    """The patches, a line each."""
    scripts = arguments.allow_build_scripts
    return [line for each in files for line in each.described(each.chosen(build_scripts=scripts))]


def _report(
    arguments: argparse.Namespace,
    expectation: Expectation,
    patches: Sequence[str],
    command: Sequence[str],
    matrix: Matrix,
) -> int:
    """Say what changed, on the machines that both kernels were played on; the exit status."""
    played = {
        (each.number // 2, each.number % 2): (
            runs.report(each.kernel, each.machine, each.played, expectation),
            each.played.attempts,
        )
        for each in matrix.finished
        if each.played
    }
    validations = []
    for machine in dict.fromkeys(machine for machine, _ in played):
        if (machine, 0) in played and (machine, 1) in played:
            (before, without), (after, patched) = played[machine, 0], played[machine, 1]
            validations.append(Validation(before, after, compare_sessions(without, patched)))
    if not validations:
        return NOTHING_JUDGED
    unfinished = [f"{kernel.spec} on {machine.name}" for kernel, machine in matrix.unfinished]
    text = render(validations, patches, command, unfinished)
    options.write_text(text, arguments.output)
    return exit_status(result for each in validations for result in each.after.results)


def _command(arguments: argparse.Namespace, files: Sequence[PatchFile]) -> list[str]:
    """What was asked, as words that mean the same in any folder; the patches are kept for that."""
    own = "/" in arguments.kernel
    words = ["kvmharness", "lab", "validate", os.path.abspath(arguments.kernel) if own else arguments.kernel]
    for each in files:
        words += ["--patch", kept.keep(each.data)]
        words += [word for pick in each.picks for word in ("--pick", str(pick))]
    words += ["--allow-build-scripts"] if arguments.allow_build_scripts else []
    repeated = ("machine", "scenario", "scenario_file")
    for option, names in ((f"--{each.replace('_', '-')}", getattr(arguments, each)) for each in repeated):
        words += [word for name in names for word in (option, str(name))]
    words += ["--expect", arguments.expect]
    if arguments.judge != "policy":
        words += ["--judge", arguments.judge]
    if arguments.policy_file:
        words += ["--policy-file", str(arguments.policy_file.absolute())]
    return words
