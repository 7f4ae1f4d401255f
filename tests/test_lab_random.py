# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels and random scripts: what no scenario's author thought of has to be possible too."""

from collections.abc import Callable

import pytest

from kvmharness.judging import capabilities
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import Scenario
from scripts.random_scripts import random_script

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    ("spec", "own"), [("debian:6.1", "mainline-before-6.7"), ("debian:6.12", "mainline-6.7")]
)
def test_random_scripts_are_possible_under_a_kernels_own_policy_and_many_not_under_all(
    kernel: Callable[[str], Kernel], spec: str, own: str
) -> None:
    scripts = {f"random-{seed}": random_script(seed) for seed in range(30)}
    scenarios = [
        Scenario(name=name, contract="", source="", consequence="", needs=(), script=script, claims=())
        for name, script in scripts.items()
    ]
    session = play.play(kernel(spec), AMD, scenarios)
    host = capabilities.host_facts(session.probe)

    def judged(policy: str) -> dict[str, Possibility]:
        return {
            name: judge(trace, POLICIES[policy], host).possibility for name, trace in session.traces.items()
        }

    found = list(judged(own).values())
    assert found.count(Possibility.IMPOSSIBLE) == 0, judged(own)
    assert found.count(Possibility.POSSIBLE) > len(scripts) / 2
    ruled_out = {
        name
        for policy in POLICIES
        for name, possibility in judged(policy).items()
        if possibility is Possibility.IMPOSSIBLE and policy != "tsc-protected"
    }
    assert len(ruled_out) > len(scripts) / 3
