# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports, by format."""

from collections.abc import Callable

from kvmharness.report import b4, json, junit, kcidb, ktap, text
from kvmharness.report.kernel import KernelReport, Report

FORMATS = ("text", "ktap", "json", "junit", "kcidb", "b4")

_FOR_PROGRAMS: dict[str, Callable[[Report], str]] = {
    "ktap": ktap.render,
    "json": json.render,
    "junit": junit.render,
    "kcidb": kcidb.render,
    "b4": b4.render,
}


def render(report: Report, form: str = "text", *, verbose: bool = False) -> str:
    """The report in one of FORMATS. `verbose` leaves nothing out of the text; the others never do."""
    report = report.printable
    if form == "text":
        return text.render(report, verbose=verbose)
    return _FOR_PROGRAMS[form](report)


__all__ = ["FORMATS", "KernelReport", "Report", "render"]
