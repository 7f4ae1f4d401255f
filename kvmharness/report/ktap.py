# SPDX-License-Identifier: GPL-2.0-or-later
"""KTAP, the kernel's own test format (Documentation/dev-tools/ktap.rst).

The scenarios of one kernel are the tests. Of several kernels each is a test with subtests, though
many parsers see only the outermost level.
"""

from collections.abc import Iterator

from kvmharness.judging.verdict import Result, Verdict, exit_status
from kvmharness.report import failures
from kvmharness.report.kernel import KernelReport, Report

_DIRECTIVES = {
    Verdict.XFAIL: "XFAIL",
    Verdict.SKIP: "SKIP",
    Verdict.INCONCLUSIVE: "SKIP inconclusive:",
    Verdict.LOST: "ERROR",
}


def render(report: Report) -> str:
    """The report; a kernel is ok when nothing failed on it and it was not lost.

    The plan counts the kernels that a run that was cut short did not come to: a parser misses them.
    """
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "KTAP version 1"
    if len(report.kernels) == 1 and not report.missing:
        # No "Subtest": the kernel's own parser then looks for the result line of a parent.
        yield f"# {report.kernels[0].title}"
        yield from _of_kernel(report.kernels[0])
        return
    yield f"1..{len(report.kernels) + report.missing}"
    if report.cut_short:
        yield f"# CUT SHORT: {report.cut_short}"
    for number, kernel in enumerate(report.kernels, 1):
        yield "  KTAP version 1"
        yield f"  # Subtest: {kernel.title}"
        yield from (f"  {line}" for line in _of_kernel(kernel))
        status = exit_status(kernel.results)
        skip = " # SKIP nothing could be judged" if status == 4 else ""
        yield f"{'ok' if status in (0, 4) else 'not ok'} {number} {_description(kernel.title)}{skip}"


def _of_kernel(kernel: KernelReport) -> Iterator[str]:
    """What was played on a kernel, after the lines with the version and its name."""
    yield f"# release {kernel.release}"
    yield f"# expected {kernel.expect}"
    if kernel.build_ids:
        yield f"# build ids: {kernel.build_ids}"
    if kernel.ignores_writes:
        yield f"# {kernel.ignores_writes}"
    if kernel.identity:
        yield f"# {kernel.identity.text}"
    yield f"1..{len(kernel.results)}"
    for place, result in enumerate(kernel.results, 1):
        yield from _result_lines(place, result, kernel.expect)
    yield from (f"# {note}" for note in kernel.notes)


def _result_lines(place: int, result: Result, expect: str) -> Iterator[str]:
    if result.verdict is Verdict.FAIL:
        yield f"# {failures.heading(result)}"
        yield from (f"#   {label}: {text}" for label, text in failures.pieces(result, expect) if text)
    ok = "not ok" if result.verdict in (Verdict.FAIL, Verdict.LOST) else "ok"
    directive = _DIRECTIVES.get(result.verdict)
    because = f" # {directive} {_description(result.reason)}" if directive else ""
    yield f"{ok} {place} {result.scenario}{because}"


def _description(text: str) -> str:
    """A text without the sign by which parsers find a directive."""
    return text.replace("#", "")
