# SPDX-License-Identifier: GPL-2.0-or-later
"""All rules of a space against all contracts."""

import os
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmharness.contract import Status
from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.model.policy import Policy, PolicyError, key_values
from kvmharness.scenarios import SCENARIOS
from kvmharness.scenarios.predicted import predicted_contract
from kvmharness.survey import workers
from kvmharness.survey.keys import Choice, space
from kvmharness.survey.plays import Outcome, Question, Tree, outcome, tree
from kvmharness.survey.rules import Rule, Survey, survey

MAINLINE = POLICIES[EXPECTED]
WHOLE = space()
# A scenario of each kind: creation, writes, attributes, moves, rates, an unstable TSC.
ASKED = [
    SCENARIOS[name]
    for name in (
        *("young-restore", "qemu-pair-young", "offset-then-write", "zero-then-young-restore", "offset-moved"),
        *("page-after-run", "khz-restore-pair", "unstable-pair", "qemu-reset-young"),
    )
]
TREES = {scenario.name: tree(scenario, WHOLE) for scenario in ASKED}


def found_in(grown: Tree, policy: Policy) -> Outcome:
    """What a tree says of a policy."""
    while isinstance(grown, Question):
        choice = WHOLE.choices[grown.choice]
        grown = grown.branches[choice.values.index(choice.of(policy))]
    return grown


@st.composite
def decided(draw: st.DrawFn) -> dict[Choice, Any]:
    return {choice: draw(st.sampled_from(choice.values)) for choice in WHOLE.choices}


@settings(max_examples=60)
@given(decided(), st.sampled_from(ASKED))
def test_a_tree_says_of_each_policy_what_playing_it_shows(choices: dict[Choice, Any], scenario: Any) -> None:
    policy = WHOLE.policy(choices)
    assert found_in(TREES[scenario.name], policy) == outcome(scenario, policy)


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if policy.honours_writes])
def test_contracts_are_what_the_catalogue_predicts(name: str) -> None:
    for scenario in ASKED:
        assert found_in(TREES[scenario.name], POLICIES[name]).states == predicted_contract(
            scenario, POLICIES[name]
        )


ON_REQUEST = {"stable_by", "flags_from", "epoch", "renews_masterclock", "catches_up_to"}


def test_every_key_that_has_a_few_values_and_is_about_writes_is_varied() -> None:
    few = {field.name for field in fields(Policy) if key_values(field.name)}
    assert few > ON_REQUEST
    assert set(WHOLE.keys) >= few - ON_REQUEST
    assert not set(WHOLE.keys) & ON_REQUEST
    assert set(space(sorted(ON_REQUEST)).keys) == ON_REQUEST
    assert not set(WHOLE.keys) & {"name", "summary", "source", "honours_writes", "window_ns"}
    assert {
        Choice("user_set_by", "zero", (False, True)),
        Choice("user_zero", "", ("snaps", "as-value")),
    } <= set(WHOLE.choices)


def test_some_keys_alone_are_varied_between_some_values() -> None:
    small = space(["window_ns=1000,2000", "user_set_by=zero", "snap_records"])
    assert small.size == 2 * 2 * 3
    assert small.keys == ("window_ns", "user_set_by", "snap_records")
    policy = small.policy({small.choices[0]: 1000, small.choices[1]: False})
    assert (policy.window_ns, policy.user_set_by) == (1000, MAINLINE.user_set_by - {"zero"})
    assert policy in small
    assert replace(policy, user_zero="as-value") not in small
    assert MAINLINE not in small


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("colour", "'colour' cannot be varied; these can: snap_requires, user_set_by, "),
        ("honours_writes", "'honours_writes' cannot be varied"),
        ("window_ns", "and KEY=VALUE,VALUE a number"),
        ("window_ns=a", "window_ns: expected whole numbers"),
        ("window_ns=0", "window_ns: expected a whole number of ns"),
        ("user_zero=red", 'user_zero: expected "snaps" or "as-value"'),
        ("user_set_by=red", 'user_set_by: expected "zero" or "value"'),
    ],
)
def test_what_cannot_be_varied_is_refused_by_name(key: str, complaint: str) -> None:
    with pytest.raises(PolicyError) as refused:
        space([key])
    assert complaint in str(refused.value)


def kept(digest: str) -> Outcome:
    return Outcome(digest, frozenset({Status.KEPT}))


def broken(digest: str) -> Outcome:
    return Outcome(digest, frozenset({Status.BROKEN}))


def made_up() -> Survey:
    """Of two contracts each way to treat a zero keeps one; of a third, which another record would keep, none
    is open."""
    scenarios = ASKED[:3]
    trees = [
        Question(0, (kept("a"), broken("b"))),
        Question(0, (broken("a"), kept("b"))),
        Question(1, (broken("a"), kept("b"), kept("b"))),
    ]
    known = {
        MAINLINE: [kept("a"), broken("a"), broken("a")],
        POLICIES["tsc-protected"]: [broken("c"), broken("c"), broken("c")],
    }
    return survey(space(["user_zero", "snap_records"]), scenarios, trees, known)


def test_policies_that_predict_the_same_are_one_rule() -> None:
    found = made_up()
    assert found.combinations == 6
    assert [rule.combinations for rule in found.rules] == [2, 2, 1, 1, 0]
    first = found.rules[0]
    assert (first.like, first.changes) == (EXPECTED, (("snap_records", "guest"),))
    assert first.broken == {"qemu-pair-young"}


def test_a_rule_is_beaten_by_one_that_breaks_less_and_nothing_else() -> None:
    found = made_up()
    assert [[set(rule.broken) for rule in alike] for alike in found.unbeaten] == [
        [{"qemu-pair-young"}],
        [{"young-restore"}],
    ]
    mainline, protected = found.named[EXPECTED], found.named["tsc-protected"]
    assert mainline.broken == {"qemu-pair-young", "offset-then-write"}
    assert found.standing(mainline) == (0,)
    assert found.standing(protected) == (0, 1)
    assert found.rules[0].beats(mainline)
    assert not found.rules[1].beats(mainline)


def test_contracts_that_no_rule_keeps_together_are_paired() -> None:
    assert made_up().conflicts == (("young-restore", "qemu-pair-young"),)
    assert made_up().never_kept == ()


def test_a_survey_counts_every_combination_once_however_many_processes_play() -> None:
    known = [MAINLINE, POLICIES["like-xu-v1"]]
    alone, together = (workers.all_rules(WHOLE, ASKED, known, jobs) for jobs in (1, 2))
    assert sum(rule.combinations for rule in alone.rules) == WHOLE.size
    assert alone.rules == together.rules
    assert set(alone.named) == {EXPECTED, "like-xu-v1"}
    assert "offset-moved" in alone.named["like-xu-v1"].broken - alone.named[EXPECTED].broken


def test_a_process_that_dies_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "outcome", lambda *_: os._exit(1))
    with pytest.raises(workers.WorkerError, match="9 are left"):
        workers.all_rules(WHOLE, ASKED, [MAINLINE], 1)


def test_a_rule_is_named_by_its_nearest_policy() -> None:
    found = workers.all_rules(space(["user_set_by"]), ASKED, list(POLICIES.values())[:7], 1)
    rules: list[Rule] = [rule for rule in found.rules if rule.combinations]
    assert sum(rule.combinations for rule in rules) == 8
    assert all(len(rule.changes) <= 1 for rule in rules)
    # What is not in the space has its own rule all the same.
    assert found.named["sean-christopherson"].combinations == 0
