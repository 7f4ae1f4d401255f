# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a kernel that follows a policy in all but one kind of operation."""

from functools import cache
from typing import Any

import pytest

from kvmharness.judging.divergence import kind_of
from kvmharness.judging.identity import Identity
from kvmharness.judging.session import Session, SessionResult, settle
from kvmharness.judging.verdict import Expectation, Verdict, exit_status
from kvmharness.model import operations, vcpu_operations
from kvmharness.model.interval import Interval
from kvmharness.model.outcome import Action
from kvmharness.model.outcome import Outcome as Step
from kvmharness.model.policies import POLICIES
from kvmharness.model.quantity import bounds
from kvmharness.model.rules import Rules
from kvmharness.model.simulate import HOST
from kvmharness.model.state import Moment, World
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.script import OPERATIONS, SetMsrs, SetTscKhz, SetTscOffset
from tests.made_up import session

ALL = list(SCENARIOS.values())


def told(played: Session) -> SessionResult:
    return settle(ALL, lambda wanted: played)


def names(outcome: SessionResult, verdict: Verdict) -> set[str]:
    return {each.scenario for each in outcome.results if each.verdict is verdict}


def has(kind: type[Any], scenario: Scenario) -> bool:
    return any(isinstance(each, kind) for each in scenario.script)


def ignored(self: Rules, world: World, number: int, offset: int, moment: Moment) -> list[World]:
    return [world]


@cache
def on_a_kernel_that_ignores_the_attribute() -> SessionResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rules, "set_offset", ignored)
        played = session(ALL)
    return told(played)


def test_a_kernel_behaves_as_its_policy_but_for_the_operation_that_it_has_its_own_way_with() -> None:
    outcome = on_a_kernel_that_ignores_the_attribute()
    assert outcome.identity
    assert outcome.identity.behaves_as == ()
    assert outcome.identity.divergence
    # The attribute alone tells these two apart.
    assert outcome.identity.divergence.policies == ("oliver-upton", "mainline-6.7")
    assert outcome.identity.divergence.kinds == ("set the TSC offset",)
    assert outcome.identity.text == (
        'behaves as oliver-upton or mainline-6.7 but for "set the TSC offset" (offset-then-far-write, step 3)'
    )
    assert exit_status(outcome.results) == 1


def test_what_has_no_such_operation_is_judged_as_ever() -> None:
    outcome = on_a_kernel_that_ignores_the_attribute()
    failed = names(outcome, Verdict.FAIL)
    assert failed - SCENARIOS.keys() == {"probe-offset"}
    assert all(has(SetTscOffset, SCENARIOS[name]) for name in failed & SCENARIOS.keys())
    as_ever = told(session(ALL))
    for verdict in (Verdict.PASS, Verdict.XFAIL):
        spared = {name for name in names(as_ever, verdict) if not has(SetTscOffset, SCENARIOS[name])}
        # The contract of those that need the attribute is not asked for.
        needed = {each.name for each in ALL if "tsc-offset" in each.needs}
        assert spared - needed <= names(outcome, verdict)


def synchronizing_khz(rules: Rules, world: World, action: Action) -> list[Step]:
    """kvm_arch_vcpu_ioctl() where KVM_SET_TSC_KHZ then writes the vCPU's current TSC as if userspace had."""
    number, outcomes = action.operation.vcpu, []
    for outcome in vcpu_operations.set_tsc_khz(rules, world, action):
        vcpu = outcome.world.vcpus[number]
        offset = bounds(vcpu.l1_tsc_offset, outcome.world.unknowns)
        assert offset
        tsc = (offset.low + rules.scaled(outcome.world, vcpu, action.moment.tsc).low) % 2**64
        data = Interval(tsc, tsc)
        written = rules.synchronize_tsc(outcome.world, number, data, action.moment, user=True)
        outcomes += [outcome._replace(world=each) for each in written]
    return outcomes


def test_a_rule_of_our_own_for_one_ioctl_is_named_by_the_ioctl(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(operations.HANDLERS, "set_tsc_khz", synchronizing_khz)
        played = session(ALL)
    outcome = told(played)
    assert outcome.identity
    assert outcome.identity.divergence
    assert outcome.identity.divergence.policies == ("mainline-6.7",)
    assert outcome.identity.divergence.kinds == ("KVM_SET_TSC_KHZ",)
    failed = names(outcome, Verdict.FAIL)
    assert failed
    assert all(has(SetTscKhz, SCENARIOS[name]) for name in failed & SCENARIOS.keys())


def test_two_faults_at_once_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(operations.HANDLERS, "set_tsc_khz", synchronizing_khz)
        patch.setattr(Rules, "set_offset", ignored)
        played = session(ALL)
    identity = told(played).identity
    assert identity
    assert identity.divergence
    assert identity.divergence.kinds == ("KVM_SET_TSC_KHZ", "set the TSC offset")


def test_a_kernel_that_is_wrong_in_everything_is_like_no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    def far_off(self: Rules, *arguments: Any) -> Any:
        found = offset_for(self, *arguments)
        return found._replace(constant=found.constant + 10**15)

    offset_for = Rules._offset_for
    with monkeypatch.context() as patch:
        patch.setattr(Rules, "_offset_for", far_off)
        played = session(ALL)
    outcome = told(played)
    assert outcome.identity == Identity(())
    assert outcome.identity
    assert outcome.identity.text == "behaves as no known policy"
    assert exit_status(outcome.results) == 1


def test_a_kind_of_operation_is_the_same_for_every_vcpu() -> None:
    assert kind_of(SetTscKhz(vcpu=3, khz=0)) == "KVM_SET_TSC_KHZ"
    assert kind_of(SetMsrs(vcpu=1, msrs=(("TSC", 1), ("TSC_ADJUST", 0)))) == "write TSC, TSC_ADJUST"
    kinds = {kind_of(each) for scenario in ALL for each in scenario.script}
    assert len(kinds) >= len(OPERATIONS)
    assert not [each for each in kinds if "vCPU" in each]
    assert HOST.khz


def without(*names: str) -> Expectation:
    return Expectation(policies={name: policy for name, policy in POLICIES.items() if name not in names})


def test_a_rule_that_nobody_named_is_named_by_the_one_key_in_which_it_is_not_the_expected_one() -> None:
    played = session(ALL, "clock-series-2026-khz")
    identity = settle(ALL, lambda wanted: played, without("clock-series-2026-khz")).identity
    assert identity
    assert (identity.behaves_as, identity.divergence) == ((), None)
    assert identity.text == 'behaves as mainline-6.7 but for KVM_SET_TSC_KHZ (khz_write = "synchronizes")'


def test_a_member_of_a_set_is_a_key_changed_too() -> None:
    played = session(ALL, "oliver-upton")
    identity = settle(ALL, lambda wanted: played, without("oliver-upton", "like-xu-v6")).identity
    assert identity
    assert identity.text == 'behaves as mainline-6.7 but for user_set_by = ["value", "zero"]'


def test_every_key_that_would_explain_the_little_that_was_played_is_named() -> None:
    played = session([SCENARIOS["young-restore"]], "clock-series-2026-khz")
    least = Expectation(policies={"mainline-6.7": POLICIES["mainline-6.7"]})
    identity = settle([SCENARIOS["young-restore"]], lambda wanted: played, least).identity
    assert identity
    assert identity.text == (
        "behaves as mainline-6.7 but for snap_requires = [] or mainline-6.7 but for KVM_SET_TSC_KHZ "
        '(khz_write = "synchronizes")'
    )


def test_a_known_policy_is_said_with_the_keys_in_which_it_is_not_the_expected_one() -> None:
    played = session(ALL, "clock-series-2026-khz")
    identity = told(played).identity
    assert identity
    assert identity.text == "behaves as clock-series-2026-khz"
    assert identity.with_keys == (
        'behaves as clock-series-2026-khz: mainline-6.7 but for KVM_SET_TSC_KHZ (khz_write = "synchronizes")'
    )
    as_expected = told(session(ALL)).identity
    assert as_expected
    assert as_expected.with_keys == as_expected.text == "behaves as mainline-6.7"
