# SPDX-License-Identifier: GPL-2.0-or-later
"""A series, patch by patch, for programs: as JSON, and as KTAP with a result for each patch."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from kvmharness import __version__
from kvmharness.judging.difference import Comparison
from kvmharness.printable import printable
from kvmharness.report.about import About
from kvmharness.report.kernel import KernelReport
from kvmharness.report.series import Effect, Outcome, Row, SeriesReport, behaves_as, turns

SCHEMA = 1


def to_json(report: SeriesReport, command: Sequence[str], about: About) -> str:
    """The report as one JSON object. `schema` grows when a key changes its meaning, not when one is added."""
    data = {
        "schema": SCHEMA,
        "tool": f"kvmharness {__version__}",
        "about": about.to_json(),
        "command": [*command],
        "kernel": report.kernel,
        "release": report.release,
        "without": {each.machine: kernel_data(each) for each in report.before},
        "patches": [_row(row) for row in report.rows],
        "count": report.count,
        "changed_by": [
            {"machine": each.machine, "what": each.what, "becomes": each.now, "patch": each.number}
            for each in turns(report)
        ],
        "doubts": [*report.doubts],
        "cut_short": report.cut_short or None,
        "exit_status": None if report.cut_short else report.exit_status,
    }
    return json.dumps(data, indent=1) + "\n"


def kernel_data(report: KernelReport) -> dict[str, Any]:
    """What a kernel did, in short."""
    results = {each.scenario: each for each in report.results}
    return {
        "behaves_as": behaves_as(report) or None,
        "verdicts": {name: each.verdict.value for name, each in results.items()},
        "contracts_kept": [name for name, each in results.items() if each.kept],
        "contracts_broken": [name for name, each in results.items() if each.kept is False],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "patch": row.number,
        "title": row.title,
        "author": row.author,
        "origin": row.origin,
        "outcome": row.outcome.value,
        "reason": row.reason or None,
        "same_error_as": row.like or None,
        "built_with": [*row.beneath],
        "left_out": [*row.left_out],
        "doubts": [*row.doubts],
        "kernel": row.kernel or None,
        "machines": {each.after.machine: _effect(each) for each in row.effects},
    }


def _effect(effect: Effect) -> dict[str, Any]:
    found = effect.comparison
    return {
        **kernel_data(effect.after),
        "newly_kept": [*effect.newly_kept],
        "newly_broken": [*effect.newly_broken],
        "off_by": {each.scenario: each.by for each in effect.after.results if each.by},
        "first_judged": {**effect.first_judged},
        "can_now": [*found.only_second],
        "can_no_longer": [*found.only_first],
        "compared": found.compared,
        "compared_with": effect.since,
        "lost": effect.lost or None,
        "differences": differences_data(found),
    }


def differences_data(comparison: Comparison) -> list[dict[str, Any]]:
    """Where two kernels first differ, in each scenario where they do."""
    return [
        {
            "scenario": each.scenario,
            "step": each.step,
            "operation": each.operation,
            "before": each.first,
            "after": each.second,
            "distance": each.distance or None,
        }
        for each in comparison.differences
    ]


def to_ktap(report: SeriesReport) -> str:
    """A test for each patch: not ok where it does not apply, build or boot, or breaks a contract."""
    return "".join(f"{printable(line)}\n" for line in _ktap(report))


def _ktap(report: SeriesReport) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"1..{report.count}"
    if report.cut_short:
        yield f"# CUT SHORT: {report.cut_short}"
    yield f"# {report.kernel} ({report.release})"
    for before in report.before:
        yield f"# {before.machine}: without the series: behaves as {behaves_as(before) or '?'}"
    for row in report.rows:
        yield from _test(row)


def _test(row: Row) -> Iterator[str]:
    for effect in row.effects:
        machine = effect.after.machine
        yield f"# {machine}: behaves as {effect.behaves_as or '?'}"
        for what, names in (("kept", effect.newly_kept), ("broken", effect.newly_broken)):
            if names:
                yield f"# {machine}: contracts newly {what}: {', '.join(names)}"
        if effect.lost:
            yield f"# {machine}: the machine was lost: {effect.lost}"
    if row.reason:
        yield f"# {row.outcome.value}: {row.reason}"
    title = (row.title or row.origin).replace("#", "")
    skips = {Outcome.PASSED_OVER: "passed over", Outcome.UNCHANGED: "modules unchanged"}
    skip = f" # SKIP {skips[row.outcome]}" if row.outcome in skips else ""
    yield f"{'not ok' if row.breaks_something else 'ok'} {row.number} {title}{skip}"
