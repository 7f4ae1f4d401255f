# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness judge: judge traces that were saved earlier, on any machine."""

import argparse
from pathlib import Path

from kvmharness import trace
from kvmharness.cli import options
from kvmharness.cli.errors import UsageError
from kvmharness.judging import kvm
from kvmharness.judging.identity import identify
from kvmharness.judging.judge import judge_probe, judge_scenario
from kvmharness.judging.kvm import Kvm
from kvmharness.judging.probe import PROBES, Probe, split
from kvmharness.judging.verdict import Result
from kvmharness.report import KernelReport, Report
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Trace, TraceError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("judge", help="judge saved traces again (see --save-traces)")
    parser.add_argument("trace", nargs="+", type=Path, help="a file saved by --save-traces")
    options.add_judging(parser)
    options.add_strict(parser)
    options.add_report_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, judge, report: a column for each kernel and machine the files are named for."""
    options.check_places(arguments.output, None)
    expectation = options.expectation(arguments)
    columns: dict[tuple[Path, str, str], list[Result]] = {}
    played: dict[tuple[Path, str, str], list[tuple[Kvm, Trace]]] = {}
    for path in dict.fromkeys(arguments.trace):
        probe, traces = _read(path)
        name = path.name.removesuffix(".jsonl")
        for each in traces:
            name = name.removesuffix(f".{each.scenario}")
        column = path.parent, name, probe.release
        here = kvm.seen(probe, expectation)
        found = columns.setdefault(column, [])
        reported = {result.scenario for result in found}
        # The files of one run begin with the same probe.
        found += [each for each in judge_probe(here) if each.scenario not in reported]
        found += [judge_scenario(SCENARIOS[each.scenario], each, here) for each in traces]
        played.setdefault(column, []).extend((here, each) for each in traces)
    several = len({folder for folder, _, _ in columns}) > 1
    reports = []
    for (folder, name, release), found in columns.items():
        title = str(folder / name) if several else name
        identity = identify(played[folder, name, release], expectation)
        reports.append(KernelReport(title, "saved traces", release, tuple(found), expectation.name, identity))
    report = Report(tuple(reports), strict=arguments.strict)
    options.write_report(report, arguments)
    return report.exit_status


def _read(path: Path) -> tuple[Probe, list[Trace]]:
    """The probe's traces and the scenarios'. UsageError when the file does not hold that."""
    try:
        with path.open(encoding="ascii") as file:
            traces = list(trace.from_lines(iter(lambda: file.readline(trace.MAX_LINE + 1), "")))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a trace: it has bytes that are not ASCII") from None
    except TraceError as error:
        raise UsageError(f"{path}: {error}") from None
    if not traces or traces[0].scenario not in PROBES:
        raise UsageError(f"{path}: not a saved trace: it does not begin with a probe")
    probe, others = split(traces)
    for each in others:
        options.pick([each.scenario], SCENARIOS, f"scenario in {path}:")
    return probe, others
