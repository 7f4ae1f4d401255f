# SPDX-License-Identifier: GPL-2.0-or-later
"""The report people read: the verdict on each kernel first, then what failed, then everything else."""

from collections.abc import Iterator, Sequence

from kvmharness.judging.verdict import Result, Verdict
from kvmharness.report import failures, summary
from kvmharness.report.kernel import KernelReport, Report
from kvmharness.report.lines import WIDTH, some, wrap

# How many scenarios are named that have one reason in common.
_NAMED = 5
# How many kernels a table names in full, and how wide those names may be together.
_MOST_TITLES, _WIDEST_TITLES = 2, 46


def render(report: Report, *, verbose: bool = False) -> str:
    """The whole report, its lines at most 78 columns wide where words allow.

    `verbose` leaves nothing out: every FAIL and XFAIL in full, every scenario in the table.
    """
    titles = _titles(report.kernels)
    blocks = [summary.lines(report, titles)]
    for kernel, title in zip(report.kernels, titles, strict=True):
        blocks += failures.blocks(kernel, title, verbose=verbose)
    blocks += _unjudged(report.kernels, titles, (Verdict.LOST, Verdict.INCONCLUSIVE), verbose=verbose)
    blocks += _notes(report.kernels, titles)
    blocks += [_table(report.kernels, titles, verbose=verbose), _alike(report.kernels, verbose=verbose)]
    blocks += _unpredicted(report.kernels, titles)
    blocks += _known(report.kernels, verbose=verbose)
    blocks += _unjudged(report.kernels, titles, (Verdict.SKIP,), verbose=verbose)
    blocks.append(_builds(report.kernels, titles))
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _titles(kernels: Sequence[KernelReport]) -> list[str]:
    """What each kernel is called: its title, or a letter where there are too many for a table."""
    titles = [each.title for each in kernels]
    if len(titles) <= _MOST_TITLES and sum(map(len, titles)) <= _WIDEST_TITLES:
        return titles
    return [_letter(place) for place in range(len(kernels))]


def _letter(place: int) -> str:
    """A to Z, then AA and so on."""
    more, last = divmod(place, 26)
    return (_letter(more - 1) if more else "") + chr(ord("A") + last)


def _rows(kernels: Sequence[KernelReport]) -> dict[str, list[str]]:
    """Each scenario's verdicts, a kernel after the other; "-" where it was not played."""
    names = dict.fromkeys(result.scenario for kernel in kernels for result in kernel.results)
    found = [{result.scenario: result.verdict.value for result in kernel.results} for kernel in kernels]
    return {name: [verdicts.get(name, "-") for verdicts in found] for name in names}


def _is_alike(verdicts: Sequence[str]) -> bool:
    """Whether a row says the same of every kernel, and nothing that its cause does not say better."""
    return len(set(verdicts)) == 1 and (verdicts[0] != "FAIL" or len(verdicts) == 1)


def _table(kernels: Sequence[KernelReport], titles: Sequence[str], *, verbose: bool) -> list[str]:
    """The scenarios that differ from kernel to kernel, or fail; all of them where `verbose`."""
    shown = {name: row for name, row in _rows(kernels).items() if verbose or not _is_alike(row)}
    if not shown:
        return []
    rows = [["", *titles], *([name, *row] for name, row in shown.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _alike(kernels: Sequence[KernelReport], *, verbose: bool) -> list[str]:
    """The scenarios that neither the table nor another part of the report names."""
    rows = {} if verbose else _rows(kernels)
    lines = []
    for verdict in ("PASS", "INCONCLUSIVE"):
        names = [name for name, row in rows.items() if _is_alike(row) and row[0] == verdict]
        if names:
            everywhere = f" on all {len(kernels)}" if len(kernels) > 1 else ""
            lines += wrap(f"{verdict}{everywhere}, {len(names)}: {', '.join(names)}", "", "  ")
    return lines


def _unjudged(
    kernels: Sequence[KernelReport], titles: Sequence[str], verdicts: Sequence[Verdict], *, verbose: bool
) -> Iterator[list[str]]:
    """What says nothing of a kernel, by reason, each with the kernels and scenarios it holds for."""
    for verdict in verdicts:
        found: dict[str, dict[str, list[str]]] = {}
        for kernel, title in zip(kernels, titles, strict=True):
            for result in kernel.results:
                if result.verdict is verdict:
                    found.setdefault(result.reason, {}).setdefault(title, []).append(result.scenario)
        lines = [verdict.value] if found else []
        for reason, by_kernel in found.items():
            lines += wrap(reason, "  ", "    ")
            same: dict[tuple[str, ...], list[str]] = {}
            for title, names in by_kernel.items():
                same.setdefault(tuple(names), []).append(title)
            for names_of_them, on in same.items():
                named = ", ".join(names_of_them) if verbose else some(names_of_them, _NAMED)
                on_them = f"{', '.join(on)}, " if len(kernels) > 1 else ""
                lines += wrap(f"{on_them}{len(names_of_them)}: {named}", "    ", "      ")
        yield lines


def _notes(kernels: Sequence[KernelReport], titles: Sequence[str]) -> Iterator[list[str]]:
    """What a kernel said on its console, or a lost machine last of all; how a host changed meanwhile."""
    for kernel, title in zip(kernels, titles, strict=True):
        if kernel.notes:
            yield [f"Notes on {title}", *(f"  | {note}" for note in kernel.notes)]


def _builds(kernels: Sequence[KernelReport], titles: Sequence[str]) -> list[str]:
    """Which builds of KVM's modules were played on."""
    lines = []
    for kernel, title in zip(kernels, titles, strict=True):
        if kernel.build_ids:
            lines += wrap(f"Build ids, {title}: {kernel.build_ids}", "", "  ")
    return lines


def _unpredicted(kernels: Sequence[KernelReport], titles: Sequence[str]) -> Iterator[list[str]]:
    """The contracts that are broken though the expected policy does not predict it: look into those."""
    for kernel, title in zip(kernels, titles, strict=True):
        found = [each for each in _xfailed(kernel) if not each.predicted]
        if found:
            why = f"contract broken; {kernel.expect} allows this but does not predict it"
            lines = wrap(f"XFAIL to look into, {title}: {why}", "", "  ")
            for result in found:
                lines += wrap(f"{result.scenario}: {result.contract}", "  ", "    ")
                lines += wrap(result.reason, "    ", "    ")
            yield lines


def _known(kernels: Sequence[KernelReport], *, verbose: bool) -> Iterator[list[str]]:
    """The contracts whose break the expected policy predicts; nobody has to look into those.

    Those that every kernel with it breaks come first.
    """
    found: dict[str, dict[str, Result]] = {}
    for result in (each for kernel in kernels for each in _xfailed(kernel) if each.predicted):
        found.setdefault(result.only_if, {})[result.scenario] = result
    more = "" if verbose else " (-v shows the readings)"
    for only_if, results in sorted(found.items()):
        who = f"every kernel with {kernels[0].expect}"
        who += f" breaks these contracts if its KVM {only_if}" if only_if else " breaks these contracts"
        yield [
            *wrap(f"XFAIL: {who}{more}", "", "  "),
            *(line for result in results.values() for line in _broken(result, verbose=verbose)),
        ]


def _broken(result: Result, *, verbose: bool) -> list[str]:
    """A contract that is broken as predicted, in one line unless `verbose`."""
    text = f"{result.scenario}: {result.contract}"
    if verbose:
        return [*wrap(text, "  ", "    "), *wrap(result.reason, "    ", "    ")]
    return [f"  {text if len(text) <= WIDTH - 2 else f'{text[: WIDTH - 5].rsplit(None, 1)[0]} ...'}"]


def _xfailed(kernel: KernelReport) -> list[Result]:
    return [each for each in kernel.results if each.verdict is Verdict.XFAIL]
