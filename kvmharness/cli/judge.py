# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness judge: judge traces that were saved earlier, on any machine."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvmharness.cli import about, options, writing
from kvmharness.cli.errors import FAILED, NOTHING_FAILED, NOTHING_JUDGED, UsageError
from kvmharness.judging import saved
from kvmharness.judging.bisection import ignored_writes
from kvmharness.judging.difference import compare_sessions
from kvmharness.judging.saved import SavedRun
from kvmharness.judging.session import Session
from kvmharness.judging.verdict import Expectation
from kvmharness.report import KernelReport, Report
from kvmharness.report.difference import DifferenceReport, render, to_json
from kvmharness.scenarios import Scenario


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("judge", help="judge saved traces again (see --save-traces)")
    parser.add_argument("trace", nargs="+", type=Path, help="a file saved by --save-traces")
    parser.add_argument(
        "--diff",
        action="store_true",
        help="compare the two kernels that the traces are of, as `kvmharness lab diff` does",
    )
    options.add_scenario_file(parser)
    options.add_judging(parser)
    options.add_strict(parser)
    options.add_report_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, judge, report: a column for each run that the files are of."""
    writing.check_places(arguments.output, None)
    expectation = options.expectation(arguments)
    scenarios = options.known_scenarios(arguments.scenario_file)
    files: dict[tuple[Path, str], list[list[Session]]] = {}
    for path in dict.fromkeys(arguments.trace):
        sessions = _read(path, scenarios)
        files.setdefault((path.parent, _kernel(path, SavedRun(tuple(sessions)))), []).append(sessions)
    several = len({folder for folder, _ in files}) > 1
    runs = [
        (str(folder / kernel) if several else kernel, run)
        for (folder, kernel), of_kernel in files.items()
        for run in saved.runs_of(of_kernel)
    ]
    if arguments.diff:
        return _compare(runs, arguments)
    reports = [_report(run, kernel, scenarios, expectation) for kernel, run in runs]
    report = Report(tuple(reports), strict=arguments.strict)
    writing.write_report(report, arguments)
    return report.exit_status


def _compare(runs: Sequence[tuple[str, SavedRun]], arguments: argparse.Namespace) -> int:
    """Report where the two kernels differ; the exit status, as `lab diff` has it."""
    if len(runs) != 2:
        raise UsageError(f"--diff compares two kernels, and these traces are of {len(runs)}")
    if arguments.format not in ("text", "json"):
        raise UsageError(f"--diff has no {arguments.format}: take --format text or json")
    (first, one), (second, other) = runs
    place = one.place or other.place
    report = DifferenceReport(
        (first, second),
        (one.release, other.release),
        place.machine if place else "an unknown machine",
        compare_sessions(one.sessions, other.sessions),
    )
    if arguments.format == "json":
        writing.write_text(to_json([report], about.of(arguments)), arguments.output, for_people=False)
    else:
        writing.write_text(render([report]), arguments.output)
    if report.comparison.differences:
        return FAILED
    return NOTHING_FAILED if report.comparison.compared else NOTHING_JUDGED


def _report(
    run: SavedRun, kernel: str, scenarios: Mapping[str, Scenario], expectation: Expectation
) -> KernelReport:
    """The verdicts of a run, by what it says of the place where it was played."""
    place, here = run.place, run.expectation(expectation)
    result = run.judged([each for name, each in scenarios.items() if name in run.scenarios], expectation)
    on_host = place is None or place.machine == saved.HOSTS_OWN
    ignores = [ignored_writes(each.probe, here) for each in run.sessions if on_host]
    return KernelReport(
        *(kernel, place.machine if place else "saved traces", run.release, result.results),
        *(expectation.name, result.identity),
        ignores_writes=next(filter(None, ignores), ""),
        host=result.host,
        sessions=result.sessions,
    )


def _kernel(path: Path, run: SavedRun) -> str:
    """What the kernel of a file is called; where it does not say so, by the file's name."""
    if run.place:
        return run.place.kernel
    name = path.name.removesuffix(".jsonl")
    for scenario in run.scenarios:
        name = name.removesuffix(f".{scenario}")
    return name


def _read(path: Path, scenarios: Mapping[str, Scenario]) -> list[Session]:
    """The sessions in a file, of known scenarios. UsageError when it does not hold that."""
    sessions = options.read_sessions(path)
    for name in SavedRun(tuple(sessions)).scenarios:
        try:
            options.pick_one(name, scenarios, "scenario")
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
    return sessions
