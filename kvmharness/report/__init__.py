# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports, by format."""

from collections.abc import Callable, Sequence

from kvmharness.report import json, ktap, text
from kvmharness.report.kernel import KernelReport

FORMATS: dict[str, Callable[[Sequence[KernelReport]], str]] = {
    "text": text.render,
    "ktap": ktap.render,
    "json": json.render,
}

__all__ = ["FORMATS", "KernelReport"]
