# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules proposed for KVM, as patches of our own wording: built onto a real kernel, and identified."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.judging.session import judged, settle
from kvmharness.judging.verdict import MAINLINE, Expectation, Verdict
from kvmharness.lab import build, patches, play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD, AMD_SMP
from kvmharness.lab.machines.machine import Machine
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import from_tables
from kvmharness.scenarios import SCENARIOS

PATCHES = Path(__file__).with_name("patches")
DOCS = Path(__file__).parents[1] / "docs"


def behaves_as(
    kernel: Callable[[str], Kernel], spec: str, names: str, machine: Machine, called: str
) -> tuple[str, ...]:
    """The policies that a kernel with these patches behaves as."""
    kernel(spec)
    chosen = [
        patch
        for name in names.split()
        for patch in patches.choose(patches.read((PATCHES / f"{name}.patch").read_bytes()))
    ]
    built = build.build(spec, chosen, called)
    outcome = settle(list(SCENARIOS.values()), lambda each: play.play(built.kernel, machine, each))
    assert outcome.identity is not None
    return outcome.identity.behaves_as


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize(
    ("names", "machine", "policy"),
    [
        ("vcpu-has-run load-before-run-catches-up", AMD_SMP, "like-xu-v1"),
        ("vcpu-has-run gate-this-vcpu-ran", AMD, "sean-christopherson"),
        ("gate-vcpus-matched", AMD, "like-xu-v2"),
        ("gate-user-wrote", AMD, "oliver-upton"),
        ("gate-user-wrote-value attribute-opens-gate", AMD, "like-xu-v6"),
        ("gate-user-wrote attribute-opens-gate", AMD, "mainline-6.7"),
        ("gate-user-wrote attribute-opens-gate khz-write-synchronizes", AMD, "clock-series-2026-khz"),
    ],
)
def test_a_rule_that_was_proposed_is_identified_on_the_kernel_it_was_built_onto(
    kernel: Callable[[str], Kernel], names: str, machine: Machine, policy: str
) -> None:
    assert behaves_as(kernel, "debian:6.1", names, machine, f"test-{policy}") == (policy,)


@pytest.mark.lab
@pytest.mark.full
def test_a_rule_that_goes_on_top_of_the_merged_one_is_identified_there_too(
    kernel: Callable[[str], Kernel],
) -> None:
    names = "khz-write-synchronizes-merged"
    assert behaves_as(kernel, "debian:6.12", names, AMD, "test-khz-merged") == ("clock-series-2026-khz",)


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "policy", "key"),
    [
        ("masterclock-from-creation", "clock-series-2026-flags", 'flags_from = "creation"'),
        ("first-generation-from-vm", "clock-series-2026-epoch", 'epoch = "vm"'),
    ],
)
def test_a_rule_of_the_clock_series_is_identified_by_its_key(
    kernel: Callable[[str], Kernel], name: str, policy: str, key: str
) -> None:
    kernel("debian:6.12")
    read = patches.read((PATCHES / f"{name}.patch").read_bytes())
    built = build.build("debian:6.12", patches.choose(read), "test-series-key").kernel
    stated = from_tables(tomllib.loads((DOCS / "clock-series.toml").read_text()), POLICIES)[policy]
    expectation = Expectation(stated, policies={**POLICIES, policy: stated})
    scenarios = list(SCENARIOS.values())
    outcome = settle(scenarios, lambda each: play.play(built, AMD, each), expectation)
    assert outcome.identity is not None
    assert outcome.identity.behaves_as == (policy,)
    assert not [each for each in outcome.results if each.verdict is Verdict.FAIL]
    # Who knows nothing of it is told what is other than in the merged rule.
    merged = judged(outcome.attempts, scenarios, MAINLINE, confirm=False)
    assert [each for each in merged.results if each.verdict is Verdict.FAIL]
    assert merged.identity is not None
    assert merged.identity.behaves_as == ()
    assert any(key in each for each in merged.identity.near)
