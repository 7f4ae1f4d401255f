# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue as a page of Markdown: what each scenario does, and what the model predicts for it.

`scripts/catalogue` writes it to docs/scenarios.md.
"""

import textwrap
from collections.abc import Iterator
from itertools import combinations
from types import ModuleType

from kvmharness.contract import Status
from kvmharness.judging import capabilities
from kvmharness.model.identify import distinguishes
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.report.steps import in_short
from kvmharness.scenarios import SCENARIOS, SUBJECTS, Scenario
from kvmharness.scenarios.predicted import predicted_contract

WIDTH = 110
_MOST_NAMES = 5

# What each place to play at lacks. Tests of the lab compare it with what is skipped there. Nothing is judged
# on intel-unstable, which has no other clock than the timer's ticks of 4 ms.
_PROPOSED = frozenset({"tsc-scale-attribute", "clock-guest"})  # no release has these
_OF_AMD = _PROPOSED | {"tsc-scaling", "nested-scaling"}
_OF_STABLE = frozenset({"stable-tsc", "clock-realtime", "clocksource"})
_OF_SMP = frozenset({"two-cpus", "cpu-hotplug"})
LACKS = {
    "amd": _OF_AMD | _OF_SMP,
    "amd-smp": _OF_AMD,
    "amd-unstable": _OF_AMD | _OF_STABLE | _OF_SMP,
    "amd-smp-unstable": _OF_AMD | _OF_STABLE,
    "intel": _PROPOSED | _OF_SMP | {"clocksource"},
    "a KVM that ignores writes": _PROPOSED
    | {"tsc-write", "tsc-offset", "tsc-scaling", "clocksource", "cpu-hotplug"},
}

# Why no scenario distinguishes a pair of policies.
INSEPARABLE = {
    frozenset({"clock-series-2026", "clock-series-2026-origin"}): (
        "none: one records the TSC that the vCPU has now, the other the generation's first TSC and its time, "
        "and both are on one line. With kHz slightly different from the host's they drift apart, by 250 "
        "millionths of the time that passes; a scenario of a second would have to hit the window's edge to a "
        "quarter of a millisecond"
    ),
}

_INTRO = """\
# The scenarios

*Made by `scripts/catalogue`; a change here is lost.*

KVM offers userspace three ways to set a guest's TSC: a write of `MSR_IA32_TSC`, the vCPU attribute
`KVM_VCPU_TSC_OFFSET`, and the rate, `KVM_SET_TSC_KHZ`. KVM second-guesses the first: it treats a write near
the TSC that it expects as a request to synchronize vCPUs. Such a write *snaps*: the vCPU gets the offset of
the current generation, not the value written ([policies.md](policies.md)). Each scenario tests one
consequence of that.

The first sentence of a scenario is its *contract*: what userspace is entitled to. *Kept by* and *Broken by*
list the policies that keep or break the contract, as the model predicts; *Left open by* lists those whose
rules do not decide it. *Distinguishes* lists the groups of policies that the scenario's trace can tell from
each other. *Judged on* names the machines of the lab (`kvmharness list machines`) where the scenario is not
skipped. `kvmharness predict NAME` shows each step under each policy.
"""


def page() -> str:
    """The whole page."""
    pairs = _pairs()  # first: all that the scenarios distinguish is then known
    blocks = [_INTRO, _contents(), _overview()]
    for subject in SUBJECTS:
        blocks += _subject(subject)
    blocks += ["## Which scenarios distinguish which policies\n", _fill(_PAIRS_INTRO), pairs]
    return "\n".join(blocks).rstrip() + "\n"


_PAIRS_INTRO = "Every pair of policies, with the scenarios whose traces distinguish the two."


def heading(subject: ModuleType) -> tuple[str, str]:
    """A subject's title, and its explanation."""
    first, _, rest = (subject.__doc__ or "").partition("\n")
    title, _, more = first.partition(": ")
    more = more[:1].upper() + more[1:]
    return title.rstrip("."), " ".join([more, *rest.split()]).strip()


def _contents() -> str:
    lines = [f"{len(SCENARIOS)} scenarios in {len(SUBJECTS)} subjects:\n"]
    for subject in SUBJECTS:
        title = heading(subject)[0]
        anchor = "".join(each for each in title.lower() if each.isalnum() or each in " -_").replace(" ", "-")
        lines.append(f"- [{title}](#{anchor}), {len(subject.SCENARIOS)}")
    return "\n".join(lines) + "\n"


def _overview() -> str:
    """A table of all scenarios, with what mainline does to each contract."""
    rows = [
        "What mainline does to the contracts:\n",
        "| scenario | before 6.7 | 6.7 and later | judged on |",
        "|---|---|---|---|",
    ]
    for scenario in SCENARIOS.values():
        states = [_in_a_word(scenario, POLICIES[name]) for name in ("mainline-before-6.7", "mainline-6.7")]
        where = ", ".join(judged_on(scenario)) or "no machine of the lab"
        rows.append(f"| [{scenario.name}](#{scenario.name}) | {' | '.join(states)} | {where} |")
    return "\n".join(rows) + "\n"


def _in_a_word(scenario: Scenario, policy: Policy) -> str:
    if policy not in _speaking(scenario):
        return "-"
    states = predicted_contract(scenario, policy)
    return next(iter(states)).value if len(states) == 1 else "left open"


def _subject(subject: ModuleType) -> Iterator[str]:
    title, rest = heading(subject)
    yield f"## {title}\n"
    if rest:
        yield _fill(rest) + "\n"
    for scenario in subject.SCENARIOS:
        yield from _scenario(scenario)


def _scenario(scenario: Scenario) -> Iterator[str]:
    yield f"### {scenario.name}\n"
    yield _fill(scenario.contract) + "\n"
    for what, text in facts(scenario):
        yield _fill(f"*{what}:* {text}", first="- ", rest="  ")
    yield ""


def facts(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """The facts about a scenario, each with its heading."""
    yield "Source", scenario.source
    yield "If it is broken", scenario.consequence
    yield "Steps", "; ".join(in_short(scenario.script))
    yield "Needs", needed(scenario)
    yield "Judged on", ", ".join(judged_on(scenario)) or "no machine of the lab"
    yield from by_policy(scenario).items()
    groups = distinguished_groups(scenario)
    yield "Distinguishes", " from ".join(groups) if len(groups) > 1 else "no policies"


def needed(scenario: Scenario) -> str:
    """The capabilities that it needs and those that must be missing, in words."""
    found = [*scenario.needs, *(f"no {name}" for name in scenario.lacks)]
    return ", ".join(found)


def judged_on(scenario: Scenario) -> list[str]:
    """Where it is judged and not skipped."""
    needs = set(capabilities.implied(scenario.needs))
    return [
        place for place, lacking in LACKS.items() if not needs & lacking and set(scenario.lacks) <= lacking
    ]


def by_policy(scenario: Scenario) -> dict[str, str]:
    """The policies that keep the contract, break it, or leave it open; where there are any."""
    found: dict[str, list[str]] = {}
    for policy in _speaking(scenario):
        states = predicted_contract(scenario, policy)
        what = _HEADINGS[next(iter(states))] if len(states) == 1 else "Left open by"
        found.setdefault(what, []).append(policy.name)
    texts = _with_others(list(found.values()))
    return dict(sorted(zip(found, texts, strict=True), reverse=True))


_HEADINGS = {Status.KEPT: "Kept by", Status.BROKEN: "Broken by"}


def _with_others(groups: list[list[str]]) -> list[str]:
    """Each group as text; the largest is all the others, if it is larger than one."""
    if len(groups) == 1:
        return ["all policies" if len(groups[0]) > 1 else groups[0][0]]
    largest = max(groups, key=len)
    return ["all others" if group is largest and len(group) > 1 else ", ".join(group) for group in groups]


def _speaking(scenario: Scenario) -> list[Policy]:
    """The policies that it says something about: those that honour writes, those that do not, or both."""
    if "tsc-write" in scenario.lacks:
        return [policy for policy in POLICIES.values() if not policy.honours_writes]
    needs = set(capabilities.implied(scenario.needs))
    of_writes = {"tsc-write", "tsc-offset", "masterclock", "tsc-scaling"} & needs
    return [
        policy for policy in POLICIES.values() if policy.honours_writes or not (of_writes or scenario.lacks)
    ]


def distinguished_groups(scenario: Scenario) -> list[str]:
    """The policies in groups, each as text; this scenario cannot distinguish those of one group."""
    groups: list[list[Policy]] = []
    for policy in _speaking(scenario):
        for group in groups:
            if not distinguishes(scenario.script, group[0], policy, scenario.host):
                group.append(policy)
                break
        else:
            groups.append([policy])
    names = [[policy.name for policy in group] for group in groups]
    return _with_others(sorted(names, key=len))


def distinguished_pairs() -> dict[tuple[str, str], list[str]]:
    """For each pair of policies the scenarios that distinguish the two."""
    pairs = list(combinations(POLICIES.values(), 2))
    found: dict[tuple[str, str], list[str]] = {(one.name, other.name): [] for one, other in pairs}
    # One scenario after the other: each is then played once under each policy.
    for scenario in SCENARIOS.values():
        for one, other in pairs:
            if distinguishes(scenario.script, one, other, scenario.host):
                found[one.name, other.name].append(scenario.name)
    return found


def _pairs() -> str:
    rows = ["", "| | | distinguished by |", "|---|---|---|"]
    for (one, other), names in distinguished_pairs().items():
        said = _some(names) or INSEPARABLE[frozenset({one, other})]
        rows.append(f"| {one} | {other} | {said} |")
    return "\n".join(rows)


def _some(names: list[str]) -> str:
    """The names, or the first of them and how many more there are."""
    shown = names[:_MOST_NAMES]
    more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(shown) + more


def _fill(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
