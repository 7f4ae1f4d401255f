# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports, by format."""

import importlib.util
from collections.abc import Callable

from kvmharness.report import b4, json, junit, kcidb, ktap, text
from kvmharness.report.kernel import KernelReport, Report

FORMATS = ("text", "ktap", "json", "junit", "kcidb", "b4", "html")

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
    if form == "html":
        # Its libraries come with kvmharness[html] alone.
        from kvmharness.report.html import page  # noqa: PLC0415

        return page.render(report)
    return _FOR_PROGRAMS[form](report)


def lacks(form: str) -> str:
    """What is not installed that a format needs, and how to get it; "" where nothing is."""
    needed = ("drawsvg", "jinja2") if form == "html" else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return f"--format {form} needs {' and '.join(missing)}: pip install 'kvmharness[{form}]'"


__all__ = ["FORMATS", "KernelReport", "Report", "lacks", "render"]
