# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue itself: that each scenario is whole, and that the policies make a difference to it."""

from dataclasses import fields

import pytest

from kvmharness.contract import Claim, Status
from kvmharness.judging.capabilities import CAPABILITIES
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import SCENARIOS, SUBJECTS
from kvmharness.scenarios.predicted import predicted_contract
from kvmharness.scenarios.scenario import Scenario

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)


def labels_of(claim: Claim) -> tuple[str, ...]:
    """The steps a claim rests on."""
    values = [
        getattr(claim, field.name)
        for field in fields(claim)
        if field.name not in {"text", "otherwise", "errors"}
    ]
    named = [label for value in values for label in (value if isinstance(value, tuple) else (value,))]
    return tuple(label for label in named if label and isinstance(label, str))


def test_names_are_unique_across_subjects() -> None:
    assert sum(len(subject.SCENARIOS) for subject in SUBJECTS) == len(SCENARIOS) >= 60


@each_scenario
def test_labels_are_the_scripts_own_and_claims_refer_to_them(scenario: Scenario) -> None:
    labels = [operation.label for operation in scenario.script if operation.label]
    assert len(labels) == len(set(labels))
    assert scenario.claims
    for claim in scenario.claims:
        assert set(labels_of(claim)) <= set(labels), claim


@each_scenario
def test_what_is_said_of_a_scenario_is_whole(scenario: Scenario) -> None:
    assert scenario.contract.endswith(".")
    assert scenario.consequence.endswith(".")
    assert scenario.source
    assert not scenario.source.endswith(".")
    for text in (scenario.contract, scenario.consequence, scenario.source):
        assert "  " not in text
    assert {*scenario.needs, *scenario.lacks} <= set(CAPABILITIES)
    assert not {*scenario.needs} & {*scenario.lacks}


@each_scenario
def test_a_scenario_takes_little_time_and_few_steps(scenario: Scenario) -> None:
    assert sum(getattr(step, "ns", 0) for step in scenario.script if step.name == "sleep") <= 1_300_000_000
    assert len(scenario.script) <= 120


@each_scenario
def test_the_contract_can_be_decided_under_every_policy_that_honours_writes(scenario: Scenario) -> None:
    for policy in POLICIES.values():
        if policy.honours_writes:
            assert Status.UNDECIDED not in predicted_contract(scenario, policy), policy.name


def test_the_rules_leave_open_only_what_rests_on_unmodelled_requests_and_how_fast_is_too_fast() -> None:
    # Which entry into the guest catches up (Rules.catch_up) or writes a page once more is not modelled, nor
    # which scaling is there.
    open_names = ("khz-too-fast", "page-follows-guest-write")
    for scenario in SCENARIOS.values():
        for policy in POLICIES.values():
            if policy.honours_writes and len(predicted_contract(scenario, policy)) > 1:
                assert scenario.name in open_names or "stable-tsc" in scenario.lacks
