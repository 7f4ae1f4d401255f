# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines beside `amd`: two CPUs in parallel, and a host TSC the kernel does not trust."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from kvmharness.judging import capabilities
from kvmharness.judging.identity import Identity
from kvmharness.judging.probe import PROBES
from kvmharness.judging.session import settle
from kvmharness.judging.verdict import Expectation, Verdict
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import initramfs, machine
from kvmharness.lab.machines.catalogue import AMD_SMP, AMD_SMP_UNSTABLE, AMD_UNSTABLE
from kvmharness.lab.machines.machine import Boot, Machine
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.script import CreateVcpu, RunTogether, SetTscOffset
from kvmharness.trace import to_lines
from tests.foretold import not_foretold, oddly_skipped

pytestmark = pytest.mark.lab

Find = Callable[[str], Kernel]


def test_amd_smp_boots_with_both_its_cpus(kernel: Find) -> None:
    talking = dataclasses.replace(
        AMD_SMP, kernel_options=AMD_SMP.kernel_options.replace("loglevel=5", "loglevel=7")
    )
    booted = machine.boot(talking, kernel("debian:6.12").vmlinux, initramfs.base())
    assert booted.complaint == ""
    assert "2 CPUs" in booted.console


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ("debian:6.1", "mainline-before-6.7"),
        pytest.param("debian:6.12", "mainline-6.7", marks=pytest.mark.full),
    ],
)
def test_with_two_cpus_a_kernel_is_identified_by_one_policy_and_fails_nothing_under_it(
    kernel: Find, spec: str, policy: str
) -> None:
    found = kernel(spec)
    outcome = settle(
        list(SCENARIOS.values()),
        lambda each: play.play(found, AMD_SMP, each),
        Expectation(POLICIES[policy]),
        confirm=True,
    )
    for name, session in outcome.sessions.items():
        host = capabilities.host_facts(session.probe)
        for trace in (*session.probe.traces, session.traces[name]):
            judgement = judge(trace, POLICIES[policy], host)
            if judgement.possibility is Possibility.IMPOSSIBLE:
                print(judgement, host, *to_lines(trace), sep="\n")
    assert [each for each in outcome.results if each.verdict is Verdict.FAIL] == []
    assert outcome.identity == Identity((policy,))
    assert oddly_skipped(outcome, "amd-smp") == set()
    odd = not_foretold(outcome, policy)
    # When KVM's worker notices another clocksource is known only where instructions are counted.
    worked = {name: found for name, found in odd.items() if "clocksource" in SCENARIOS[name].needs}
    assert {verdict for verdict, _ in worked.values()} <= {Verdict.INCONCLUSIVE.value, Verdict.XFAIL.value}
    # A player that is held up for 4 ms sets a TSC back, or ahead, after the deadline that this was to move.
    timers = {verdict for name, (verdict, _) in odd.items() if name.startswith("timer-set-")}
    assert timers <= {Verdict.INCONCLUSIVE.value, Verdict.PASS.value}
    others = {v for name, (v, _) in odd.items() if name not in worked and not name.startswith("timer-set-")}
    assert others <= {Verdict.INCONCLUSIVE.value}, odd


@pytest.mark.parametrize(
    ("spec", "policy", "place"),
    [
        pytest.param("debian:6.1", "mainline-before-6.7", AMD_UNSTABLE, marks=pytest.mark.full),
        ("debian:6.12", "mainline-6.7", AMD_UNSTABLE),
        pytest.param("debian:6.12", "mainline-6.7", AMD_SMP_UNSTABLE, marks=pytest.mark.full),
    ],
)
def test_on_an_unstable_tsc_what_holds_there_is_judged_and_the_rest_is_skipped(
    kernel: Find, spec: str, policy: str, place: Machine
) -> None:
    found = kernel(spec)
    outcome = settle(
        list(SCENARIOS.values()),
        lambda each: play.play(found, place, each),
        Expectation(POLICIES[policy]),
    )
    assert not_foretold(outcome, policy) == {}
    assert oddly_skipped(outcome, place.name) == set()


@pytest.mark.full
@pytest.mark.parametrize("spec", ["debian:6.1", "debian:6.12"])
def test_amd_unstable_brings_every_trace_back_the_same_to_the_byte(kernel: Find, spec: str) -> None:
    scenarios = list(SCENARIOS.values())
    sessions = [play.play(kernel(spec), AMD_UNSTABLE.without_snapshots, scenarios) for _ in range(2)]
    lines = [[list(to_lines(each)) for each in session.everything] for session in sessions]
    assert len(lines[0]) == len(PROBES) + len(scenarios)
    assert lines[0] == lines[1]


def test_vcpus_that_are_apart_see_warps_and_those_that_are_together_none(kernel: Find) -> None:
    pair = [CreateVcpu(vcpu=vcpu, guest="warp-64") for vcpu in (0, 1)]
    meet = RunTogether(vcpus=(0, 1), ns=300_000_000)
    apart = [SetTscOffset(vcpu=vcpu, offset=vcpu * 10**9) for vcpu in (0, 1)]
    scenarios = [
        Scenario(name=name, contract="", source="", consequence="", needs=(), script=steps, claims=())
        for name, steps in (("together", (*pair, meet)), ("apart", (*pair, *apart, meet)))
    ]
    for _ in range(10):
        traces = play.play(kernel("debian:6.12"), AMD_SMP, scenarios).traces
        found = {name: traces[name].events[-1].values for name in traces}
        # On a busy host the two may not have met in all that time.
        if all(handovers > 0 for values in found.values() for handovers in values[1::4]):
            break
    assert all(handovers > 0 for values in found.values() for handovers in values[1::4])
    assert found["together"][2::4] == (0, 0)
    # Only the vCPU that is behind reads less than was read before, each time that it follows the other.
    _, followed, warps, largest, _, _, *ahead = found["apart"]
    assert ahead == [0, 0]
    # It may be stopped between counting the one and the other.
    assert 0 <= followed - warps <= 1
    assert largest <= 10**9


@pytest.mark.lab
@pytest.mark.full
def test_no_vm_finds_the_folder_of_another_in_debugfs(
    kernel: Callable[[str], Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel developer takes the kernel's word for it, "duplicate directory", for a defect."""
    consoles = []
    real = machine.boot

    def boot(*arguments: Any, **settings: Any) -> Boot:
        booted = real(*arguments, **settings)
        consoles.append(booted.console)
        return booted

    monkeypatch.setattr(machine, "boot", boot)
    play.play(kernel("debian:6.12"), AMD_SMP, [*SCENARIOS.values()][:40])
    assert "kvmharness plays" in consoles[0]
    assert [line for each in consoles for line in each.splitlines() if "duplicate directory" in line] == []
