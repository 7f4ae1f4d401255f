# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge is neither blind nor given to false alarms: what holds for every policy, script and pace.

`pytest tests/test_model_properties.py --hypothesis-profile nightly` plays two hundred times as many.
"""

import dataclasses

from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from kvmharness.judging.difference import first_difference
from kvmharness.model.judge import Possibility, Replay, judge
from kvmharness.model.masterclock import ClockBehindError
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import HOST, Pace, simulate
from kvmharness.model.state import DoubtError, Host
from kvmharness.model.written_rule import rules_of
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import CreateVcpu, GetMsrs, GetTscOffset, GuestWrite, Run, Script, SetMsrs, Time
from kvmharness.trace import Event, Trace
from tests.model_strategies import hosts, paces, policies, scripts, short_paces


def played(
    script: Script,
    policy: Policy,
    host: Host,
    data: st.DataObject,
    pace: st.SearchStrategy[Pace],
    *,
    debugfs: bool = False,
) -> Trace:
    try:
        return simulate(
            "any",
            script,
            policy,
            host,
            pace=lambda operation: data.draw(pace),
            choose=lambda count: data.draw(st.integers(0, count - 1)),
            debugfs=debugfs,
        )
    except ClockBehindError:
        reject()  # the model does not predict where KVM moves the TSC then


def assert_possible(trace: Trace, policy: Policy, host: Host) -> None:
    """Where vCPUs are written at once, or a rule leaves things open, it may go too many ways to follow; and
    nothing follows from a clocksource that leaves the TSC where it may have been another before. Then all of
    it up to there is possible."""
    judgement = judge(trace, policy, host)
    if judgement.doubt.startswith(("too much stays open", "whether the host's clock ran on the TSC")):
        followed = dataclasses.replace(trace, events=trace.events[: judgement.step - 1])
        judgement = judge(followed, policy, host)
    assert judgement.possibility is Possibility.POSSIBLE, judgement


@given(scripts(), policies, hosts, st.data())
def test_what_the_model_plays_is_possible_under_its_policy(
    script: Script, policy: Policy, host: Host, data: st.DataObject
) -> None:
    trace = played(script, policy, host, data, paces, debugfs=data.draw(st.booleans()))
    assert_possible(trace, policy, host)


@given(scripts(timers=True), policies, hosts, st.data())
def test_what_the_model_plays_of_deadline_timers_is_possible_under_its_policy(
    script: Script, policy: Policy, host: Host, data: st.DataObject
) -> None:
    trace = played(script, policy, host, data, paces)
    assert_possible(trace, policy, host)


@settings(max_examples=settings().max_examples // 4)
@given(scripts(nested=True), policies, hosts, st.data())
def test_what_the_model_plays_of_nested_guests_is_possible_under_its_policy(
    script: Script, policy: Policy, host: Host, data: st.DataObject
) -> None:
    trace = played(script, policy, host, data, paces)
    assert_possible(trace, policy, host)


@given(scripts(frequencies=False), policies, hosts, st.data())
def test_it_is_possible_too_when_nothing_is_known_of_the_host(
    script: Script, policy: Policy, host: Host, data: st.DataObject
) -> None:
    trace = played(script, policy, host, data, paces, debugfs=data.draw(st.booleans()))
    assert_possible(trace, policy, Host(stable=host.stable))


def worlds(trace: Trace, policy: Policy) -> int:
    """In how many ways a trace may have come about; 0 where these are too many to follow."""
    replay = Replay(rules_of(policy, HOST), trace.created)
    try:
        for step, event in enumerate(trace.events, 1):
            replay.play(step, event)
    except DoubtError:
        return 0
    return len(replay.worlds)


def readings(trace: Trace) -> list[int]:
    """The places of the steps that read a TSC or an offset."""
    return [
        place
        for place, event in enumerate(trace.events)
        if not event.error
        and (
            isinstance(event.operation, GetTscOffset | Run)
            or (isinstance(event.operation, GetMsrs) and event.operation.indices[0] == "TSC")
        )
    ]


def changed(trace: Trace, place: int, event: Event) -> Trace:
    return dataclasses.replace(trace, events=(*trace.events[:place], event, *trace.events[place + 1 :]))


def test_what_a_pending_answer_rests_on_is_not_forgotten() -> None:
    # A fork in the middle of the guest's write once dropped the unknown that its first sample rests on.
    script = (
        CreateVcpu(vcpu=0, guest="wrmsr-16"),
        *(SetMsrs(vcpu=0, msrs=(("TSC", Time(number * 10**11)),)) for number in range(1, 15)),
        GuestWrite(vcpu=0, msr="TSC", value=5),
    )
    for stable in (True, False):
        host = dataclasses.replace(HOST, stable=stable)
        trace = simulate("any", script, POLICIES["mainline-6.7"], host)
        assert judge(trace, POLICIES["mainline-6.7"], host).possibility is Possibility.POSSIBLE


# Without catch-up, which the model only bounds, and with a TSC that is KVM's.
exact_policies = policies.filter(lambda policy: policy.honours_writes and policy.reloads == "unstable")


@settings(max_examples=settings().max_examples // 2)
@given(scripts(frequencies=False), exact_policies, st.data())
def test_a_reading_changed_by_more_than_the_brackets_allow_is_impossible(
    script: Script, policy: Policy, data: st.DataObject
) -> None:
    trace = played(script, policy, HOST, data, short_paces)
    assume(readings(trace))
    # Where a bracket straddles a decision, the changed value may be what the other world had.
    assume(worlds(trace, policy) == 1)
    place = data.draw(st.sampled_from(readings(trace)))
    event = trace.events[place]
    # An offset is known to the bracket of what set it, maybe the VM's creation, and that of each reading.
    assert trace.created
    slack = trace.created.width + sum(each.bracket.width for each in trace.events)
    by = data.draw(st.integers(slack + 1, 2**62)) * data.draw(st.sampled_from([1, -1]))
    wrong = dataclasses.replace(event, values=((event.values[0] + by) % 2**64, *event.values[1:]))
    judgement = judge(changed(trace, place, wrong), policy, HOST)
    assert judgement.possibility is Possibility.IMPOSSIBLE
    assert judgement.step >= place + 1
    assert judgement.mismatch
    assert judgement.mismatch.observed
    assert judgement.mismatch.allowed


@given(scripts(frequencies=False), exact_policies, st.data())
def test_a_write_that_was_refused_is_impossible(script: Script, policy: Policy, data: st.DataObject) -> None:
    created = [each.vcpu for each in script if isinstance(each, CreateVcpu)]
    script = (*script, *(SetMsrs(vcpu=vcpu, msrs=(("TSC", 1),)) for vcpu in created[:1]))
    trace = played(script, policy, HOST, data, short_paces)
    writes = [
        place
        for place, event in enumerate(trace.events)
        if isinstance(event.operation, SetMsrs) and all(name == "TSC" for name, _ in event.operation.msrs)
    ]
    assume(writes)
    place = data.draw(st.sampled_from(writes))
    judgement = judge(
        changed(trace, place, dataclasses.replace(trace.events[place], error="EINVAL")), policy, HOST
    )
    assert (judgement.possibility, judgement.step) == (Possibility.IMPOSSIBLE, place + 1)
    assert judgement.mismatch
    assert judgement.mismatch.expected == "success"


def decided(policy: Policy) -> Policy:
    """The policy with nothing left open: two kernels that have it do the same of the same script."""
    rule = policy.rule and dataclasses.replace(
        policy.rule, decisions=tuple(bool(each is None) or each for each in policy.rule.decisions)
    )
    renews = "generation" if policy.renews_masterclock == "either" else policy.renews_masterclock
    return dataclasses.replace(
        policy, rule=rule, renews_masterclock=renews, reloads="unstable", honours_writes=True
    )


decided_policies = policies.map(decided)
STABLE = sorted(name for name, each in SCENARIOS.items() if "stable-tsc" not in each.lacks)


@given(scripts(frequencies=False), decided_policies, decided_policies)
def test_two_kernels_that_differ_without_any_policy_are_not_both_possible_under_either(
    script: Script, policy: Policy, other: Policy
) -> None:
    traces = [simulate("any", script, each, HOST, debugfs=True) for each in (policy, other)]
    if first_difference(*traces) is not None:
        found = {judge(traces[0], other, HOST).possibility, judge(traces[1], policy, HOST).possibility}
        assert found != {Possibility.POSSIBLE}


@given(st.sampled_from(STABLE), decided_policies, decided_policies)
def test_a_scenario_in_which_the_judge_distinguishes_two_random_policies_shows_a_difference_without_any(
    name: str, policy: Policy, other: Policy
) -> None:
    scenario = SCENARIOS[name]
    traces = [simulate(name, scenario.script, each, scenario.host, debugfs=True) for each in (policy, other)]
    impossible = {
        judge(traces[0], other, scenario.host).possibility,
        judge(traces[1], policy, scenario.host).possibility,
    }
    distinguished, shown = Possibility.IMPOSSIBLE in impossible, first_difference(*traces) is not None
    # Without a policy nothing says at which step the masterclock was looked at, of which a page is written.
    assert shown or not distinguished or policy.flags_from != other.flags_from
    # How much a vCPU loses that writes its own TSC is not known: the judge follows several ways then.
    assert distinguished or not shown or "synchronizes" in (policy.khz_write, other.khz_write)
