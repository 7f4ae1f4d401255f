# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab run: boot kernels in an emulated machine, play inside, judge here."""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from kvmharness.cli import options
from kvmharness.lab import kernels, play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machine import MACHINES, Machine, check_emulator
from kvmharness.report import KernelReport
from kvmharness.scenarios import Scenario
from kvmharness.session import Outcome, settle
from kvmharness.verdict import Expectation, Result, Verdict, exit_status


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of the lab."""
    lab = commands.add_parser("lab", help="real kernels in emulated machines")
    lab_commands = lab.add_subparsers(metavar="COMMAND", required=True)
    parser = lab_commands.add_parser("run", help="boot each kernel, play scenarios inside, judge them")
    parser.add_argument("kernel", nargs="+", help="debian:VERSION, as in debian:6.1")
    parser.add_argument("--machine", default="amd", help="see `kvmharness list machines` (default: amd)")
    parser.add_argument(
        "--scenario", action="append", default=[], metavar="NAME", help="only this one (can be repeated)"
    )
    options.add_report_options(parser)
    options.add_judging(parser)
    options.add_save_traces(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Find the kernels, play on as many as there are CPUs at once, report in the order given."""
    scenarios = options.pick_scenarios(arguments.scenario)
    (machine,) = options.pick([arguments.machine], MACHINES, "machine")
    options.check_places(arguments.output, arguments.save_traces)
    expectation = options.expectation(arguments)
    check_emulator(machine)
    found = []
    for spec in dict.fromkeys(arguments.kernel):
        options.progress(f"{spec}: fetching, unless it is in the cache")
        found.append(kernels.find(spec))
    # Not in a `with` block, whose end would wait for the emulators after a Ctrl-C.
    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    outcomes = list(pool.map(partial(_play, machine, scenarios, expectation), found))
    for kernel, (outcome, _) in zip(found, outcomes, strict=True):
        options.save_sessions(outcome.sessions, f"{kernel.spec}.{machine.name}", arguments.save_traces)
    reports = [
        KernelReport(
            *(kernel.spec, machine.name, kernel.release, outcome.results),
            *(expectation.name, outcome.identity, notes),
        )
        for kernel, (outcome, notes) in zip(found, outcomes, strict=True)
    ]
    options.write_report(reports, arguments.format, arguments.output)
    return exit_status(result for report in reports for result in report.results)


def _play(
    machine: Machine, scenarios: Sequence[Scenario], expectation: Expectation, kernel: Kernel
) -> tuple[Outcome, tuple[str, ...]]:
    """A kernel's outcome; where the machine was lost, all scenarios LOST and the console's last lines."""
    options.progress(f"{kernel.spec}: {kernel.release} boots on {machine.name}")
    try:
        outcome = settle(scenarios, partial(play.play, kernel, machine), expectation)
    except play.LostMachineError as lost:
        results = [Result(each.name, Verdict.LOST, each.contract, lost.complaint) for each in scenarios]
        return Outcome(tuple(results), {}), tuple(lost.console)
    options.progress(f"{kernel.spec}: judged")
    return outcome, ()
