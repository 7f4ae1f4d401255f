# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab validate --each: what each patch of a series changes, or each commit of a range."""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kvmharness.cli import about, again, lab_build, lab_options, options, patch_files, writing
from kvmharness.cli.errors import NOTHING_JUDGED, UsageError
from kvmharness.cli.patch_files import PatchFile
from kvmharness.lab import build
from kvmharness.lab.build import changes
from kvmharness.lab.build.changes import Changes
from kvmharness.lab.build.make import CompileError
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.series import SeriesRun
from kvmharness.report import b4, series_formats, series_text

_FORMATS = ("text", "json", "ktap", "b4")


def run(arguments: argparse.Namespace) -> int:
    """Build and play the series patch by patch; the exit status is SeriesReport.exit_status."""
    if bool(arguments.patch) is bool(arguments.range):
        raise UsageError("a series is given by --patch FILE, or by --range A..B")
    if arguments.format not in _FORMATS:
        raise UsageError(f"--each has no {arguments.format}: take --format {' or '.join(_FORMATS)}")
    if arguments.tree and not arguments.range:
        raise UsageError("--tree is for --range")
    scenarios = options.pick_scenarios(arguments.scenario, arguments.scenario_file)
    machines = lab_options.pick_machines(arguments, "amd-smp")
    writing.check_places(arguments.output, None)
    expectation = options.expectation(arguments)
    lab_options.check_emulators(machines, arguments)
    files = patch_files.read(arguments)
    command = again.command(arguments, files)
    series, called = _series(arguments, files)
    base = series[0].base
    series_run = SeriesRun(
        *series,
        machines=machines,
        scenarios=scenarios,
        expectation=expectation,
        name=arguments.name or lab_build.default_name(arguments.kernel, called),
        executor=lab_options.executor(arguments),
    )
    with series_run:
        try:
            series_run.run()
        except CompileError as error:
            for line in error.details:
                writing.complain(line)
            raise LabError(f"without the series: {error}") from None
        except KeyboardInterrupt:
            try:
                _report(arguments, series_run, base, command, "it was interrupted")
            except Exception as trouble:  # who reads the output may have been interrupted too
                writing.complain(f"kvmharness: {trouble}")
            raise
        return _report(arguments, series_run, base, command)


def _series(
    arguments: argparse.Namespace, files: Sequence[PatchFile]
) -> tuple[tuple[build.Ground, Changes], list[str]]:
    """What is built on, the changes, and what they are called in the kernels' names."""
    scripts = arguments.allow_build_scripts
    chosen = [patch for each in files for patch in each.chosen_each(build_scripts=scripts)]
    on = build.ground(arguments.kernel, arguments.offline)
    if not arguments.range:
        return (on, changes.of_patches(on, chosen)), [each.short_name for each in files]
    tree = (arguments.tree or Path()).resolve()
    name = hashlib.sha256(f"{tree} {arguments.range}".encode()).hexdigest()[:8]
    return (on, changes.of_commits(on, tree, arguments.range, build_scripts=scripts)), [f"range-{name}"]


def _report(
    arguments: argparse.Namespace,
    series_run: SeriesRun,
    base: Kernel,
    command: Sequence[str],
    cut_short: str = "",
) -> int:
    """Say what was measured; the exit status."""
    report = series_run.report()
    if report is None:
        return NOTHING_JUDGED
    if cut_short:
        missing = f"{cut_short} with {len(report.rows)} of {report.count} patches measured"
        report = replace(report, cut_short=missing)
    if arguments.format == "json":
        text = series_formats.to_json(report, command, about.of(arguments, report.machines, [base]))
    elif arguments.format == "ktap":
        text = series_formats.to_ktap(report)
    elif arguments.format == "b4":
        text = b4.of_series(report)
    else:
        verbose = getattr(arguments, "verbosity", 0) > 0
        text = series_text.render(report, command, verbose=verbose)
    writing.write_text(text, arguments.output)
    return report.exit_status
