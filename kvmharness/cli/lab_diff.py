# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab diff: two kernels held against each other, without any policy."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kvmharness.cli import about, lab_options, options, writing
from kvmharness.cli.errors import FAILED, MACHINE_LOST, NOTHING_FAILED, NOTHING_JUDGED
from kvmharness.judging.difference import compare_sessions
from kvmharness.judging.session import Session
from kvmharness.judging.verdict import Expectation, Verdict
from kvmharness.lab import kernels
from kvmharness.lab.runs import Finished, Matrix
from kvmharness.report.difference import DifferenceReport, render, to_json

_STATUSES = """\
exit status:
  0  no scenario differs, and some were compared
  1  a scenario differs
  2  wrong usage or bad input; one line on stderr says what
  3  a machine was lost
  4  nothing could be compared
"""


def add_parser(lab_commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = lab_commands.add_parser(
        "diff",
        help="show where two kernels first differ in each scenario, without any policy",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "kernel", nargs=2, metavar="KERNEL", help="a kernel, named as for `kvmharness lab run`"
    )
    lab_options.add_machines(parser)
    options.add_what_to_play(parser)
    lab_options.add_offline(parser)
    lab_options.add_executor(parser)
    options.add_save_traces(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write the text to FILE instead of stdout"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play on both kernels, compare, report."""
    scenarios = options.pick_scenarios(arguments.scenario, arguments.scenario_file)
    machines = lab_options.pick_machines(arguments)
    writing.check_places(arguments.output, arguments.save_traces)
    lab_options.check_emulators(machines, arguments)
    both = [kernels.find(spec, offline=arguments.offline) for spec in arguments.kernel]
    boots = [(kernel, machine) for machine in machines for kernel in both]
    with Matrix(boots, scenarios, Expectation(policy=None), lab_options.executor(arguments)) as matrix:
        for each in matrix:
            if each.trouble:
                raise each.trouble
            if each.played:
                place = each.kernel.spec, each.machine.name
                writing.save_sessions(
                    each.played.sessions, each.played.attempts, *place, arguments.save_traces
                )
        finished = matrix.finished
    reports = [_report(*pair) for pair in zip(finished[::2], finished[1::2], strict=True)]
    if arguments.format == "json":
        run_of = about.of(arguments, (each.name for each in machines), both)
        writing.write_text(to_json(reports, run_of), arguments.output, for_people=False)
    else:
        writing.write_text(render(reports), arguments.output)
    return _status(reports)


def _status(reports: Sequence[DifferenceReport]) -> int:
    if any(report.comparison.differences for report in reports):
        return FAILED
    if any(report.troubles for report in reports):
        return MACHINE_LOST
    return NOTHING_FAILED if all(report.comparison.compared for report in reports) else NOTHING_JUDGED


def _report(first: Finished, second: Finished) -> DifferenceReport:
    return DifferenceReport(
        (first.kernel.spec, second.kernel.spec),
        (first.kernel.release, second.kernel.release),
        first.machine.name,
        compare_sessions(_sessions(first), _sessions(second)),
        tuple(trouble for each in (first, second) for trouble in _troubles(each)),
    )


def _sessions(of: Finished) -> tuple[Session, ...]:
    return of.played.attempts if of.played else ()


def _troubles(of: Finished) -> list[str]:
    """Why a kernel was not played on, a line each."""
    results = of.played.results if of.played else ()
    # A scenario that crashes the kernel every time fails, and leaves no trace to compare.
    played = {name for session in _sessions(of) for name in session.traces}
    unplayed = [each for each in results if each.scenario not in played]
    lost = dict.fromkeys(each.reason for each in unplayed if each.verdict in (Verdict.LOST, Verdict.FAIL))
    return [f"{of.kernel.spec}: the machine was lost: {reason}" for reason in lost]
