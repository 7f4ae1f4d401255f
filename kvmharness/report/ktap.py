# SPDX-License-Identifier: GPL-2.0-or-later
"""KTAP, the kernel's own test format (Documentation/dev-tools/ktap.rst): a subtest per kernel."""

from collections.abc import Iterator, Sequence

from kvmharness.judging.verdict import Result, Verdict, exit_status
from kvmharness.report.kernel import KernelReport

_DIRECTIVES = {
    Verdict.XFAIL: "XFAIL",
    Verdict.SKIP: "SKIP",
    Verdict.INCONCLUSIVE: "SKIP inconclusive:",
    Verdict.LOST: "ERROR",
}


def render(reports: Sequence[KernelReport]) -> str:
    """The report; a kernel is ok when nothing failed on it and it was not lost."""
    return "\n".join(_lines(reports)) + "\n"


def _lines(reports: Sequence[KernelReport]) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"1..{len(reports)}"
    for number, report in enumerate(reports, 1):
        yield "  KTAP version 1"
        yield f"  # Subtest: {report.title}"
        yield f"  # release {report.release}"
        yield f"  # expected {report.expect}"
        if report.identity:
            yield f"  # {report.identity.text}"
        yield f"  1..{len(report.results)}"
        for place, result in enumerate(report.results, 1):
            yield from _result_lines(place, result)
        yield from (f"  # {note}" for note in report.notes)
        status = exit_status(report.results)
        skip = " # SKIP nothing could be judged" if status == 4 else ""
        yield f"{'ok' if status in (0, 4) else 'not ok'} {number} {report.title}{skip}"


def _result_lines(place: int, result: Result) -> Iterator[str]:
    if result.verdict is Verdict.FAIL:
        yield f"  # step {result.step}: {result.reason}"
    ok = "not ok" if result.verdict in (Verdict.FAIL, Verdict.LOST) else "ok"
    directive = _DIRECTIVES.get(result.verdict)
    yield f"  {ok} {place} {result.scenario}" + (f" # {directive} {result.reason}" if directive else "")
