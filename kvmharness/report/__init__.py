# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports, by format."""

from kvmharness.report import json, ktap, text
from kvmharness.report.kernel import KernelReport, Report

FORMATS = ("text", "ktap", "json")


def render(report: Report, form: str = "text", *, verbose: bool = False) -> str:
    """The report in one of FORMATS. `verbose` leaves nothing out of the text; the others never do."""
    report = report.printable
    if form == "json":
        return json.render(report)
    return ktap.render(report) if form == "ktap" else text.render(report, verbose=verbose)


__all__ = ["FORMATS", "KernelReport", "Report", "render"]
