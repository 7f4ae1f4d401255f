# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies: those that are known, and those a user states in a file."""

import tomllib
from itertools import combinations
from pathlib import Path

import pytest

from kvmharness.model.identify import distinguishing
from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.model.policy import Policy, PolicyError, from_tables
from kvmharness.scenarios import SCENARIOS

PLAYS = {name: (scenario.script, scenario.host) for name, scenario in SCENARIOS.items()}


def stated(text: str) -> dict[str, Policy]:
    return from_tables(tomllib.loads(text), POLICIES)


def test_every_policy_has_a_source_and_a_sentence() -> None:
    for policy in POLICIES.values():
        assert policy.source
        assert policy.summary.endswith(".")
    assert EXPECTED in POLICIES


def test_four_scenarios_are_enough_to_tell_the_five_that_were_measured_apart() -> None:
    four = ("young-restore", "qemu-pair-old", "offset-then-write", "ioctl-from-another-cpu")
    five = ("mainline-before-6.7", "like-xu-v1", "sean-christopherson", "oliver-upton", "mainline-6.7")
    for one, other in combinations(five, 2):
        assert distinguishing(POLICIES[one], POLICIES[other], {name: PLAYS[name] for name in four})


def test_a_stated_policy_takes_what_it_does_not_say_from_the_one_it_is_like() -> None:
    policy = stated('[policy.mine]\nlike = "mainline-6.7"\nuser_zero = "as-value"')["mine"]
    assert policy.user_zero == "as-value"
    assert policy.snap_requires == POLICIES["mainline-6.7"].snap_requires
    assert policy.name == "mine"


def test_a_stated_policy_may_be_like_one_further_up() -> None:
    found = stated('[policy.a]\nwindow_ns = 5\n[policy.b]\nlike = "a"\nuser_set_by = []')
    assert (found["b"].window_ns, found["b"].user_set_by) == (5, frozenset())


def test_a_policy_can_be_stated_that_nobody_has_proposed() -> None:
    policy = stated(
        """
        [policy.both]
        summary = "Only a vCPU that ran, in a VM that userspace set, within 10 ms."
        source = "the desk"
        snap_requires = ["user-set-tsc", "vcpu-has-run"]
        user_set_by = ["attribute"]
        user_zero = "as-value"
        window_ns = 10_000_000
        snap_records = "guest"
        reloads = "before-first-run"
        honours_writes = true
        """
    )["both"]
    assert policy.snap_requires == {"user-set-tsc", "vcpu-has-run"}
    assert (policy.reloads, policy.snap_records, policy.window_ns) == (
        "before-first-run",
        "guest",
        10_000_000,
    )


def test_the_page_of_the_clock_series_states_policies_that_a_scenario_distinguishes_from_6_7() -> None:
    found = stated((Path(__file__).parents[1] / "docs" / "clock-series.toml").read_text())
    assert len(found) == 5
    for policy in found.values():
        assert policy.summary.endswith(".")
        assert distinguishing(POLICIES[EXPECTED], policy, PLAYS), policy.name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "policy: missing: a policy file holds tables [policy.NAME] and nothing else"),
        ("[policies.a]", "policies: unknown: a policy file holds tables [policy.NAME] and nothing else"),
        ("policy = 3", "policy: missing"),
        ("[policy]\na = 3", "policy.a: expected a table of keys, got 3"),
        ('[policy.a]\nlike = "mainline"', "policy.a.like: no policy is called 'mainline'"),
        ("[policy.a]\nlike = 3", "policy.a.like: no policy is called 3"),
        ("[policy.mainline-before-6.7]", "policy.mainline-before-6.7: a table in a table; a name with"),
        ('[policy."mainline-6.7"]', "policy.mainline-6.7: there is a policy of that name"),
        ('[policy."my patch"]', "policy.'my patch': a name is one short word of plain text"),
        ("[policy.a]\nsnaps = true", "policy.a.snaps: unknown; a policy has like, summary, source, snap_req"),
        (
            '[policy.a]\nsnap_requires = "never"',
            'policy.a.snap_requires: expected a list of "user-set-tsc" or',
        ),
        ('[policy.a]\nsnap_requires = ["rain"]', 'policy.a.snap_requires: expected "user-set-tsc" or'),
        ("[policy.a]\nsnap_requires = [[]]", 'policy.a.snap_requires: expected "user-set-tsc" or'),
        ("[policy.a]\nuser_zero = 0", 'policy.a.user_zero: expected "snaps" or "as-value", got 0'),
        (
            "[policy.a]\nwindow_ns = 0",
            "policy.a.window_ns: expected a whole number of ns up to an hour, got 0",
        ),
        ("[policy.a]\nwindow_ns = true", "policy.a.window_ns: expected a whole number"),
        ("[policy.a]\nhonours_writes = 1", "policy.a.honours_writes: expected true or false, got 1"),
        ('[policy.a]\nsummary = "a\\nb"', "policy.a.summary: expected a line of text"),
    ],
)
def test_what_is_wrong_in_a_policy_file_is_named_by_its_key(text: str, complaint: str) -> None:
    with pytest.raises(PolicyError) as error:
        stated(text)
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)
