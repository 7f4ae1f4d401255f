# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch's effect for programs: what report/validation.py writes for people."""

import json
from collections.abc import Sequence
from typing import Any

from kvmharness import __version__
from kvmharness.judging.verdict import exit_status
from kvmharness.printable import printable
from kvmharness.report.about import About
from kvmharness.report.series_formats import differences_data, kernel_data
from kvmharness.report.validation import Validation

SCHEMA = 1


def render(
    validations: Sequence[Validation],
    patches: Sequence[str],
    command: Sequence[str],
    unfinished: Sequence[str],
    means: Sequence[str],
    *,
    about: About,
) -> str:
    """One JSON object; the arguments are those of validation.render(). `schema` grows when a key changes its
    meaning."""
    first = validations[0].before
    data = {
        "schema": SCHEMA,
        "tool": f"kvmharness {__version__}",
        "about": about.to_json(),
        "kernel": printable(first.kernel),
        "release": printable(first.release),
        "expect": validations[0].after.expect,
        "patches": [*map(printable, patches)],
        "means": [*map(printable, means)],
        "command": [*map(printable, command)],
        "machines": {each.before.machine: _machine(each) for each in validations},
        "cut_short": f"{printable(', '.join(unfinished))} was interrupted" if unfinished else None,
        "exit_status": None if unfinished else exit_status(r for v in validations for r in v.after.results),
    }
    return json.dumps(data, indent=1) + "\n"


def _machine(validation: Validation) -> dict[str, Any]:
    after = validation.after
    asked = [result for result in after.results if result.conforms is not None]
    against = [result.scenario for result in asked if not result.conforms]
    return {
        "before": kernel_data(validation.before),
        "after": kernel_data(after),
        "fixed": validation.fixed,
        "broken": validation.broken,
        "off_by": {each.scenario: each.by for each in after.results if each.by},
        "conforms": not against if asked else None,
        "against": against,
        "compared": validation.comparison.compared,
        "differences": differences_data(validation.comparison),
    }
