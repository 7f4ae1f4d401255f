# SPDX-License-Identifier: GPL-2.0-or-later
"""The survey of all rules as a page of Markdown. `scripts/rules-page` writes it to docs/rules.md."""

from collections.abc import Iterator
from textwrap import fill

from kvmharness.report import rules as parts
from kvmharness.survey.rules import Rule, Survey

WIDTH = 110

_INTRO = """\
# Which rule would be best?

*Made by `scripts/rules-page`; a change here is lost.*

The rule of every kernel breaks some contracts: VMMs do things that no rule can distinguish, and KVM has to
guess. This page holds all rules that the keys of a policy can state ([policies.md](policies.md)) against
every contract of the catalogue ([scenarios.md](scenarios.md)), on the model alone. `kvmharness rules` makes
the same table, with a patch's rule among them if `--policy-file` states one:

    kvmharness rules                                     all keys
    kvmharness rules --key user_zero --key snap_records  these alone, the others as in mainline-6.7
    kvmharness rules --key window_ns=500000000,2000000000
    kvmharness rules --policy-file mine.toml             where mine stands
    kvmharness rules young-restore qemu-pair-old         against these contracts alone
    kvmharness rules --format json                       every rule with all that it breaks

The model asks a policy for a key only where it matters. So a scenario is played once for each way that it can
go, not once for each combination. Policies that predict the same in every scenario are one *rule* here. A
rule *beats* another if it breaks some of the contracts that the other breaks, and none besides. A contract
that the model leaves open counts as neither kept nor broken. A KVM that ignores writes is left out: it has no
rule for them. The numbers count contracts, and not how many users each of them matters to.

In JSON `contracts` holds the contracts and `rules` every rule, those that break the fewest first: which
contracts it `breaks`, which are `left_open`, whether another one beats it (`beaten`), the `policies` that
have it, how many `combinations` come to it, and what it is in words of a policy file (`like`, and the keys
that differ in `but`). `kept_by_no_rule` names contracts, `kept_together_by_no_rule` pairs of them.
"""


def page(survey: Survey) -> str:
    """The whole page."""
    blocks = [
        _INTRO,
        _fill(parts.summary(survey)),
        "\n## Rules that no other beats\n",
        *_unbeaten(survey),
        "\n## Where today's kernels and the proposals stand\n",
        *_policies(survey),
        "\n## What they break, and whom that hurts\n",
        *_contracts(survey),
        "\n## Contracts that no rule keeps\n",
        _fill(", ".join(map(_link, survey.never_kept)) or "None."),
        "\n## Contracts that no rule keeps together\n",
        *_conflicts(survey),
    ]
    return "\n".join(blocks).rstrip() + "\n"


def _unbeaten(survey: Survey) -> Iterator[str]:
    yield "| | breaks | rule |"
    yield "|---|---|---|"
    for number, alike in enumerate(survey.unbeaten, 1):
        rules = "; or ".join(map(_code, alike[:_MOST_RULES]))
        more = f"; or one of {len(alike) - _MOST_RULES} others" if len(alike) > _MOST_RULES else ""
        yield f"| {number} | {len(alike[0].broken)} | {rules}{more} |"


_MOST_RULES = 3


def _code(rule: Rule) -> str:
    return parts.in_words(rule, quote="`")


def _policies(survey: Survey) -> Iterator[str]:
    yield "| | policy | breaks | beaten by |"
    yield "|---|---|---|---|"
    for name, letter in parts.letters(survey).items():
        rule = survey.named[name]
        by = "; ".join(parts.beaten_by(survey, rule)) or "none"
        yield f"| {letter} | {name} | {len(rule.broken)} | {by} |"


def _contracts(survey: Survey) -> Iterator[str]:
    everyone = len(parts.columns(survey))
    yield "| contract | broken by | what it means | source |"
    yield "|---|---|---|---|"
    for scenario, names in parts.whom_it_hurts(survey).items():
        by = "all" if len(names) == everyone else " ".join(names)
        cells = (_link(scenario.name), by, scenario.consequence, scenario.source)
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _conflicts(survey: Survey) -> Iterator[str]:
    if not survey.conflicts:
        yield "None."
        return
    yield _fill("Some rule keeps each of them, and no rule keeps one of the left with one of the right.")
    yield ""
    yield "| | |"
    yield "|---|---|"
    for ones, others in parts.conflicts(survey):
        yield f"| {', '.join(map(_link, ones))} | {', '.join(map(_link, others))} |"


def _link(name: str) -> str:
    return f"[{name}](scenarios.md#{name})"


def _fill(text: str) -> str:
    return fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
