# SPDX-License-Identifier: GPL-2.0-or-later
"""From traces to verdicts, on KVMs that the model makes up."""

import dataclasses

import pytest

from kvmharness.contract import Status, check
from kvmharness.judging import capabilities
from kvmharness.judging.identity import Identity, identify
from kvmharness.judging.verdict import Expectation, Result, Verdict, exit_status, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.rules import Rules
from kvmharness.model.simulate import HOST
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Trace
from tests.made_up import NEVER_SNAPS, play, probe, session


def verdict(name: str, policy: str | Policy, expect: str | None = "mainline-6.7") -> Result:
    """A scenario on a KVM with one policy, judged by another, or by its contract alone."""
    scenario = SCENARIOS[name]
    expectation = Expectation(POLICIES[expect] if expect else None)
    return judge(scenario, play(name, scenario.script, policy), probe(policy), expectation)


def states(trace: Trace) -> dict[str, Status]:
    return {name: finding.status for name, finding in capabilities.findings(trace).items()}


def missing(trace: Trace) -> list[str]:
    return [name for name, status in states(trace).items() if status is not Status.KEPT]


def test_a_kvm_that_honours_writes_has_every_capability_but_scaling() -> None:
    assert missing(probe()) == ["tsc-scaling"]
    assert missing(play("probe", capabilities.PROBE, host=dataclasses.replace(HOST, fraction_bits=48))) == []


def test_a_kvm_that_ignores_writes_is_found_out_by_effect() -> None:
    assert missing(probe("tsc-protected")) == [
        *("tsc-write", "tsc-offset", "masterclock", "clock-realtime", "tsc-scaling")
    ]


def test_an_unstable_tsc_is_found_out_by_effect() -> None:
    assert states(probe(stable=False))["stable-tsc"] is Status.BROKEN


@pytest.mark.parametrize("errno", ["EINVAL", "ENXIO"])
def test_a_kernel_without_the_offset_attribute_lacks_that_alone(errno: str) -> None:
    # EINVAL is what a real 5.10 answers.
    assert missing(probe(attribute_errno=errno)) == ["tsc-offset", "offset-attribute", "tsc-scaling"]


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
    assert result.explained_by == ("mainline-before-6.7", "like-xu-v1")
    assert result.reason == (
        f"read the TSC offset of vCPU 0: observed offset -7200000002000; expected (mainline-6.7) "
        f"{allowed.result}, {allowed.difference}, because {allowed.because}; consistent with "
        "mainline-before-6.7, like-xu-v1"
    )


def test_a_kernel_that_does_what_nobody_proposed_is_said_to() -> None:
    assert verdict("qemu-pair-old", NEVER_SNAPS).reason.endswith(
        "; consistent with sean-christopherson, like-xu-v2"
    )
    odd = dataclasses.replace(NEVER_SNAPS, window_ns=1, snap_requires=frozenset())
    assert verdict("write-zero", odd).reason.endswith("; consistent with no known policy")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_kernel_judged_by_its_own_policy_never_fails(policy: str) -> None:
    for name, scenario in SCENARIOS.items():
        probed = play("probe", capabilities.PROBE, policy, host=scenario.host)
        trace = play(name, scenario.script, policy, host=scenario.host)
        found = judge(scenario, trace, probed, Expectation(POLICIES[policy])).verdict
        assert found in (Verdict.PASS, Verdict.XFAIL, Verdict.SKIP), name
        # On a machine made for it nothing is missing, unless it is what protected TSCs lack or have.
        if policy == "tsc-protected":
            assert found is not Verdict.SKIP or {"tsc-scaling", "stable-tsc", "clock-realtime"} & {
                *scenario.needs,
                *scenario.lacks,
            }
        else:
            assert found is not Verdict.SKIP or "tsc-write" in scenario.lacks


def on_a_mutant(
    monkeypatch: pytest.MonkeyPatch, rule: str, mutant: object, name: str
) -> tuple[Result, Identity | None]:
    """A scenario on a kernel of 6.7 in which one rule is another, and what all scenarios say it is."""
    with monkeypatch.context() as patch:
        patch.setattr(Rules, rule, mutant)
        played = session(list(SCENARIOS.values()))
    traces = [(played.probe, trace) for trace in played.traces.values()]
    return judge(SCENARIOS[name], played.traces[name], played.probe), identify(traces, POLICIES.values())


def test_an_attribute_that_does_nothing_is_a_fault_and_no_missing_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result, identity = on_a_mutant(
        monkeypatch, "set_offset", lambda self, world, *_: [world], "offset-across-run"
    )
    assert result.verdict is Verdict.FAIL
    assert result.reason.startswith("already in the probe: ")
    assert result.reason.endswith("; consistent with no known policy")
    assert identity == Identity(())


def test_a_kernel_that_never_matches_two_vcpus_fails_and_has_a_masterclock_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result, _ = on_a_mutant(
        monkeypatch, "_all_match", lambda self, world: len(world.vcpus) == 1, "clock-flags"
    )
    assert result.verdict is Verdict.FAIL
    assert "KVM_CLOCK_TSC_STABLE set, because 1 of 2 vCPUs matched" in result.reason


def test_a_protected_tsc_that_is_expected_is_judged_and_not_skipped() -> None:
    result = verdict("old-restore", "tsc-protected", "tsc-protected")
    assert (result.verdict, result.kept, result.conforms) == (Verdict.XFAIL, False, True)
    assert verdict("old-restore", "mainline-6.7", "tsc-protected").verdict is Verdict.FAIL


def test_a_probe_of_another_version_is_read_by_its_labels() -> None:
    scenario, probed = SCENARIOS["old-restore"], probe()
    longer = dataclasses.replace(probed, events=probed.events[:-3])
    assert judge(scenario, play("old-restore", scenario.script), longer).verdict is Verdict.PASS
    odd = dataclasses.replace(
        probed.events[2], operation=dataclasses.replace(probed.events[2].operation, label="write")
    )
    other = dataclasses.replace(probed, events=(*probed.events[:2], odd, *probed.events[3:]))
    result = judge(scenario, play("old-restore", scenario.script), other)
    assert (result.verdict, result.reason) == (
        Verdict.INCONCLUSIVE,
        "the probe is not the one of this version",
    )


def test_traces_that_say_nothing_identify_nothing() -> None:
    probed = probe()
    first = dataclasses.replace(probed.events[0], error="ENOMEM", values=())
    broken = dataclasses.replace(probed, events=(first,))
    assert identify([(broken, broken)], POLICIES.values()) is None


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
        assert set(capabilities.implied(SCENARIOS[name].needs)) <= {"stable-tsc", "guest-16", "two-cpus"}
        return
    known = capabilities.CAPABILITIES.values()
    assert result.reason in {text for capability in known for text in (capability.missing, capability.there)}


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_unstable_tsc_fails_nothing(name: str) -> None:
    scenario = SCENARIOS[name]
    trace = play(name, scenario.script, stable=False)
    verdict = judge(scenario, trace, probe(stable=False)).verdict
    assert verdict is (Verdict.PASS if "stable-tsc" in scenario.lacks else Verdict.SKIP)


@pytest.mark.parametrize(("name", "label"), [("young-restore", "restore"), ("qemu-pair-young", "restore-0")])
def test_a_player_that_was_held_up_proves_nothing(name: str, label: str) -> None:
    # Two seconds late the VM is young no longer, and a kernel before 6.7 keeps the written value too.
    scenario = SCENARIOS[name]
    trace = play(name, scenario.script, "mainline-before-6.7", held_up=(label, 2 * 10**9))
    finding = check(scenario.claims[0], trace)
    assert finding.status is Status.UNDECIDED
    assert "too far to say anything about the kernel" in finding.reason
    assert judge(scenario, trace, probe("mainline-before-6.7")).verdict is Verdict.INCONCLUSIVE


def test_a_probe_that_could_not_tell_is_no_missing_capability() -> None:
    scenario = SCENARIOS["young-restore"]
    unsure = probe()
    failed = [
        dataclasses.replace(each, error="ENOMEM") if each.operation.label == "write" else each
        for each in unsure.events
    ]
    unsure = dataclasses.replace(unsure, events=tuple(failed))
    result = judge(scenario, play(scenario.name, scenario.script), unsure)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason == "the probe could not tell tsc-write: step 'write' failed with ENOMEM"


def test_a_trace_of_another_script_is_not_judged() -> None:
    trace = play("old-restore", SCENARIOS["old-restore"].script)
    assert judge(SCENARIOS["young-restore"], trace, probe()).verdict is Verdict.INCONCLUSIVE


def test_a_trace_that_ended_early_is_not_judged() -> None:
    scenario = SCENARIOS["young-restore"]
    trace = play(scenario.name, scenario.script)
    cut = dataclasses.replace(trace, events=trace.events[:3])
    assert judge(scenario, cut, probe()).verdict is Verdict.INCONCLUSIVE


def test_a_contract_that_is_broken_where_the_model_leaves_it_open_is_not_foretold() -> None:
    assert verdict("three-writes", "mainline-6.7").foretold
    scenario = SCENARIOS["set-clock-with-realtime"]
    trace = play(scenario.name, scenario.script, "mainline-6.7")
    after = next(each for each in trace.events if each.operation.label == "clock-after")
    # Of real time the model knows nothing but that KVM adds what passed.
    values = (*after.values[:2], after.values[2] + 3_600 * 10**9, after.values[3])
    later = tuple(
        dataclasses.replace(each, values=values) if each is after else each for each in trace.events
    )
    result = judge(scenario, dataclasses.replace(trace, events=later), probe())
    assert (result.verdict, result.foretold) == (Verdict.XFAIL, False)


def test_a_kvm_that_ignores_writes_is_at_fault_where_nothing_protects_a_tsc() -> None:
    scenario = SCENARIOS["old-restore"]
    trace = play(scenario.name, scenario.script, "tsc-protected")
    assert judge(scenario, trace, probe("tsc-protected")).verdict is Verdict.SKIP
    result = judge(scenario, trace, probe("tsc-protected"), Expectation(may_be_protected=False))
    assert (result.verdict, result.explained_by) == (Verdict.FAIL, ("tsc-protected",))
    assert result.reason.startswith("already in the probe: ")


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
    assert judge(scenario, trace, probe(), Expectation(None)).verdict is Verdict.PASS
    result = judge(scenario, asleep, probe(), Expectation(None))
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
