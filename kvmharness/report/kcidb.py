# SPDX-License-Identifier: GPL-2.0-or-later
"""kcidb's format, version 5.3, in which CI systems send their results to KernelCI's common database.

The tests are those of builds that a CI system reports itself (`kcidb_build`), or of builds that are named
here for what was played on. Each scenario is the path kvmharness.SCENARIO; its machine is its environment.
"""

import hashlib
import json
import re
from typing import Any

from kvmharness.judging.verdict import Result, Verdict
from kvmharness.report import failures
from kvmharness.report.kernel import KernelReport, Report

VERSION = {"major": 5, "minor": 3}
ORIGIN = "kvmharness"
BUILD_ID = re.compile(r"[a-z0-9_]+:[^\0]*")
_LONGEST_EXCERPT = 16384

# XFAIL did what the policy predicts. An INCONCLUSIVE scenario says nothing, and is no fault of anybody's; on
# a machine that was lost a test began and did not end.
_STATUS = {
    Verdict.PASS: "PASS",
    Verdict.XFAIL: "PASS",
    Verdict.FAIL: "FAIL",
    Verdict.SKIP: "SKIP",
    Verdict.INCONCLUSIVE: "SKIP",
    Verdict.LOST: "ERROR",
}


def render(report: Report) -> str:
    """The report as one JSON object. What a run lacks that was cut short is one test that was missed."""
    data: dict[str, Any] = {"version": VERSION}
    if not report.kcidb_build:
        kernels = {_id(each.kernel, each.release, each.build_ids): each for each in report.kernels}
        data["checkouts"] = [_checkout(key, each, report) for key, each in kernels.items()]
        data["builds"] = [_build(key, each) for key, each in kernels.items()]
    data["tests"] = [_test(report, kernel, each) for kernel in report.kernels for each in kernel.results]
    if report.cut_short and (missed := _missed(report)):
        data["tests"].append(missed)
    return json.dumps(data, indent=1) + "\n"


def _checkout(key: str, kernel: KernelReport, report: Report) -> dict[str, Any]:
    package = report.about.packages.get(kernel.kernel, "") if report.about else ""
    words = " ".join(filter(None, [kernel.kernel, kernel.release, package]))
    return {"id": key, "origin": ORIGIN, "comment": words, "valid": True}


def _build(key: str, kernel: KernelReport) -> dict[str, Any]:
    return {
        "id": key,
        "checkout_id": key,
        "origin": ORIGIN,
        "architecture": "x86_64",
        "comment": kernel.kernel,
        "status": "PASS",
        "misc": {"release": kernel.release, "build_ids": kernel.build_ids},
    }


def _test(report: Report, kernel: KernelReport, result: Result) -> dict[str, Any]:
    test = {
        **_head(report, kernel, result.scenario),
        "path": f"kvmharness.{re.sub('[^a-zA-Z0-9_-]', '_', result.scenario)}",
        "environment": {"comment": kernel.machine, "misc": {**kernel.host}},
        "comment": result.contract,
        "status": _STATUS[result.verdict],
        "misc": {
            "verdict": result.verdict.value,
            "expect": kernel.expect,
            "contract_kept": result.kept,
            "reason": result.reason,
            "consistent_with": [*result.consistent_with],
        },
    }
    excerpt = _excerpt(kernel, result)
    return {**test, "log_excerpt": excerpt} if excerpt else test


def _missed(report: Report) -> dict[str, Any] | None:
    """That something was not played; None where there is no build that this can be said of."""
    if not (report.kernels or report.kcidb_build):
        return None
    kernel = report.kernels[0] if report.kernels else KernelReport("", "", "", ())
    head = _head(report, kernel, "")
    return {**head, "path": "kvmharness", "comment": report.cut_short, "status": "MISS"}


def _head(report: Report, kernel: KernelReport, scenario: str) -> dict[str, Any]:
    """What every test has: its ids, and when the run began."""
    build = report.kcidb_build or _id(kernel.kernel, kernel.release, kernel.build_ids)
    about = report.about
    run = (about.started, about.seconds, *about.command) if about else ()
    own = _id(*map(str, run), kernel.kernel, kernel.machine, kernel.release, scenario).partition(":")[2]
    origin = build.partition(":")[0]
    started = {"start_time": about.started} if about else {}
    return {"id": f"{origin}:kvmharness-{own}", "build_id": build, "origin": origin, **started}


def _id(*words: str) -> str:
    return f"{ORIGIN}:{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:24]}"


def _excerpt(kernel: KernelReport, result: Result) -> str:
    """What the report says of a scenario that is no PASS, as much of it as kcidb takes."""
    if result.verdict is Verdict.PASS:
        return ""
    lines = [f"{result.verdict.value} {result.scenario}: {result.reason}"]
    if result.verdict is Verdict.FAIL:
        said = failures.pieces(result, kernel.expect)
        lines = [failures.heading(result), *(f"{label}: {text}" for label, text in said if text)]
    if result.verdict is Verdict.LOST:
        lines += kernel.notes
    text = "\n".join(lines).replace("\0", "")
    return text.encode()[:_LONGEST_EXCERPT].decode(errors="ignore")
