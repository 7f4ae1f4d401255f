# SPDX-License-Identifier: GPL-2.0-or-later
"""A strict reader of KTAP, by Documentation/dev-tools/ktap.rst alone: what it does not say is not allowed."""

import re
from dataclasses import dataclass, field

_PLAN = re.compile(r"1\.\.(\d+)")
_RESULT = re.compile(r"(not )?ok (\d+)(?: (?:- )?([^#]*?))?(?: # ?([A-Z]+)\b ?(.*))?")
_DIRECTIVES = ("SKIP", "TODO", "XFAIL", "TIMEOUT", "ERROR")
_DIAGNOSTIC = re.compile(r"# .*|#")


class KtapError(Exception):
    """A line that is not KTAP."""


@dataclass
class Test:
    """A result line: its name, whether it is ok, the directive with its reason, and its subtests."""

    name: str
    ok: bool
    directive: str = ""
    reason: str = ""
    subtests: list["Test"] = field(default_factory=list)


def read(text: str) -> list[Test]:
    """The outermost tests. KtapError for anything that is not in the specification."""
    if not text.endswith("\n"):
        raise KtapError("the last line has no end")
    lines = text.split("\n")[:-1]
    tests, rest = _level(lines, "")
    if rest:
        raise KtapError(f"nothing may come after the last result: {rest[0]!r}")
    return tests


def _level(lines: list[str], indent: str) -> tuple[list[Test], list[str]]:
    """The tests of one level, and the lines after it."""
    if not lines or lines[0] != f"{indent}KTAP version 1":
        raise KtapError(f"no version line but {lines[:1]}")
    lines, count, tests = lines[1:], -1, list[Test]()
    subtests: list[Test] = []
    while lines and lines[0].startswith(indent):
        line = lines[0][len(indent) :]
        if line.startswith("  KTAP version"):
            subtests, lines = _level(lines, indent + "  ")
            continue
        if _DIAGNOSTIC.fullmatch(line):
            pass
        elif plan := _PLAN.fullmatch(line):
            if count >= 0 or tests:
                raise KtapError("a second plan, or one after a result")
            count = int(plan[1])
        elif found := _RESULT.fullmatch(line):
            tests.append(_test(found, len(tests) + 1, subtests))
            subtests = []
        else:
            raise KtapError(f"neither result, plan nor diagnostic: {line!r}")
        lines = lines[1:]
    if count < 0:
        raise KtapError("no plan")
    if len(tests) > count:
        raise KtapError(f"{len(tests)} results of {count}")
    return tests, lines


def _test(found: re.Match[str], number: int, subtests: list[Test]) -> Test:
    """A result line, which has to be the one of this number."""
    name, directive, reason = found[3] or "", found[4] or "", found[5] or ""
    if int(found[2]) != number:
        raise KtapError(f"out of order: {found[0]!r}")
    if directive and directive not in _DIRECTIVES:
        raise KtapError(f"no directive: {found[0]!r}")
    if "#" in reason:
        raise KtapError(f"a second directive: {found[0]!r}")
    return Test(name.strip(), not found[1], directive, reason, subtests)
