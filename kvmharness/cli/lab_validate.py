# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab validate: a kernel without a patch and with it, side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kvmharness.cli import (
    about,
    again,
    lab_build,
    lab_options,
    means,
    options,
    patch_files,
    validate_each,
    writing,
)
from kvmharness.cli.errors import NOTHING_JUDGED, UsageError
from kvmharness.cli.patch_files import PatchFile
from kvmharness.judging.difference import compare_sessions
from kvmharness.judging.verdict import Expectation, exit_status
from kvmharness.lab import kernels, runs
from kvmharness.lab.runs import Matrix
from kvmharness.report import validation_json
from kvmharness.report.validation import Validation, render

_FORMATS = ("text", "json")


def add_parser(lab_commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = lab_commands.add_parser(
        "validate", help="show what a patch changes, before and after it, as a text for a mail"
    )
    lab_build.add_kernel_and_patches(parser, required=False)
    parser.add_argument(
        "--each", action="store_true", help="one patch of a series after the other: what each of them changes"
    )
    parser.add_argument(
        "--range",
        metavar="A..B",
        help="in place of --patch: the commits of a git tree, each as with --each; KVM's sources "
        "there take the place of the kernel's",
    )
    parser.add_argument(
        "--tree", metavar="DIR", type=Path, help="the git tree of --range (default: the current folder)"
    )
    lab_options.add_machines(parser, "amd-smp")
    options.add_what_to_play(parser)
    lab_options.add_executor(parser)
    options.add_judging(parser)
    options.add_report_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build, play on both kernels, say what changed; the exit status is that of the patched one."""
    if arguments.each or arguments.range:
        return validate_each.run(arguments)
    if not arguments.patch:
        raise UsageError("nothing to validate: give --patch FILE, or --range A..B")
    if arguments.tree:
        raise UsageError("--tree is for --range")
    if arguments.format not in _FORMATS:
        raise UsageError(f"without --each there is no {arguments.format}: take --format text or json")
    scenarios = options.pick_scenarios(arguments.scenario, arguments.scenario_file)
    machines = lab_options.pick_machines(arguments, "amd-smp")
    writing.check_places(arguments.output, None)
    expectation = options.expectation(arguments)
    lab_options.check_emulators(machines, arguments)
    files = patch_files.read(arguments)
    patches, command = _described(arguments, files), again.command(arguments, files)
    built = lab_build.build_kernel(arguments, files)
    after = built.kernel
    before = kernels.find(arguments.kernel, offline=arguments.offline)
    executor = lab_options.executor(arguments)
    emulators = executor.emulators(machines)
    by_what = means.described(
        arguments.kernel, built.compiler, machines, emulators, offline=arguments.offline
    )
    boots = [(kernel, machine) for machine in machines for kernel in (before, after)]
    with Matrix(boots, scenarios, expectation, executor) as matrix:
        try:
            for each in matrix:
                if each.trouble:
                    raise each.trouble
        except KeyboardInterrupt:
            try:
                _report(arguments, expectation, (patches, by_what), command, matrix)
            except Exception as trouble:  # who reads the output may have been interrupted too
                writing.complain(f"kvmharness: {trouble}")
            raise
        return _report(arguments, expectation, (patches, by_what), command, matrix)


def _described(arguments: argparse.Namespace, files: Sequence[PatchFile]) -> list[str]:
    """The patches, a line each."""
    scripts = arguments.allow_build_scripts
    return [line for each in files for line in each.described(each.chosen(build_scripts=scripts))]


def _report(
    arguments: argparse.Namespace,
    expectation: Expectation,
    tested: tuple[Sequence[str], Sequence[str]],
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
    patches, by_what = tested
    said = (validations, patches, command, unfinished, by_what)
    if arguments.format == "json":
        base = next(each.kernel for each in matrix.finished if each.number % 2 == 0)
        run = about.of(arguments, [each.before.machine for each in validations], [base])
        text = validation_json.render(*said, about=run)
    else:
        text = render(*said)
    writing.write_text(text, arguments.output)
    return exit_status(result for each in validations for result in each.after.results)
