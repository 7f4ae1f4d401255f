# SPDX-License-Identifier: GPL-2.0-or-later
"""Which breaks of a contract are predicted, and what they depend on beside the policy."""

import dataclasses

import pytest

from kvmharness.contract import Status
from kvmharness.judging.predicted import only_if, predicts_break
from kvmharness.judging.verdict import Verdict
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST
from kvmharness.model.state import Host
from kvmharness.scenarios import SCENARIOS
from kvmharness.scenarios.predicted import predicted_contract
from tests.made_up import play, probe
from tests.test_verdict import judged, verdict


@pytest.mark.parametrize(
    ("name", "odd", "only_if", "finding"),
    [
        (
            "xen-stopped",
            dataclasses.replace(HOST, marks_xen=True),
            "marks a Xen's pages, too, when a guest is to learn that it was stopped",
            "flags",
        ),
        (
            "xen-runstate-clock-back",
            dataclasses.replace(HOST, keeps_runstate=False),
            "has a runstate's times run back when the VM's clock is set back",
            "ran back by",
        ),
    ],
)
def test_a_contract_that_a_kernel_breaks_as_its_probe_does_is_predicted_of_such_kernels_alone(
    name: str, odd: Host, only_if: str, finding: str
) -> None:
    scenario = SCENARIOS[name]
    result = judged(scenario, play(name, scenario.script, host=odd), probe(host=odd))
    assert (result.verdict, result.predicted, result.only_if) == (Verdict.XFAIL, True, only_if)
    assert finding in result.reason
    assert verdict(name, "mainline-6.7").verdict is Verdict.PASS


def test_clocks_that_jump_are_predicted_of_a_kvm_that_noted_another_rate() -> None:
    scenario = SCENARIOS["xen-shared-again"]
    early = dataclasses.replace(scenario.host, kvm_khz=2_000_098)
    assert Status.BROKEN in predicted_contract(scenario, POLICIES["mainline-6.7"], early)
    assert predicted_contract(scenario, POLICIES["mainline-6.7"]) == {Status.KEPT}
    found = only_if(scenario, POLICIES["mainline-6.7"], dataclasses.replace(HOST, kvm_khz=2_000_098))
    assert found == "was loaded before the kernel corrected the rate of its TSC"


def test_a_break_that_the_policy_alone_predicts_depends_on_nothing_that_the_probe_found() -> None:
    odd = dataclasses.replace(HOST, marks_xen=True, keeps_runstate=False)
    trace = play("three-writes", SCENARIOS["three-writes"].script, host=odd)
    result = judged(SCENARIOS["three-writes"], trace, probe(host=odd))
    assert (result.verdict, result.predicted, result.only_if) == (Verdict.XFAIL, True, "")


@pytest.mark.parametrize("policy", ["mainline-before-6.7", "mainline-6.7"])
def test_with_another_value_of_what_a_break_depends_on_the_contract_is_kept(policy: str) -> None:
    odd = Host(khz=1_000_000, kvm_khz=999_951, marks_xen=True, keeps_runstate=False)
    ordinary = Host(marks_xen=False, keeps_runstate=True)
    depend = set()
    for scenario in SCENARIOS.values():
        if predicts_break(scenario, POLICIES[policy], odd):
            kept = not predicts_break(scenario, POLICIES[policy], ordinary)
            assert bool(only_if(scenario, POLICIES[policy], odd)) is kept, scenario.name
            depend |= {scenario.name} if kept else set()
    assert {"xen-stopped", "xen-runstate-clock-back", "xen-shared-again"} <= depend


def test_of_two_facts_each_of_which_breaks_a_contract_the_report_names_both() -> None:
    stopped, set_back = SCENARIOS["xen-stopped"], SCENARIOS["xen-runstate-clock-back"]
    unmarked = stopped.claims[:3]
    asked = {label for claim in unmarked for label in claim.labels}
    marks = [step if step.label in asked else dataclasses.replace(step, label="") for step in stopped.script]
    both = dataclasses.replace(
        stopped,
        needs=(*stopped.needs, *set_back.needs),
        script=(*marks, *set_back.script[2:]),
        claims=(*unmarked, *set_back.claims),
    )
    found = only_if(both, POLICIES["mainline-6.7"], Host(marks_xen=True, keeps_runstate=False))
    assert found.startswith("marks a Xen's pages, too, when ")
    assert " or has a runstate's times run back when " in found
