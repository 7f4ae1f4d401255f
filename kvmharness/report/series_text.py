# SPDX-License-Identifier: GPL-2.0-or-later
"""A series, patch by patch, as a text for a terminal or a mail."""

from collections.abc import Iterator, Sequence

from kvmharness.printable import printable
from kvmharness.report.difference import differences
from kvmharness.report.lines import WIDTH, some, wrap
from kvmharness.report.series import Effect, Outcome, Row, SeriesReport, Turn, behaves_as, turns
from kvmharness.report.validation import to_reproduce

# Where a row's text begins: after its number.
_INDENT = "     "
# How many names a line of the text has, unless all are asked for.
_NAMED = 8
_ALL = 10**6


def render(report: SeriesReport, command: Sequence[str], *, verbose: bool = False) -> str:
    """The whole text, at most 78 columns wide where words allow; `command` are the words that do it again.

    `verbose` leaves out no name, and shows each difference.
    """
    most = _ALL if verbose else _NAMED
    lines = [*_head(report)]
    for row in report.rows:
        lines += ["", *_row(row, report, most, verbose=verbose)]
    lines += [*_turns(report, most)]
    lines += ["", "To reproduce:", *to_reproduce(command)]
    return "".join(f"{printable(line)}\n" for line in lines)


def _head(report: SeriesReport) -> Iterator[str]:
    patches = "1 patch" if report.count == 1 else f"{report.count} patches"
    yield from wrap(f"{report.kernel} ({report.release}) with {patches}, one after the other", "", "  ")
    if report.cut_short:
        yield from wrap(f"CUT SHORT: {report.cut_short}", "", "  ")
    for doubt in report.doubts:
        yield from wrap(f"keep in mind: {doubt}", "", "  ")
    for before in report.before:
        known = behaves_as(before) or "nothing that is known"
        yield from wrap(f"{_on(before.machine, report)}without the series: behaves as {known}", "", "  ")


def _on(machine: str, report: SeriesReport) -> str:
    """Words that say which machine is meant, where there are several."""
    return f"{machine}: " if len(report.before) > 1 else ""


def _row(row: Row, report: SeriesReport, most: int, *, verbose: bool) -> Iterator[str]:
    yield from wrap(f"{row.number:>3}  {row.title or row.origin}", "", _INDENT)
    yield from _indented(_came(row, report))
    if row.left_out and row.outcome is not Outcome.PASSED_OVER:
        without = some(row.left_out, _NAMED)
        yield from _indented(f"without its change of {without}: KVM's modules are not made of that")
    for doubt in row.doubts:
        yield from _indented(f"keep in mind: {doubt}")
    if row.outcome is Outcome.PLAYED:
        for name in report.machines:
            effect = next((each for each in row.effects if each.after.machine == name), None)
            on = _on(name, report)
            if effect is None:
                yield from _indented(f"{on}this machine's modules unchanged, byte for byte")
            else:
                for text in _effect(effect, most):
                    yield from _indented(on + text)
            if effect and verbose:
                found = differences(effect.comparison.differences, ("before", "after"), WIDTH - len(_INDENT))
                yield from (f"{_INDENT}{line}".rstrip() for line in found)


def _indented(text: str) -> list[str]:
    return wrap(text, _INDENT, _INDENT + "  ")


def _came(row: Row, report: SeriesReport) -> str:
    """The result, in words."""
    beneath = f" (with {_numbers(row.beneath)}, which do not build without it)" if row.beneath else ""
    return {
        Outcome.PASSED_OVER: f"passed over: KVM's modules are not made of {some(row.left_out, _NAMED)}",
        Outcome.REFUSED: f"does not apply: {row.reason}; later patches are built without it",
        Outcome.NOT_PLAYED: f"builds, but cannot be played: {row.reason}",
        Outcome.UNCHANGED: f"builds; modules unchanged, byte for byte{beneath}",
        Outcome.PLAYED: f"builds; modules changed{beneath}",
        Outcome.NOT_BUILT: _not_built(row, report),
    }[row.outcome]


def _not_built(row: Row, report: SeriesReport) -> str:
    if row.like:
        return f"does not build, for the same error as patch {row.like}"
    same = [each.number for each in report.rows if each.like == row.number]
    rest = f"; nor do {_numbers(same)}, built with it applied" if same else ""
    return f"does not build: {row.reason}{rest}"


def _numbers(numbers: Sequence[int]) -> str:
    return f"patch{'es' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _effect(effect: Effect, most: int) -> Iterator[str]:
    """What a patch does on a machine, a line each."""
    if effect.lost:
        yield f"the machine was lost: {effect.lost}"
        return
    found = effect.comparison
    with_patch = f"with patch {effect.since}" if effect.since else "without the series"
    against = "" if effect.since is None else f", compared with the kernel {with_patch}"
    if not effect.changes_something:
        compared = f" in {found.compared} scenarios" if found.compared else ""
        yield f"no difference was observed{compared}{against}; behaves as {effect.behaves_as}, as before"
        return
    was = f" (before: {effect.behaved_as})" if effect.behaved_as != effect.behaves_as else ", as before"
    yield f"behaves as {effect.behaves_as or 'nothing that is known'}{was}"
    yield f"contracts newly kept: {some(effect.newly_kept, most) or 'none'}"
    by = {each.scenario: f" ({each.by})" if each.by else "" for each in effect.after.results}
    broken = [name + by[name] for name in effect.newly_broken]
    yield f"contracts newly broken: {some(broken, most) or 'none'}"
    for kept, word in ((True, "kept"), (False, "broken")):
        names = [name for name, is_kept in effect.first_judged.items() if is_kept is kept]
        if names:
            yield f"judged for the first time, and {word}: {some(names, most)}"
    for can_do, word in ((found.only_second, "from here on"), (found.only_first, "no longer so")):
        for each in can_do:
            yield f"{word}: {each}"
    if found.compared:
        yield f"does something else in {len(found.differences)} of {found.compared} scenarios{against}"


def _turns(report: SeriesReport, most: int) -> Iterator[str]:
    """The first patch that changes each thing."""
    found = turns(report)
    if not found:
        changed = any(row.effects for row in report.rows)
        yield from ("", f"No patch changes {'what was observed' if changed else 'the modules'}")
        return
    yield from ("", "First patch to change each:")
    grouped: dict[tuple[str, str], list[str]] = {}
    for machine, what, story in _stories(found):
        grouped.setdefault((machine, story), []).append(what)
    for (machine, story), names in grouped.items():
        yield from wrap(f"{_on(machine, report)}{some(names, most)}: {story}", "  ", "    ")


def _stories(found: Sequence[Turn]) -> Iterator[tuple[str, str, str]]:
    """Each thing that changes, with all the rows at which it does."""
    seen: dict[tuple[str, str], list[Turn]] = {}
    for turn in found:
        seen.setdefault((turn.machine, turn.what), []).append(turn)
    for (machine, what), several in seen.items():
        first, *rest = (f"{turn.now} with {turn.number}" for turn in several)
        yield machine, what, ", ".join([first, *rest])
