# SPDX-License-Identifier: GPL-2.0-or-later
"""The page: the verdict on each kernel, what failed with pictures, the matrix of verdicts, then the rest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import jinja2
from markupsafe import Markup

from kvmharness.judging.verdict import JUDGED, Result, Verdict
from kvmharness.model.predict import Prediction, first_difference
from kvmharness.report import failures, summary
from kvmharness.report.html import timeline
from kvmharness.report.html.drawing import draw
from kvmharness.report.html.panels import Panel, panel
from kvmharness.report.html.timeline import Predicted
from kvmharness.report.kernel import KernelReport, Report
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.scenarios.predicted import contract_status

_SHOWN = (Verdict.FAIL, Verdict.XFAIL)


@dataclass(frozen=True, slots=True)
class Section:
    """A scenario with a panel for each kernel that is shown; `same` says which others fail for one cause."""

    name: str
    contract: str
    consequence: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A scenario's verdict on each kernel ("" where it was not played); `is_alike` where all are the same."""

    name: str
    verdicts: tuple[str, ...]
    has_section: bool
    is_alike: bool


def render(report: Report) -> str:
    """The report as one page."""
    failed, known, others = _by_kind(report.kernels)
    sections = {"failed": failed, "known": known, "others": others}
    shown = {name: list(map(_section_of(report.kernels), names)) for name, names in sections.items()}
    rows = _rows(report.kernels, {*failed, *known, *others})
    return _page(
        "report.html.jinja",
        report=report,
        heads=[_head(kernel) for kernel in report.kernels],
        rows=[each for each in rows if not each.is_alike],
        alike=_alike(rows),
        **shown,
    )


def render_predictions(
    predicted: Sequence[tuple[Scenario, Sequence[Prediction]]],
) -> str:
    """Predictions as one page: the policies beside each other, a picture for each scenario."""
    shown = []
    for scenario, predictions in predicted:
        letters = [chr(ord("A") + place) for place in range(len(predictions))]
        ways = [
            (letter, Predicted(tuple(each.policies), timeline.of(each.trace, scenario.host)))
            for letter, each in zip(letters, predictions, strict=True)
        ]
        said = f"the TSCs of {scenario.name} under each policy"
        differ = first_difference(predictions)
        columns = list(zip(letters, predictions, strict=True))
        shown.append(
            {
                "scenario": scenario,
                "svg": Markup(draw(None, ways, said)),
                "columns": columns,
                "contracts": [contract_status(scenario, each.trace).value for each in predictions],
                "differ": differ,
                "steps": [
                    (
                        operation.in_words(),
                        [each.effects[number] if number < len(each.effects) else "-" for each in predictions],
                    )
                    for number, operation in enumerate(scenario.script)
                ],
                "reasons": [
                    (letter, reason)
                    for letter, each in columns
                    for reason in (each.reasons[differ - 1] if differ else ())
                ],
            }
        )
    return _page("prediction.html.jinja", predictions=shown)


def _page(name: str, **values: object) -> str:
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("kvmharness.report.html", "templates")
    found = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.undefined = jinja2.StrictUndefined
    return found


def _head(kernel: KernelReport) -> tuple[str, str, str]:
    """A kernel's title, its verdict, and the sentence about it."""
    return kernel.title, summary.overall(kernel), summary.sentence(kernel).replace("\N{NO-BREAK SPACE}", " ")


def _by_kind(kernels: Sequence[KernelReport]) -> tuple[list[str], list[str], list[str]]:
    """The scenarios that fail on some kernel, the largest cause first; those that are XFAIL there; and those
    whose verdicts differ otherwise."""
    groups = [
        group
        for kernel in kernels
        for group in failures.by_cause([each for each in kernel.results if each.verdict is Verdict.FAIL])
    ]
    failed = list(dict.fromkeys(each.scenario for group in groups for each in group))
    results = [each for kernel in kernels for each in kernel.results]
    xfail = dict.fromkeys(each.scenario for each in results if each.verdict is Verdict.XFAIL)
    known = [name for name in xfail if name not in failed]
    verdicts: dict[str, set[Verdict]] = {}
    for each in results:
        verdicts.setdefault(each.scenario, set()).add(each.verdict)
    differ = [name for name, found in verdicts.items() if len(found) > 1 and len(found & JUDGED) > 1]
    return failed, known, [name for name in differ if name not in failed and name not in known]


def _section_of(kernels: Sequence[KernelReport]) -> "_Sections":
    return _Sections(kernels)


@dataclass(frozen=True, slots=True)
class _Sections:
    """Makes the section of a scenario: kernels on which it fails, and one on which it does not."""

    kernels: Sequence[KernelReport]

    def __call__(self, name: str) -> Section:
        found = [(kernel, result) for kernel in self.kernels for result in _results(kernel, name)]
        shown = [each for each in found if each[1].verdict in _SHOWN]
        shown += [each for each in found if each[1].verdict is Verdict.PASS][:1]
        scenario = SCENARIOS.get(name)
        contract = next((result.contract for _, result in found if result.contract), "")
        consequence = scenario.consequence if scenario else ""
        broken = any(result.kept is False for _, result in found)
        return Section(name, contract, consequence if broken else "", tuple(panel(*each) for each in shown))


def _results(kernel: KernelReport, name: str) -> Iterable[Result]:
    return (each for each in kernel.results if each.scenario == name)


def _rows(kernels: Sequence[KernelReport], shown: set[str]) -> list[Row]:
    names = dict.fromkeys(each.scenario for kernel in kernels for each in kernel.results)
    found = [{each.scenario: each.verdict.value for each in kernel.results} for kernel in kernels]
    rows = []
    for name in names:
        verdicts = tuple(each.get(name, "") for each in found)
        rows.append(Row(name, verdicts, name in shown, len({*verdicts}) == 1 and name not in shown))
    return rows


def _alike(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The scenarios that have one verdict on all kernels, by that verdict."""
    found: dict[str, list[str]] = {}
    for each in rows:
        if each.is_alike:
            found.setdefault(each.verdicts[0], []).append(each.name)
    return found
