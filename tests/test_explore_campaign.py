# SPDX-License-Identifier: GPL-2.0-or-later
"""Campaigns on made-up kernels: faults are found and made small, and a kernel without one shows none."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from kvmharness.explore.campaign import Campaign, Settings
from kvmharness.explore.findings import Finding
from kvmharness.explore.oracles import COMPLAINT, DIFFERS, ENTITLEMENT, IMPOSSIBLE, Oracles
from kvmharness.judging.session import Session
from kvmharness.judging.verdict import BY_CONTRACTS, Expectation
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST, Pace, SimulatedRules, simulate
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.script import (
    AwaitTimer,
    CreateVcpu,
    GetClock,
    GetTscOffset,
    GuestWrite,
    Read,
    Run,
    SetClock,
    SetMsrs,
    SetTscOffset,
    Time,
)
from kvmharness.trace import Trace
from tests.made_up_faults import FAULTS, Rules, player

Play = Callable[[Sequence[Scenario]], Session]


def explored(play: Play, settings: Settings, batches: int, against: Play | None = None) -> Campaign:
    """A campaign of so many batches, or until something was found."""
    campaign = Campaign(play, settings, against=against)
    for _ in range(batches):
        scenarios = campaign.scenarios(15)
        campaign.judge(scenarios, *campaign.play(scenarios))
        if campaign.findings:
            break
    return campaign


def expecting(policy: str = "mainline-6.7") -> Settings:
    return Settings(Expectation(POLICIES[policy]))


@pytest.mark.parametrize("rules", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_and_shrunk_to_a_few_steps(rules: Rules) -> None:
    campaign = explored(player(rules), expecting(), 25)
    assert campaign.findings
    smallest = min(campaign.findings, key=lambda finding: len(finding.script))
    assert smallest.symptom.oracle == IMPOSSIBLE
    assert len(smallest.script) <= 8
    assert "mainline-6.7" not in smallest.shared_by


@pytest.mark.parametrize("policy", ["mainline-6.7", "mainline-before-6.7"])
def test_what_a_policy_breaks_is_known_and_shrunk_to_no_more_steps_than_the_catalogues(policy: str) -> None:
    """A young VM that is restored, and vCPUs that are created and restored in turn: no scenario is asked."""
    campaign = explored(player(SimulatedRules, policy), expecting(policy), 8)
    campaign.finish()
    assert campaign.findings == []
    assert campaign.tally.scripts == 120
    found = {finding.symptom.what: finding for finding in campaign.known_breaks}
    for rule, scenario in (("timeline", "young-restore"), ("together", "restore-one-by-one")):
        assert found[rule].symptom.predicted
        assert len(found[rule].script) <= len(SCENARIOS[scenario].script)
        assert policy in found[rule].shared_by


def test_when_the_time_is_up_known_breaks_are_kept_as_they_were_found() -> None:
    campaign = explored(player(SimulatedRules), expecting(), 8)
    campaign.finish(lambda: True)
    assert "timeline" in {finding.symptom.what for finding in campaign.known_breaks}
    assert all(finding.effort.tried == 0 for finding in campaign.known_breaks)


def test_what_the_expected_policy_breaks_is_known_and_what_another_breaks_is_not() -> None:
    old = player(SimulatedRules, "mainline-before-6.7")
    assert explored(old, expecting("mainline-before-6.7"), 4).findings == []
    assert explored(old, expecting(), 4).findings
    by_contracts = explored(old, Settings(BY_CONTRACTS), 4).findings
    assert {finding.symptom.oracle for finding in by_contracts} == {ENTITLEMENT}


def test_two_kernels_are_held_against_each_other_without_a_policy() -> None:
    old, new = (player(SimulatedRules, each) for each in ("mainline-before-6.7", "mainline-6.7"))
    settings = replace(expecting(), names=("old", "new"))
    assert explored(old, settings, 3, against=old).findings == []
    campaign = explored(old, settings, 3, against=new)
    assert {finding.symptom.oracle for finding in campaign.findings} == {DIFFERS}
    assert min(len(finding.script) for finding in campaign.findings) <= 4


def test_what_does_not_come_again_is_no_finding() -> None:
    faulty, good = player(FAULTS["GateByCreation"]), player(SimulatedRules)

    def once(scenarios: Sequence[Scenario]) -> Session:
        return (good if scenarios and scenarios[0].name.startswith("again") else faulty)(scenarios)

    campaign = explored(once, expecting(), 1)
    assert campaign.findings == []
    assert campaign.tally.once > 0


def test_in_real_time_what_comes_most_of_the_time_is_a_finding() -> None:
    faulty, good = player(FAULTS["GateByCreation"]), player(SimulatedRules)
    sessions = 0

    def mostly(scenarios: Sequence[Scenario]) -> Session:
        nonlocal sessions
        sessions += 1
        return (good if sessions % 3 == 0 else faulty)(scenarios)

    assert explored(mostly, replace(expecting(), real_time=True, shrinks=False), 2).findings


def test_a_script_that_crashes_the_kernel_is_a_finding_and_shrunk() -> None:
    good = player(SimulatedRules)

    def crashes(scenario: Scenario) -> bool:
        return any(isinstance(step, SetClock) for step in scenario.script)

    def play(scenarios: Sequence[Scenario]) -> Session:
        return good([each for each in scenarios if not crashes(each)])

    def crashed(scenario: Scenario) -> str:
        return f"the kernel oopsed during {scenario.name}: Oops: 0000" if crashes(scenario) else ""

    campaign = Campaign(play, expecting(), crashed=crashed)
    scenarios = campaign.scenarios(30)
    campaign.judge(scenarios, *campaign.play(scenarios))
    (finding,) = campaign.findings
    assert finding.symptom.oracle == COMPLAINT
    assert [step.name for step in finding.script] == ["set_clock"]


def test_a_warning_on_the_console_is_one_too() -> None:
    good = player(SimulatedRules)

    def play(scenarios: Sequence[Scenario]) -> Session:
        warns = [each.name for each in scenarios if any(isinstance(step, SetClock) for step in each.script)]
        notes = tuple(f"a warning during {name}: WARNING: CPU: 0 PID: 7 at x86.c:2380" for name in warns)
        return replace(good(scenarios), notes=notes)

    campaign = explored(play, expecting(), 2)
    assert [finding.symptom.oracle for finding in campaign.findings] == [COMPLAINT]


def test_a_break_that_depends_on_how_long_the_host_was_up_is_known() -> None:
    """An offset of 0 is the host's TSC: a write 0.6 s ahead of it is dropped, and half a minute off it is
    not."""
    policy, up_ns = POLICIES["mainline-6.7"], 60 * 10**9
    script = (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create"),
        SetTscOffset(vcpu=0, offset=0, label="set-offset"),
        SetMsrs(vcpu=0, msrs=(("TSC", Time(up_ns + 600_000_000)),), label="write"),
    )
    trace = simulate("", script, policy, debugfs=True, begin=up_ns * 2)
    symptoms = Oracles(policy, HOST).ask(trace).symptoms
    assert [(each.what, each.step, each.predicted) for each in symptoms] == [("timeline", 3, True)]


def test_a_break_that_depends_on_when_in_its_step_a_guest_read_its_tsc_is_known() -> None:
    """A write 1 s behind the last one is dropped or not for what the guest had read, 1 us more or less."""
    policy, second = POLICIES["mainline-6.7"], (HOST.khz or 0) * 1000

    def played(plus: int, read: dict[str, tuple[int, ...]]) -> Trace:
        script = (
            CreateVcpu(vcpu=0, guest="rdtsc-16", label="create"),
            Run(vcpu=0, label="run"),
            SetMsrs(vcpu=0, msrs=(("TSC", 2**56),), label="far"),
            SetMsrs(vcpu=0, msrs=(("TSC", Read("run", 2**56 + plus)),), label="near"),
        )
        trace = simulate("", script, policy, debugfs=True, read=read)
        events = [replace(each, values=read.get(each.operation.label, each.values)) for each in trace.events]
        return replace(trace, events=tuple(events))

    usual = played(0, {})
    (guest,) = usual.events[1].values
    between = usual.events[3].bracket.tsc_after - usual.events[2].bracket.tsc_after
    trace = played(between - second - guest - 500, {"run": (guest + 1000,)})
    symptoms = Oracles(policy, HOST).ask(trace).symptoms
    assert [(each.what, each.step, each.predicted) for each in symptoms] == [("timeline", 4, True)]


def test_a_break_is_known_though_a_step_before_it_did_not_wait_as_long_as_it_may() -> None:
    """The timer is refused, and does not wait: 2 ms later the write would no longer be near the first one."""
    policy, second = POLICIES["mainline-6.7"], (HOST.khz or 0) * 1000
    script = (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create"),
        SetMsrs(vcpu=0, msrs=(("TSC", 2**56),), label="far"),
        AwaitTimer(vcpu=0, ns=2_000_000, label="timer"),
        SetMsrs(vcpu=0, msrs=(("TSC", 2**56 - second + second // 1000),), label="near"),
    )
    trace = simulate("", script, policy, debugfs=True, pace=lambda operation: Pace(waited=0))
    assert trace.events[2].error
    symptoms = Oracles(policy, HOST).ask(trace).symptoms
    assert [(each.what, each.step, each.predicted) for each in symptoms] == [("timeline", 4, True)]


def test_a_break_after_an_offset_was_set_to_what_it_was_is_known() -> None:
    """The offset read is another in the simulation: it is its own that makes no difference there."""
    script = (
        *(CreateVcpu(vcpu=vcpu, guest="wrmsr-16", label=f"create-{vcpu}") for vcpu in (0, 1)),
        GetTscOffset(vcpu=1, label="offset"),
        SetTscOffset(vcpu=1, offset=Read("offset", 0), label="set-offset"),
        GuestWrite(vcpu=0, msr="TSC", value=10**9, label="guest"),
        Run(vcpu=1, label="run"),
        Run(vcpu=0, label="run-again"),
        GetClock(label="clock"),
    )
    for policy in ("mainline-6.7", "mainline-before-6.7"):
        trace = simulate("", script, POLICIES[policy], debugfs=True)
        symptoms = Oracles(POLICIES[policy], HOST).ask(trace).symptoms
        assert [(each.what, each.step, each.predicted) for each in symptoms] == [("not-stable", 8, True)]


def test_a_machine_that_is_booted_anew_may_have_another_rate() -> None:
    first, *others = (player(SimulatedRules, host=replace(HOST, khz=khz)) for khz in (1_000_000, 999_000))
    players = iter((first, *others * 100))

    def play(scenarios: Sequence[Scenario]) -> Session:
        return next(players)(scenarios)

    campaign = explored(play, expecting(), 3)
    assert campaign.findings == []
    assert campaign.tally.steps > 500
    assert campaign.tally.doubtful < campaign.tally.scripts / 4


def test_two_machines_with_other_rates_are_no_two_kernels() -> None:
    first, other = (player(SimulatedRules, host=replace(HOST, khz=khz)) for khz in (1_000_000, 999_000))
    settings = replace(expecting(), names=("first", "second"))
    assert explored(first, settings, 6, against=other).findings == []
    old = player(SimulatedRules, "mainline-before-6.7", replace(HOST, khz=999_000))
    assert {each.symptom.oracle for each in explored(first, settings, 6, against=old).findings} == {DIFFERS}


def findings_of(rules: Rules) -> list[Finding]:
    return explored(player(rules), expecting(), 25).findings


def test_a_finding_says_what_is_wrong_the_script_and_how_things_stood_before() -> None:
    finding = findings_of(FAULTS["GateByHostAdjust"])[0]
    text = "\n".join(finding.lines)
    assert "mainline-6.7 allows" in text
    assert "user_set_tsc false" in text
    assert finding.script[0].in_words() in text
    assert "mainline-before-6.7" in text, "which has no gate, and so does the same"


def test_a_finding_becomes_a_scenario_of_its_script() -> None:
    finding = findings_of(FAULTS["GateByCreation"])[0]
    scenario = finding.scenario("here")
    assert scenario.script == finding.script
    assert scenario.source == "here"
    assert scenario.name == finding.name
