# SPDX-License-Identifier: GPL-2.0-or-later
"""The report for programs. `schema` grows when a key changes its meaning, not when one is added."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from kvmharness import __version__
from kvmharness.judging.verdict import Result, Verdict, exit_status
from kvmharness.report.kernel import KernelReport

SCHEMA = 1
_CONTRACT = {True: "kept", False: "broken", None: None}


def render(reports: Sequence[KernelReport]) -> str:
    """The report as one JSON object."""
    results = [result for report in reports for result in report.results]
    counter = Counter(result.verdict.value for result in results)
    data = {
        "schema": SCHEMA,
        "tool": f"kvmharness {__version__}",
        "kernels": [_kernel(report) for report in reports],
        "summary": {
            **{verdict.value: counter[verdict.value] for verdict in Verdict},
            "exit_status": exit_status(results),
        },
    }
    return json.dumps(data, indent=1) + "\n"


def _kernel(report: KernelReport) -> dict[str, Any]:
    return {
        "kernel": report.kernel,
        "machine": report.machine,
        "release": report.release,
        "behaves_as": list(report.identity.behaves_as) if report.identity else None,
        "parted_by": report.identity.parted_by if report.identity else "",
        "expect": report.expect,
        "results": [_result(result) for result in report.results],
        "notes": list(report.notes),
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "scenario": result.scenario,
        "verdict": result.verdict.value,
        "contract": _CONTRACT[result.kept],
        "conforms": result.conforms,
        "reason": result.reason,
        "finding": result.finding,
        "explained_by": list(result.explained_by),
        "foretold": result.foretold,
        "step": result.step or None,
    }
