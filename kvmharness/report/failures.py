# SPDX-License-Identifier: GPL-2.0-or-later
"""A FAIL as labelled lines, and the FAILs of a kernel grouped by their cause."""

from collections.abc import Iterator, Sequence

from kvmharness.judging.verdict import Result, Verdict
from kvmharness.report.kernel import KernelReport
from kvmharness.report.lines import labelled, wrap
from kvmharness.scenarios import SCENARIOS


def heading(result: Result, title: str = "") -> str:
    """Which scenario failed, on which kernel, and at which step."""
    on = f", {title}" if title else ""
    step = f", step {result.step}" if result.step else ""
    done = f": {result.mismatch.done}" if result.mismatch else ""
    return f"{result.scenario}{on}{step}{done}"


def pieces(result: Result, expect: str) -> list[tuple[str, str]]:
    """What there is to say of a FAIL, each with its label; "" where there is nothing."""
    mismatch = result.mismatch
    if mismatch is None:
        return [_contract(result), ("reason", "" if result.reason == result.finding else result.reason)]
    return [
        _contract(result),
        ("observed", mismatch.observed),
        (f"expected ({expect})", mismatch.expected),
        ("because", mismatch.because),
        ("consistent with", ", ".join(result.consistent_with) or "no known policy"),
    ]


def _contract(result: Result) -> tuple[str, str]:
    if result.kept is None:
        return "contract open", result.finding
    return ("contract kept", result.contract) if result.kept else ("contract broken", result.finding)


def blocks(report: KernelReport, title: str, *, verbose: bool) -> Iterator[list[str]]:
    """The FAILs of a kernel that is called `title`, a block for each cause.

    The first of a cause is shown in full, the others by name; with `verbose` all are shown in full.
    """
    told: set[str] = set()
    for group in by_cause([each for each in report.results if each.verdict is Verdict.FAIL]):
        for result in group if verbose else group[:1]:
            lines = wrap(f"FAIL {heading(result, title)}", "", "  ")
            lines += labelled(pieces(result, report.expect))
            means = _consequence(result)
            lines += labelled([("consequence", "" if means in told else means)])
            told.add(means)
            if not verbose and len(group) > 1:
                lines += wrap(f"Same cause, {_same(group[1:])} (-v shows each)", "  ", "    ")
            yield lines


def by_cause(failed: Sequence[Result]) -> list[list[Result]]:
    """FAILs in groups: by the rule that was expected to apply, and by the policies that explain them."""
    groups: dict[object, list[Result]] = {}
    for result in failed:
        rules = result.mismatch.rules if result.mismatch else ()
        key = (rules or result.reason, result.consistent_with)
        groups.setdefault(key, []).append(result)
    return sorted(groups.values(), key=len, reverse=True)


def _same(others: Sequence[Result]) -> str:
    names = [f"{each.scenario}{' (contract kept)' if each.kept else ''}" for each in others]
    return f"{len(others)} more FAIL: {', '.join(names)}"


def _consequence(result: Result) -> str:
    """What a broken contract means for people's VMs."""
    scenario = SCENARIOS.get(result.scenario)
    return scenario.consequence if scenario and result.kept is False else ""


def in_a_mail(group: Sequence[Result], expect: str, width: int) -> Iterator[str]:
    """The FAILs of one cause: the first as labelled lines below its heading, the others by name."""
    yield from wrap(f"FAIL {heading(group[0])}", "", "  ", width)
    yield from labelled(pieces(group[0], expect), "  ", width)
    if len(group) > 1:
        yield from wrap(f"Same cause, {_same(group[1:])}", "  ", "    ", width)
