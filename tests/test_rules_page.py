# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/rules.md: current."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

from kvmharness.contract import Status
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy, from_tables
from kvmharness.scenarios import SCENARIOS
from kvmharness.scenarios.predicted import predicted_contract
from kvmharness.survey.keys import space
from kvmharness.survey.workers import asked_about

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "rules.md"
CONTRACTS = asked_about(list(SCENARIOS.values()))


def breaks(policy: Policy) -> int:
    """How many contracts a policy breaks."""
    return sum(predicted_contract(scenario, policy) == {Status.BROKEN} for scenario in CONTRACTS)


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    text = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if len(row) > 2][1:]


def stated(words: str) -> Policy:
    """The policy that the page describes."""
    like, _, changes = words.partition(" but ")
    keys = "\n".join(re.findall(r"`(.+?)`", changes))
    table = tomllib.loads(f'like = "{like.removeprefix("as ")}"\n{keys}\n')
    return from_tables({"policy": {"stated": table}}, POLICIES)["stated"]


def test_the_page_says_what_was_varied() -> None:
    whole = space()
    varied = f"{whole.size} combinations of {', '.join(whole.keys)} against {len(CONTRACTS)} contracts"
    assert varied in " ".join(PAGE.read_text().split())


def test_the_page_says_of_each_policy_how_many_contracts_it_breaks() -> None:
    rows = {name: int(count) for _, name, count, *_ in table("Where today's kernels and the proposals stand")}
    assert rows == {name: breaks(policy) for name, policy in POLICIES.items() if policy.honours_writes}


def test_the_page_says_of_each_rule_that_no_other_beats_how_many_contracts_it_breaks() -> None:
    rows = table("Rules that no other beats")
    assert len(rows) > 3
    for _, count, rules in rows:
        for words in rules.split("; or "):
            if not words.startswith("one of "):
                policy = POLICIES.get(words.split(",")[0]) or stated(words)
                assert breaks(policy) == int(count), words


def test_the_page_has_every_contract_that_mainline_breaks() -> None:
    mainline = POLICIES["mainline-6.7"]
    broken = [each for each in CONTRACTS if predicted_contract(each, mainline) == {Status.BROKEN}]
    rows = {
        re.sub(r"\[(.*)\].*", r"\1", row[0]): row for row in table("What they break, and whom that hurts")
    }
    for scenario in broken:
        assert scenario.consequence in rows[scenario.name]


@pytest.mark.full
def test_the_page_is_current(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["rules-page", "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "rules-page"), run_name="__main__")
    assert (ended.value.code, capsys.readouterr().err) == (0, "")
