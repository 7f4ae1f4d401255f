# SPDX-License-Identifier: GPL-2.0-or-later
"""The report for programs. `schema` grows when a key changes its meaning, not when one is added."""

import json
from collections import Counter
from typing import Any

from kvmharness import __version__
from kvmharness.judging.identity import Identity
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.player import host_state
from kvmharness.report.kernel import KernelReport, Report

SCHEMA = 2
_CONTRACT = {True: "kept", False: "broken", None: None}


def render(report: Report) -> str:
    """The report as one JSON object."""
    results = [result for kernel in report.kernels for result in kernel.results]
    counter = Counter(result.verdict.value for result in results)
    data = {
        "schema": SCHEMA,
        "tool": f"kvmharness {__version__}",
        "about": report.about.to_json() if report.about else None,
        "kernels": [_kernel(kernel) for kernel in report.kernels],
        "cut_short": report.cut_short or None,
        "summary": {
            **{verdict.value: counter[verdict.value] for verdict in Verdict},
            "judged": sum(kernel.judged for kernel in report.kernels),
            # Of what is there; a run that was cut short has none of its own.
            "exit_status": None if report.cut_short else report.exit_status,
        },
    }
    return json.dumps(data, indent=1) + "\n"


def _kernel(report: KernelReport) -> dict[str, Any]:
    return {
        "kernel": report.kernel,
        "machine": report.machine,
        "release": report.release,
        "behaves_as": list(report.identity.behaves_as) if report.identity else None,
        "but_for": _but_for(report.identity),
        "distinguished_by": report.identity.distinguished_by if report.identity else "",
        "expect": report.expect,
        "build_ids": host_state.build_ids(report.host),
        "host": {**report.host},
        "results": [_result(result) for result in report.results],
        "notes": list(report.notes),
    }


def _but_for(identity: Identity | None) -> dict[str, Any] | None:
    """The policies that a kernel follows but for some operations, where no policy explains all of it."""
    if identity is None or identity.divergence is None:
        return None
    found = identity.divergence
    return {"policies": list(found.policies), "operations": list(found.kinds), "first": found.first}


def _result(result: Result) -> dict[str, Any]:
    mismatch = result.mismatch
    return {
        "scenario": result.scenario,
        "verdict": result.verdict.value,
        "contract": _CONTRACT[result.kept],
        "conforms": result.conforms,
        "reason": result.reason,
        "finding": result.finding,
        "step": result.step or None,
        "operation": mismatch.done if mismatch else None,
        "observed": mismatch.observed if mismatch else None,
        "allowed": [
            {"expected": each.result, "difference": each.difference, "because": each.because}
            for each in (mismatch.allowed if mismatch else ())
        ],
        "consistent_with": list(result.consistent_with),
        "predicted": result.predicted,
        "only_if": result.only_if,
    }
