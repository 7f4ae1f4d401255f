# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports, by format."""

from collections.abc import Callable, Sequence

from kvmharness.report import json, ktap, text
from kvmharness.report.kernel import KernelReport

Render = Callable[[Sequence[KernelReport]], str]


def _of_printable(render: Render) -> Render:
    return lambda reports: render([report.printable for report in reports])


FORMATS: dict[str, Render] = {
    "text": _of_printable(text.render),
    "ktap": _of_printable(ktap.render),
    "json": _of_printable(json.render),
}

__all__ = ["FORMATS", "KernelReport"]
