# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of b4's review: a JSON array of what a maintainer sees beside a series, one for each kernel."""

import json
from collections.abc import Sequence
from typing import Any

from kvmharness.judging.verdict import Verdict
from kvmharness.report import failures, summary
from kvmharness.report.kernel import KernelReport, Report
from kvmharness.report.series import SeriesReport

# What `summary.overall` says as b4 shows it: what says nothing of a kernel is no pass.
_STATUS = {"FAIL": "fail", "LOST": "warn", "PASS": "pass", "NONE": "warn"}


def render(report: Report) -> str:
    """The verdict on each kernel as a check, and what a run lacks that was cut short as one more."""
    checks = [_of_kernel(kernel) for kernel in report.kernels]
    if report.cut_short:
        checks.append(check("warn", "the run was cut short", report.cut_short))
    return as_json(checks)


def as_json(checks: Sequence[dict[str, Any]]) -> str:
    """What b4 reads."""
    return json.dumps(checks, indent=1) + "\n"


def check(status: str, said: str, details: str) -> dict[str, Any]:
    """One check. `status` is pass, warn or fail; there is no page about it, so `url` is empty."""
    return {"tool": "kvmharness", "status": status, "summary": said, "url": "", "details": details}


def _of_kernel(kernel: KernelReport) -> dict[str, Any]:
    status = _STATUS[summary.overall(kernel)]
    if status == "pass" and kernel.left_open:
        status = "warn"
    lines = [summary.sentence(kernel).replace("\N{NO-BREAK SPACE}", " ")]
    failed = [each for each in kernel.results if each.verdict is Verdict.FAIL]
    for group in failures.by_cause(failed):
        lines += ["", *failures.in_a_mail(group, kernel.expect, 75)]
    other = [each for each in kernel.results if each.verdict in (Verdict.LOST, Verdict.INCONCLUSIVE)]
    lines += [f"{each.verdict.value} {each.scenario}: {each.reason}" for each in other]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in kernel.counts().items())
    return check(status, f"{kernel.title}: {counts}", "\n".join(lines))


def of_series(report: SeriesReport) -> str:
    """A check for each patch: fail where it does not apply, build or boot, or breaks a contract."""
    checks = []
    for row in report.rows:
        effects = [
            f"{each.after.machine}: contracts newly {what}: {', '.join(names)}"
            for each in row.effects
            for what, names in (("kept", each.newly_kept), ("broken", each.newly_broken))
            if names
        ]
        behaves = [f"{each.after.machine}: behaves as {each.behaves_as or '?'}" for each in row.effects]
        lost = [f"{each.after.machine} was lost: {each.lost}" for each in row.effects if each.lost]
        status = "fail" if row.breaks_something else "warn" if lost else "pass"
        said = f"{row.number}/{report.count} {row.title or row.origin}: {row.outcome.value}"
        details = filter(None, [row.reason, *effects, *behaves, *lost])
        checks.append(check(status, said, "\n".join(details)))
    if report.cut_short:
        checks.append(check("warn", "the run was cut short", report.cut_short))
    return as_json(checks)
