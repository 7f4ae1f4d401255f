# SPDX-License-Identifier: GPL-2.0-or-later
"""From traces to verdicts, on KVMs that the model makes up."""

import dataclasses
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from kvmharness.contract import Status
from kvmharness.judging import capabilities, kvm
from kvmharness.judging.identity import Identity, identify
from kvmharness.judging.judge import judge_probe, judge_scenario
from kvmharness.judging.probe import Probe
from kvmharness.judging.session import Session, SessionResult, settle
from kvmharness.judging.verdict import MAINLINE, Expectation, Result, Verdict, exit_status
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.rules import Rules
from kvmharness.model.simulate import HOST
from kvmharness.model.state import World
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.script import GetMsrs, SetTscOffset
from kvmharness.trace import Trace
from tests.made_up import NEVER_SNAPS, play, probe, session, with_step


def verdict(name: str, policy: str | Policy, expect: str | None = "mainline-6.7") -> Result:
    """A scenario on a KVM with one policy, judged by another, or by its contract alone."""
    scenario = SCENARIOS[name]
    expectation = Expectation(POLICIES[expect] if expect else None)
    return judged(scenario, play(name, scenario.script, policy), probe(policy), expectation)


def judged(scenario: Scenario, trace: Trace, probed: Probe, expectation: Expectation = MAINLINE) -> Result:
    """A scenario that was played on the KVM of that probe."""
    return judge_scenario(scenario, trace, kvm.seen(probed, expectation))


# What no release has.
PROPOSED = ["tsc-scale-attribute", "clock-guest"]


def states(probed: Probe) -> dict[str, Status]:
    return {name: finding.status for name, finding in capabilities.findings(probed).items()}


def missing(probed: Probe) -> list[str]:
    return [name for name, state in states(probed).items() if state is not Status.KEPT]


def test_a_kvm_that_honours_writes_has_every_capability_but_scaling() -> None:
    assert missing(probe()) == ["tsc-scaling", *PROPOSED]
    assert missing(probe(host=dataclasses.replace(HOST, fraction_bits=48))) == PROPOSED


def test_what_no_release_has_is_found_by_effect_in_a_kernel_that_has_it() -> None:
    scales = dataclasses.replace(HOST, fraction_bits=48, has_scale=True)
    assert missing(probe(host=scales)) == ["clock-guest"]
    assert missing(probe(host=dataclasses.replace(scales, has_clock_guest=True))) == []
    facts = capabilities.host_facts(probe(host=dataclasses.replace(scales, has_clock_guest=True)))
    assert (facts.has_scale, facts.has_clock_guest) == (True, True)
    facts = capabilities.host_facts(probe())
    assert (facts.has_scale, facts.has_clock_guest) == (False, False)


def test_a_kvm_that_ignores_writes_is_found_out_by_effect() -> None:
    assert missing(probe("tsc-protected")) == [
        *("tsc-write", "tsc-offset", "masterclock", "clock-realtime", "tsc-scaling"),
        *(*PROPOSED, "xen-unmarked"),  # the model says nothing of pages there
    ]


def test_how_a_kvm_without_a_xen_would_serve_its_guests_is_neither_this_way_nor_that() -> None:
    found = states(probe(host=dataclasses.replace(HOST, has_xen=False)))
    assert (found["xen-time"], found["xen-runstate"]) == (Status.BROKEN, Status.BROKEN)
    assert (found["xen-unmarked"], found["xen-runstate-kept"]) == (Status.UNDECIDED, Status.UNDECIDED)


def test_an_unstable_tsc_is_found_out_by_effect() -> None:
    assert states(probe(stable=False))["stable-tsc"] is Status.BROKEN


@pytest.mark.parametrize("errno", ["EINVAL", "ENXIO"])
def test_a_kernel_without_the_offset_attribute_lacks_that_alone(errno: str) -> None:
    # EINVAL is what a real 5.10 answers.
    assert missing(probe(attribute_errno=errno)) == [
        *("tsc-offset", "offset-attribute", "tsc-scaling"),
        *PROPOSED,
    ]


def test_what_the_probe_says_of_the_host_is_what_the_model_goes_by() -> None:
    host = capabilities.host_facts(probe())
    assert (host.khz, host.khz_exact, host.stable) == (2_000_000, True, True)
    assert (host.tsc_clocksource, host.has_attribute, host.fraction_bits) == (True, True, 0)
    assert capabilities.host_facts(probe(attribute_errno="ENXIO")).has_attribute is False
    assert capabilities.host_facts(probe(stable=False)).stable is False


def test_a_kept_contract_on_a_kernel_as_expected_passes() -> None:
    result = verdict("young-restore", "mainline-6.7")
    assert (result.verdict, result.kept, result.conforms) == (Verdict.PASS, True, True)
    assert (result.reason, result.step) == ("", 0)


def test_a_contract_that_the_expected_policy_breaks_itself_is_an_xfail() -> None:
    result = verdict("three-writes", "mainline-6.7")
    assert (result.verdict, result.kept, result.conforms) == (Verdict.XFAIL, False, True)
    assert "the write was overridden" in result.reason


def test_a_kernel_with_another_policy_fails_even_where_it_keeps_the_contract() -> None:
    # Oliver Upton's version honours the write, which 6.7 does not.
    result = verdict("offset-then-write", "oliver-upton")
    assert (result.verdict, result.kept, result.conforms) == (Verdict.FAIL, True, False)


def test_a_failure_names_the_step_what_had_to_be_what_was_and_who_would_do_it() -> None:
    result = verdict("young-restore", "mainline-before-6.7")
    assert (result.verdict, result.kept, result.conforms, result.step) == (Verdict.FAIL, False, False, 5)
    assert result.mismatch
    assert result.mismatch[:2] == ("read the TSC offset of vCPU 0", "offset -7200000002000")
    (allowed,) = result.mismatch.allowed
    assert allowed.result.startswith("offset -7198300046400 to ")
    assert allowed.difference.endswith(" cycles (850.0 ms) higher than observed")
    assert allowed.because.startswith("at step 4 the write takes effect: ")
    assert result.consistent_with == ("mainline-before-6.7", "like-xu-v1", "clock-series-2026-khz")
    assert result.reason == (
        f"read the TSC offset of vCPU 0: observed offset -7200000002000; expected (mainline-6.7) "
        f"{allowed.result}, {allowed.difference}, because {allowed.because}; consistent with "
        "mainline-before-6.7, like-xu-v1, clock-series-2026-khz"
    )


def test_a_kernel_that_does_what_nobody_proposed_is_said_to() -> None:
    assert verdict("qemu-pair-old", NEVER_SNAPS).reason.endswith(
        "; consistent with sean-christopherson, like-xu-v2"
    )
    odd = dataclasses.replace(NEVER_SNAPS, window_ns=1, snap_requires=frozenset())
    assert verdict("write-zero", odd).reason.endswith("; consistent with no known policy")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_kernel_judged_by_its_own_policy_never_fails(policy: str) -> None:
    expectation = Expectation(POLICIES[policy])
    hosts = {each.host for each in SCENARIOS.values()}
    kvms = {host: kvm.seen(probe(policy, host=host), expectation) for host in hosts}
    for name, scenario in SCENARIOS.items():
        trace = play(name, scenario.script, policy, host=scenario.host)
        found = judge_scenario(scenario, trace, kvms[scenario.host]).verdict
        assert found in (Verdict.PASS, Verdict.XFAIL, Verdict.SKIP), name
        # On a machine made for it nothing is missing, unless it is what protected TSCs lack or have.
        if policy == "tsc-protected":
            assert found is not Verdict.SKIP or {
                "tsc-scaling",
                "stable-tsc",
                "clock-realtime",
                "clocksource",
                *PROPOSED,
            } & {
                *scenario.needs,
                *scenario.lacks,
            }
        else:
            assert found is not Verdict.SKIP or "tsc-write" in scenario.lacks


def on_a_mutant(monkeypatch: pytest.MonkeyPatch, rule: str, mutant: object) -> SessionResult:
    """What all scenarios come to on a kernel of 6.7 in which one rule is another."""
    with monkeypatch.context() as patch:
        patch.setattr(Rules, rule, mutant)
        played = session(list(SCENARIOS.values()))
    return settle(list(SCENARIOS.values()), lambda wanted: played)


def failed(outcome: SessionResult) -> dict[str, Result]:
    return {each.scenario: each for each in outcome.results if each.verdict is Verdict.FAIL}


def test_an_attribute_that_does_nothing_is_a_fault_and_no_missing_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = on_a_mutant(monkeypatch, "set_offset", lambda self, world, *_: [world])
    found = failed(outcome)["offset-across-run"]
    assert found.reason.startswith("read the TSC offset of vCPU 0: ")
    assert found.reason.endswith("; consistent with no known policy")
    # That the contract was not asked for is said, and why.
    assert (found.kept, found.conforms) == (None, False)
    assert found.finding == f"not asked: {capabilities.CAPABILITIES['tsc-offset'].missing}"


def test_what_the_probe_finds_is_reported_once_and_spoils_no_other_scenario(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = on_a_mutant(monkeypatch, "set_offset", lambda self, world, *_: [world])
    found = failed(outcome)
    assert next(iter(found)) == "probe-offset"
    assert found["probe-offset"].contract.startswith("KVM_VCPU_TSC_OFFSET sets the vCPU's offset")
    for name in found.keys() - {"probe-offset"}:
        assert any(isinstance(each, SetTscOffset) for each in SCENARIOS[name].script), name
    passed = {each.scenario for each in outcome.results if each.verdict is Verdict.PASS}
    assert {"young-restore", "qemu-pair-old", "old-restore"} <= passed


def test_a_kernel_that_never_matches_two_vcpus_fails_and_has_a_masterclock_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = failed(on_a_mutant(monkeypatch, "all_match", lambda self, world: len(world.vcpus) == 1))
    assert "KVM_CLOCK_TSC_STABLE set, because 1 of 2 vCPUs matched" in found["clock-flags"].reason


def every_second(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule that every second time does nothing when userspace asks for it."""
    calls = count()

    def lazy(self: Rules, world: World, *arguments: Any, **options: Any) -> list[World]:
        if options.get("user") and next(calls) % 2:
            return [world]
        result: list[World] = rule(self, world, *arguments, **options)
        return result

    return lazy


def test_a_trace_that_no_policy_explains_fails_also_where_its_scenario_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skipped = SCENARIOS["unstable-pair"]
    with monkeypatch.context() as patch:
        patch.setattr(Rules, "synchronize_tsc", every_second(Rules.synchronize_tsc))
        trace = play(skipped.name, skipped.script)
    outcome = settle([skipped], lambda wanted: Session(probe(), {skipped.name: trace}))
    (result,) = outcome.results
    assert (result.verdict, result.conforms) == (Verdict.FAIL, False)
    assert result.finding == "not asked: this host's TSC is stable"
    assert outcome.identity == Identity(())
    assert exit_status(outcome.results) == 1


def test_where_it_is_not_known_whether_writes_are_honoured_a_protected_tsc_fails_nothing() -> None:
    scenario = SCENARIOS["unstable-pair"]
    trace = play(scenario.name, scenario.script, "tsc-protected")
    unsure = with_step(probe(), "write", error="ENOMEM")
    assert judged(scenario, trace, unsure).verdict is Verdict.INCONCLUSIVE
    # On a machine that protects none there is no such excuse.
    firm = Expectation(may_be_protected=False)
    assert judged(scenario, trace, unsure, firm).verdict is Verdict.FAIL


def test_a_protected_tsc_that_is_expected_is_judged_and_not_skipped() -> None:
    result = verdict("old-restore", "tsc-protected", "tsc-protected")
    assert (result.verdict, result.kept, result.conforms) == (Verdict.XFAIL, False, True)
    assert verdict("old-restore", "mainline-6.7", "tsc-protected").verdict is Verdict.FAIL


def test_a_probe_of_another_version_judges_nothing() -> None:
    scenario, probed = SCENARIOS["old-restore"], probe()
    trace = play("old-restore", scenario.script)
    ended = dataclasses.replace(probed.traces[-1], events=probed.traces[-1].events[:-1])
    assert judged(scenario, trace, Probe((*probed.traces[:-1], ended))).verdict is Verdict.PASS
    odd = with_step(probed, "tsc-aged", operation=GetMsrs(vcpu=0, indices=("TSC",), label="write"))
    twice = Probe((*probed.traces, probed.traces[0]))
    for other in (odd, twice, Probe(probed.traces[1:])):
        result = judged(scenario, trace, other)
        assert (result.verdict, result.reason) == (
            Verdict.INCONCLUSIVE,
            "the probe is not that of this version",
        )


def test_traces_that_say_nothing_identify_nothing() -> None:
    nothing = with_step(probe(), "create-0", error="ENOMEM", values=())
    trace = Trace("old-restore", "made-up", ())
    assert identify([(kvm.seen(Probe((nothing.traces[0],))), trace)]) is None


def test_the_contracts_alone_need_no_policy() -> None:
    assert verdict("three-writes", "mainline-6.7", None).verdict is Verdict.FAIL
    assert verdict("offset-then-write", "oliver-upton", None).verdict is Verdict.PASS
    assert verdict("young-restore", "mainline-6.7", None).conforms is None


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_kvm_cannot_do_is_skipped_by_name(name: str) -> None:
    result = verdict(name, "tsc-protected")
    if result.verdict is not Verdict.SKIP:
        # What holds there all the same.
        assert result.verdict is Verdict.PASS
        assert set(capabilities.implied(SCENARIOS[name].needs)) <= {
            *("stable-tsc", "guest-16", "two-cpus", "cpu-hotplug", "deadline-timer", "steal-time")
        }
        return
    known = capabilities.CAPABILITIES.values()
    assert result.reason in {text for capability in known for text in (capability.missing, capability.there)}


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_unstable_tsc_fails_nothing(name: str) -> None:
    scenario = SCENARIOS[name]
    trace = play(name, scenario.script, stable=False)
    verdict = judged(scenario, trace, probe(stable=False)).verdict
    # A steal time depends on no TSC.
    holds = "stable-tsc" in scenario.lacks or "steal-time" in scenario.needs
    assert verdict is (Verdict.PASS if holds else Verdict.SKIP)


@pytest.mark.parametrize(("name", "label"), [("young-restore", "restore"), ("qemu-pair-young", "restore-0")])
def test_a_player_that_was_held_up_proves_nothing(name: str, label: str) -> None:
    # Two seconds late the VM is young no longer, and a kernel before 6.7 keeps the written value too.
    scenario = SCENARIOS[name]
    trace = play(name, scenario.script, "mainline-before-6.7", held_up=(label, 2 * 10**9))
    finding = scenario.claims[0].check(trace)
    assert finding.status is Status.UNDECIDED
    assert "too far to say anything about the kernel" in finding.reason
    assert judged(scenario, trace, probe("mainline-before-6.7")).verdict is Verdict.INCONCLUSIVE


def test_a_probe_that_could_not_tell_is_no_missing_capability() -> None:
    scenario = SCENARIOS["young-restore"]
    unsure = with_step(probe(), "write", error="ENOMEM")
    result = judged(scenario, play(scenario.name, scenario.script), unsure)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason == "the probe could not decide tsc-write: step 'write' failed with ENOMEM"


def test_on_an_unstable_tsc_the_probe_cannot_tell_what_a_write_did() -> None:
    found = states(probe(stable=False))
    assert {found[name] for name in ("tsc-write", "tsc-offset", "guest-16")} == {Status.UNDECIDED}
    # But a rate that is refused is refused there as well, and an attribute that is there is there.
    assert (found["tsc-scaling"], found["offset-attribute"]) == (Status.BROKEN, Status.KEPT)


def test_a_rate_that_the_kernel_does_not_tell_right_is_not_what_the_host_is_judged_by() -> None:
    odd = with_step(probe(), "host-khz", values=(7,))
    assert capabilities.host_facts(odd).khz == 2_000_000
    assert capabilities.host_facts(odd).khz_exact is False
    (only,) = judge_probe(kvm.seen(odd))
    assert (only.scenario, only.kind) == ("probe-khz", "get_tsc_khz")


def test_a_trace_of_another_script_is_not_judged() -> None:
    trace = play("old-restore", SCENARIOS["old-restore"].script)
    assert judged(SCENARIOS["young-restore"], trace, probe()).verdict is Verdict.INCONCLUSIVE


def test_a_trace_that_ended_early_is_not_judged() -> None:
    scenario = SCENARIOS["young-restore"]
    trace = play(scenario.name, scenario.script)
    cut = dataclasses.replace(trace, events=trace.events[:3])
    assert judged(scenario, cut, probe()).verdict is Verdict.INCONCLUSIVE


def test_a_contract_that_is_broken_where_the_model_leaves_it_open_is_not_foretold() -> None:
    assert verdict("three-writes", "mainline-6.7").predicted
    scenario = SCENARIOS["set-clock-with-realtime"]
    trace = play(scenario.name, scenario.script, "mainline-6.7")
    after = next(each for each in trace.events if each.operation.label == "clock-after")
    # Of real time the model knows nothing but that KVM adds what passed.
    values = (*after.values[:2], after.values[2] + 3_600 * 10**9, after.values[3])
    later = tuple(
        dataclasses.replace(each, values=values) if each is after else each for each in trace.events
    )
    result = judged(scenario, dataclasses.replace(trace, events=later), probe())
    assert (result.verdict, result.predicted) == (Verdict.XFAIL, False)


def test_a_kvm_that_ignores_writes_is_at_fault_where_nothing_protects_a_tsc() -> None:
    scenario = SCENARIOS["old-restore"]
    trace = play(scenario.name, scenario.script, "tsc-protected")
    assert judged(scenario, trace, probe("tsc-protected")).verdict is Verdict.SKIP
    firm = Expectation(may_be_protected=False)
    result = judged(scenario, trace, probe("tsc-protected"), firm)
    assert (result.verdict, result.consistent_with) == (Verdict.FAIL, ("tsc-protected",))
    once, *by_others = judge_probe(kvm.seen(probe("tsc-protected"), firm))
    assert (once.scenario, once.consistent_with) == ("probe", ("tsc-protected",))
    assert once.reason.endswith(
        "; the same in probe-guests, probe-write, probe-offset, probe-scaling, probe-proposed"
    )
    # Other kinds of operations show it, too.
    assert [(each.scenario, each.consistent_with) for each in by_others] == [
        ("probe-hyperv", ("tsc-protected",)),
        ("probe-nested", ("tsc-protected",)),
        ("probe-steal", ("tsc-protected",)),
        ("probe-xen", ("tsc-protected",)),
    ]


def test_by_its_contract_alone_too_nothing_is_said_of_what_was_played_while_the_host_slept() -> None:
    scenario = SCENARIOS["old-restore"]
    trace = play(scenario.name, scenario.script, "mainline-6.7")
    minute = 60 * 2_000_000_000
    slept = tuple(
        dataclasses.replace(
            event,
            bracket=event.bracket._replace(
                tsc_before=event.bracket.tsc_before + minute, tsc_after=event.bracket.tsc_after + minute
            ),
        )
        for event in trace.events[2:]
    )
    asleep = dataclasses.replace(trace, events=(*trace.events[:2], *slept))
    assert judged(scenario, trace, probe(), Expectation(None)).verdict is Verdict.PASS
    result = judged(scenario, asleep, probe(), Expectation(None))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "was it suspended?" in result.reason


def results(*verdicts: Verdict) -> list[Result]:
    return [Result("s", verdict, "c") for verdict in verdicts]


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([Verdict.PASS, Verdict.SKIP], 0),
        ([Verdict.XFAIL, Verdict.SKIP], 0),
        ([Verdict.PASS, Verdict.INCONCLUSIVE], 0),
        ([Verdict.PASS, Verdict.FAIL, Verdict.LOST], 1),
        ([Verdict.PASS, Verdict.LOST], 3),
        ([Verdict.SKIP, Verdict.INCONCLUSIVE], 4),
        ([], 4),
    ],
)
def test_the_exit_status_is_that_of_the_gravest_verdict(verdicts: list[Verdict], status: int) -> None:
    assert exit_status(results(*verdicts)) == status


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([Verdict.PASS, Verdict.XFAIL, Verdict.SKIP], 0),
        ([Verdict.PASS, *[Verdict.INCONCLUSIVE] * 105], 4),
        ([Verdict.FAIL, Verdict.INCONCLUSIVE], 1),
        ([Verdict.PASS, Verdict.LOST], 3),
        ([Verdict.SKIP], 4),
    ],
)
def test_if_strict_everything_has_to_be_judged_that_should_be(verdicts: list[Verdict], status: int) -> None:
    assert exit_status(results(*verdicts), strict=True) == status
