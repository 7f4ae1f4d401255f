# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels and made-up scripts: what no scenario's author thought of has to be possible too."""

from collections.abc import Callable

import pytest

from kvmharness.explore.draft import Ground
from kvmharness.explore.generator import scripts
from kvmharness.judging import capabilities
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import Scenario

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    ("spec", "own"), [("debian:6.1", "mainline-before-6.7"), ("debian:6.12", "mainline-6.7")]
)
def test_made_up_scripts_are_possible_under_a_kernels_own_policy_and_many_not_under_all(
    kernel: Callable[[str], Kernel], spec: str, own: str
) -> None:
    made = {f"made-up-{number}": each for number, each in enumerate(scripts(Ground(POLICIES[own]), 1, 30))}
    scenarios = [Scenario(name=name, contract="", script=script, claims=()) for name, script in made.items()]
    session = play.play(kernel(spec), AMD, scenarios)
    host = capabilities.host_facts(session.probe)

    def judged(policy: str) -> dict[str, Possibility]:
        return {
            name: judge(trace, POLICIES[policy], host).possibility for name, trace in session.traces.items()
        }

    found = list(judged(own).values())
    assert found.count(Possibility.IMPOSSIBLE) == 0, judged(own)
    assert found.count(Possibility.POSSIBLE) > len(made) / 2
    ruled_out = {
        name
        for policy in POLICIES
        for name, possibility in judged(policy).items()
        if possibility is Possibility.IMPOSSIBLE and policy != "tsc-protected"
    }
    assert len(ruled_out) > len(made) / 3
