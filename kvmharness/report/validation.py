# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch's effect, before and after it side by side, as a text fit for a mail."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kvmharness.judging.difference import Comparison
from kvmharness.judging.probe import PROBES
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.printable import printable
from kvmharness.report import failures
from kvmharness.report.difference import differences
from kvmharness.report.kernel import KernelReport
from kvmharness.report.lines import shortened, wrap
from kvmharness.scenarios import SCENARIOS

WIDTH = 72


_NOT_COMPARED = Comparison(0, ())


@dataclass(frozen=True, slots=True)
class Validation:
    """The same scenarios on one machine, without the patch and with it, and what the two kernels do
    differently."""

    before: KernelReport
    after: KernelReport
    comparison: Comparison = _NOT_COMPARED

    def pairs(self) -> list[tuple[Result, Result]]:
        """Each scenario's results, before and after, and those of the probe's scripts that fail in either."""
        before = {result.scenario: result for result in self.before.results}
        after = {result.scenario: result for result in self.after.results}
        for name in PROBES:
            one, other = before.get(name), after.get(name)
            if one and not other:
                after[name] = Result(name, Verdict.PASS, one.contract)
            elif other and not one:
                before[name] = Result(name, Verdict.PASS, other.contract)
        return [(before[name], result) for name, result in after.items() if name in before]

    @property
    def fixed(self) -> list[str]:
        """The scenarios whose contract is kept with the patch alone."""
        return [after.scenario for before, after in self.pairs() if before.kept is False and after.kept]

    @property
    def broken(self) -> list[str]:
        """The scenarios whose contract is kept without the patch alone."""
        return [after.scenario for before, after in self.pairs() if before.kept and after.kept is False]


def render(
    validations: Sequence[Validation],
    patches: Sequence[str],
    command: Sequence[str],
    unfinished: Sequence[str] = (),
    means: Sequence[str] = (),
) -> str:
    """The whole text, at most 72 columns wide where words allow.

    `patches` are what was applied, `command` are the words of what does it all again, `unfinished` what was
    not played on to the end; `means` say by what it was tested, a line each.
    """
    tested = [f"Tested with kvmharness: {printable(patch)}" for patch in patches]
    lines = [line for each in tested for line in _wrap(each, "", "  ")]
    if unfinished:
        lines += _wrap(f"CUT SHORT: {printable(', '.join(unfinished))} was interrupted", "", "  ")
    for validation in validations:
        printed = replace(validation, before=validation.before.printable, after=validation.after.printable)
        lines += ["", *_one(printed)]
    if means:
        lines += ["", *(line for each in means for line in _wrap(printable(each), "", "  "))]
    lines += ["", "To reproduce:", *map(printable, to_reproduce(command)), "", "Tested-by:"]
    return "\n".join(lines) + "\n"


def to_reproduce(words: Sequence[str]) -> list[str]:
    """A command for a shell, indented, its lines joined by backslashes."""
    lines = ["  "]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) + len(" \\") > WIDTH and lines[-1].strip():
            lines[-1] += "\\"
            lines.append("    ")
        lines[-1] += f"{word} "
    return [line.rstrip(" ") for line in lines]


def _one(validation: Validation) -> Iterator[str]:
    before, after = validation.before, validation.after
    yield from _wrap(f"{before.kernel} ({before.release}), emulated machine {before.machine}", "", "  ")
    yield from _changes(validation)
    for when, report in (("before", before), ("after", after)):
        said = report.identity.with_keys if report.identity else "nothing is known of what it behaves as"
        yield from _wrap(f"{when}: {said}", "", "  ")
    yield from _consequences(validation)
    yield ""
    yield from _wrap(_follows(after), "", "  ")
    yield from differences(validation.comparison.differences, ("before", "after"), WIDTH)
    yield ""
    yield from _table(validation, f"as {after.expect}")
    yield from _lacks(after)
    yield from _failures(after)
    for when, report in (("before", before), ("after", after)):
        lost = dict.fromkeys(result.reason for result in report.results if result.verdict is Verdict.LOST)
        for reason in lost:
            yield from _wrap(f"{when}: the machine was lost: {reason}", "", "  ")
        yield from (f"  | {note}" for note in report.notes)


def _changes(validation: Validation) -> Iterator[str]:
    """What a reviewer wants to know first: what the patch changes, repairs, and breaks (by how much)."""
    found = validation.comparison
    if found.compared:
        yield f"the patch changes {len(found.differences)} of {found.compared} scenarios"
    open_ones = [after.scenario for before, after in validation.pairs() if None in (before.kept, after.kept)]
    yield from _wrap(f"contracts fixed by the patch: {', '.join(validation.fixed) or 'none'}", "", "  ")
    by = {after.scenario: f" ({after.by})" if after.by else "" for _, after in validation.pairs()}
    broken = ", ".join(name + by[name] for name in validation.broken)
    yield from _wrap(f"contracts broken by the patch: {broken or 'none'}", "", "  ")
    if open_ones:
        yield f"contracts that stay open, before or after: {len(open_ones)} of {len(validation.pairs())}"


def _consequences(validation: Validation) -> Iterator[str]:
    """What it means for people's VMs that contracts are broken."""
    hurt = (SCENARIOS[name].consequence for name in validation.broken if name in SCENARIOS)
    for consequence in dict.fromkeys(hurt):
        yield from _wrap(f"with the patch: {consequence}", "  ", "    ")


def _failures(after: KernelReport) -> Iterator[str]:
    """What does not follow the rule, by cause."""
    for group in failures.by_cause([each for each in after.results if each.verdict is Verdict.FAIL]):
        yield ""
        yield from failures.in_a_mail(group, after.expect, WIDTH)


def _table(validation: Validation, rule: str) -> Iterator[str]:
    """A row for each scenario whose outcome changed or does not follow the rule, with its contract below it;
    how many others there are."""
    rows = [("", "before", "after", rule)]
    contracts = [""]
    same: dict[str, int] = {}
    for before, after in validation.pairs():
        was, is_now, follows = _outcome(before), _outcome(after), _conforms(after)
        if was == is_now and after.verdict is not Verdict.FAIL:
            same[is_now] = same.get(is_now, 0) + 1
        else:
            rows.append((after.scenario, was, is_now, follows))
            contracts.append(after.contract)
    if len(rows) > 1:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row, contract in zip(rows, contracts, strict=True):
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            if contract:
                yield shortened(f"    {contract}", WIDTH)
    if same:
        counted = ", ".join(f"{count} {outcome}" for outcome, count in same.items())
        yield from _wrap(f"the same before and after: {counted}", "", "  ")


def _lacks(after: KernelReport) -> Iterator[str]:
    """What the machine lacks for other scenarios: so far the test went, and no farther."""
    lacks: dict[str, int] = {}
    for each in after.results:
        if each.verdict is Verdict.SKIP:
            lacks[each.reason] = lacks.get(each.reason, 0) + 1
    for reason, count in lacks.items():
        yield from _wrap(f"not tested ({count}): {reason}", "", "  ")


def _outcome(result: Result) -> str:
    """The status of a scenario's contract."""
    if result.kept is None:
        return result.verdict.value.lower() if result.verdict is not Verdict.FAIL else "open"
    return "kept" if result.kept else "broken"


def _conforms(result: Result) -> str:
    return {True: "yes", False: "NO", None: "-"}[result.conforms]


def _follows(after: KernelReport) -> str:
    asked = [result for result in after.results if result.conforms is not None]
    against = [result.scenario for result in asked if not result.conforms]
    if not asked:
        return f"whether it follows {after.expect}: not known"
    if against:
        return f"does not follow {after.expect}: {', '.join(against)}"
    return f"follows {after.expect} in all {len(asked)} scenarios that could be judged"


def _wrap(text: str, first: str, rest: str) -> list[str]:
    return wrap(text, first, rest, WIDTH)
