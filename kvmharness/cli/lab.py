# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab run: boot kernels in an emulated machine, play inside, judge here."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from kvmharness.cli import lab_build, lab_diff, lab_options, lab_program, lab_validate, options, writing
from kvmharness.cli.errors import BAD_INPUT, FAILED, UsageError
from kvmharness.judging.verdict import Expectation
from kvmharness.lab import kernels, runs
from kvmharness.lab.errors import LabError
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.runs import Finished, Matrix
from kvmharness.report import Report

_LOG = logging.getLogger(__name__)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of the lab."""
    lab = commands.add_parser(
        "lab", help="play on real kernels in emulated machines; no root and no /dev/kvm needed"
    )
    lab_commands = lab.add_subparsers(metavar="COMMAND", required=True)
    parser = lab_commands.add_parser("run", help="boot each kernel, play scenarios in it, judge them")
    parser.add_argument(
        "kernel",
        nargs="+",
        metavar="KERNEL",
        help="debian:VERSION (such as debian:6.1), host (this machine's kernel), built:NAME (see `lab "
        "build`), or the path of a kernel image, a built tree or a .deb",
    )
    parser.add_argument(
        "--modules",
        metavar="DIR",
        type=Path,
        help="the folder with the modules of a kernel given as an image or a tree",
    )
    parser.add_argument(
        "--accel",
        choices=("kvm",),
        help="run the machines on this host's KVM instead of emulating them, if it can nest: amd-smp, intel",
    )
    parser.add_argument(
        "--boot", action="store_true", help="always boot from scratch instead of resuming a cached snapshot"
    )
    lab_options.add_offline(parser)
    lab_options.add_machines(parser)
    options.add_what_to_play(parser)
    parser.add_argument(
        "--program",
        metavar="FILE",
        type=Path,
        help="run this static x86-64 program instead; exit status 0 is PASS, 4 is SKIP, any other is FAIL",
    )
    lab_options.add_executor(parser)
    options.add_report_options(parser)
    options.add_judging(parser)
    options.add_strict(parser)
    options.add_save_traces(parser)
    parser.set_defaults(run=run)
    lab_build.add_parser(lab_commands)
    lab_validate.add_parser(lab_commands)
    lab_diff.add_parser(lab_commands)


def run(arguments: argparse.Namespace) -> int:
    """Find the kernels, play on as many as there are CPUs at once, report in the order given.

    What is finished is kept and reported when the rest is interrupted, or turns out to be impossible.
    """
    program = lab_program.check(arguments) if arguments.program else None
    scenarios = options.pick_scenarios(arguments.scenario, arguments.scenario_file)
    machines = _machines(arguments)
    writing.check_places(arguments.output, arguments.save_traces)
    if arguments.modules and not any(map(kernels.takes_modules, arguments.kernel)):
        raise UsageError("--modules is for a KERNEL given as an image or a built tree")
    expectation = options.expectation(arguments)
    lab_options.check_emulators(machines, arguments)
    found = []
    for spec in dict.fromkeys(arguments.kernel):
        if spec in options.known_scenarios(arguments.scenario_file):
            raise UsageError(f"{spec} is a scenario, not a kernel: --scenario {spec} plays it")
        _LOG.info("%s: fetching, unless it is in the cache", spec)
        found.append(kernels.find(spec, arguments.modules, arguments.offline))
    boots = [(kernel, machine) for kernel in found for machine in machines]
    if program is not None:
        return lab_program.run(program, boots, arguments)
    saved: set[int] = set()
    with Matrix(boots, scenarios, expectation, lab_options.executor(arguments)) as matrix:
        try:
            for each in matrix:
                _save(each, arguments)
                saved.add(each.number)
        except KeyboardInterrupt:
            for each in matrix.finished:
                if each.number not in saved:
                    _save(each, arguments)
            if matrix.finished:
                try:
                    _report(arguments, expectation, matrix)
                except Exception as trouble:  # who reads the output may have been interrupted too
                    writing.complain(f"kvmharness: {trouble}")
            raise
        return _report(arguments, expectation, matrix)


def _save(each: Finished, arguments: argparse.Namespace) -> None:
    """Write what was played to --save-traces."""
    if each.played:
        of = each.kernel.spec, each.machine.name, arguments.save_traces
        writing.save_sessions(each.played.sessions, each.played.attempts, *of)


def _machines(arguments: argparse.Namespace) -> list[Machine]:
    machines = lab_options.pick_machines(arguments)
    if arguments.accel:
        for machine in machines:
            if machine.nested is None:
                usable = ", ".join(each.name for each in MACHINES.values() if each.nested)
                raise UsageError(
                    f"{machine.name} counts instructions, so it cannot run on KVM: "
                    f"--accel {arguments.accel} works with {usable}"
                )
        machines = [
            replace(machine.nested, hang_after_s=machine.hang_after_s)
            for machine in machines
            if machine.nested
        ]
    return [machine.without_snapshots for machine in machines] if arguments.boot else machines


def _report(arguments: argparse.Namespace, expectation: Expectation, matrix: Matrix) -> int:
    """Report what is finished; the exit status. A kernel that cannot be played is a line on stderr."""
    finished, unfinished = matrix.finished, matrix.unfinished
    reports = [
        runs.report(each.kernel, each.machine, each.played, expectation) for each in finished if each.played
    ]
    troubles = [each.trouble for each in finished if each.trouble]
    if not reports and troubles:
        raise troubles[0]
    missing = [
        f"{each.kernel.spec} on {each.machine.name} could not be played ({each.trouble})"
        for each in finished
        if each.trouble
    ]
    missing += [f"{kernel.spec} on {machine.name} was interrupted" for kernel, machine in unfinished]
    report = Report(tuple(reports), "; ".join(missing), len(missing), arguments.strict)
    writing.write_report(report, arguments, [each.kernel for each in finished])
    for trouble in troubles:
        if not isinstance(trouble, LabError | OSError):
            raise trouble  # a fault of our own, for the command line to tell; the others are reported
        writing.complain(f"kvmharness: {trouble}")
    status = report.exit_status
    return BAD_INPUT if troubles and status != FAILED else status
