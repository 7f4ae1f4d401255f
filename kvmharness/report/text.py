# SPDX-License-Identifier: GPL-2.0-or-later
"""The report people read: a table, what is behind each verdict that is not PASS, what it means."""

import textwrap
from collections.abc import Iterator, Sequence

from kvmharness.judging.verdict import JUDGED, Result, Verdict
from kvmharness.report.kernel import KernelReport
from kvmharness.scenarios import SCENARIOS

WIDTH = 78

# How many scenarios are named that have one reason in common; the table has them all.
_NAMED = 5


def render(reports: Sequence[KernelReport]) -> str:
    """The whole report, its lines at most 78 columns wide where words allow."""
    return "\n".join([*_table(reports), *_details(reports), *_meaning(reports)]) + "\n"


def _table(reports: Sequence[KernelReport]) -> Iterator[str]:
    names = list(dict.fromkeys(result.scenario for report in reports for result in report.results))
    columns = [[""] * 2 + names]
    for report in reports:
        verdicts = {result.scenario: result.verdict.value for result in report.results}
        columns.append([report.title, report.release] + [verdicts.get(name, "-") for name in names])
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _details(reports: Sequence[KernelReport]) -> Iterator[str]:
    for report in reports:
        told: set[str] = set()
        for result in report.results:
            if result.verdict in (Verdict.PASS, Verdict.XFAIL) or result.reason in told:
                continue
            told.add(result.reason)
            yield ""
            step = f", step {result.step}" if result.step else ""
            same = [
                each.scenario
                for each in report.results
                if (each.verdict, each.reason) == (result.verdict, result.reason)
            ]
            names = same if len(same) <= _NAMED + 1 else [*same[:_NAMED], f"and {len(same) - _NAMED} more"]
            yield from _wrap(f"{result.verdict.value} {', '.join(names)}, {report.title}{step}", "", "  ")
            if result.verdict is Verdict.FAIL:
                yield from _wrap(f"contract: {result.contract}", "  ", "    ")
                if result.finding and result.finding != result.reason:
                    yield from _wrap(
                        f"{'open' if result.kept is None else 'broken'}: {result.finding}", "  ", "    "
                    )
            yield from _wrap(result.reason, "  ", "  ")
        yield from _known(report)
        for note in report.notes:
            yield f"  | {note}"


def _known(report: KernelReport) -> Iterator[str]:
    """The contracts that the expected policy itself breaks; nobody has to look into those.

    And before them those that it is not known to break, but does not rule out.
    """
    for foretold, why in (
        (False, f"broken, which {report.expect} leaves room for but does not make known"),
        (True, f"broken on every kernel with {report.expect}"),
    ):
        known = [
            each for each in report.results if each.verdict is Verdict.XFAIL and each.foretold is foretold
        ]
        if known:
            yield ""
            yield from _wrap(f"XFAIL, {report.title}: {why}", "", "  ")
        for result in known:
            yield from _wrap(f"{result.scenario}: {result.contract}", "  ", "    ")
            if not foretold:
                yield from _wrap(result.reason, "    ", "    ")


def _meaning(reports: Sequence[KernelReport]) -> Iterator[str]:
    yield ""
    yield "In plain words"
    for report in reports:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts().items())
        yield from _wrap(f"{report.title}: {counts}, judged by {report.expect}.", "  ", "    ")
        if report.identity:
            yield from _wrap(f"It {report.identity.text}.", "    ", "    ")
        yield from _wrap(_words(report.results), "    ", "    ")


def _words(results: Sequence[Result]) -> str:
    verdicts = {result.verdict for result in results}
    failed = [result for result in results if result.verdict is Verdict.FAIL]
    if failed:
        told = dict.fromkeys(
            SCENARIOS[each.scenario].consequence
            for each in failed
            if each.scenario in SCENARIOS and each.kept is False
        )
        what = "This kernel does not do what was expected of it."
        return " ".join([what, *told])
    if Verdict.LOST in verdicts:
        return "The machine was lost, so nothing is known about this kernel."
    if not verdicts & JUDGED:
        return "Nothing could be judged here: this says nothing about the kernel, good or bad."
    said = "It does what was expected of it"
    said += ", as far as that could be judged." if verdicts - JUDGED else "."
    if any(each.verdict is Verdict.XFAIL and each.foretold for each in results):
        said += " XFAIL: userspace does not get what it is entitled to, as on every kernel with this rule."
    if not all(each.foretold for each in results):
        said += " But it breaks a contract that the rule is not known to break: look into that."
    return said


def _wrap(text: str, first: str, rest: str) -> list[str]:
    wrapper = textwrap.TextWrapper(WIDTH, first, rest, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)
