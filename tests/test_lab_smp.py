# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines beside `amd`: two CPUs in parallel, and a host TSC the kernel does not trust."""

import dataclasses
from collections.abc import Callable

import pytest

from kvmharness.lab import image, machine, play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machine import AMD_SMP, AMD_UNSTABLE, Machine
from kvmharness.scenarios import SCENARIOS
from kvmharness.session import settle
from kvmharness.trace import to_lines

pytestmark = pytest.mark.lab

Find = Callable[[str], Kernel]


def verdicts(kernel: Kernel, on: Machine) -> list[str]:
    """What a young and an old restore come to."""
    scenarios = [SCENARIOS["young-restore"], SCENARIOS["old-restore"]]
    outcome = settle(scenarios, lambda each: play.play(kernel, on, each))
    return [result.verdict.value for result in outcome.results]


def test_amd_smp_boots_with_both_its_cpus(kernel: Find) -> None:
    talking = dataclasses.replace(
        AMD_SMP, kernel_options=AMD_SMP.kernel_options.replace("loglevel=5", "loglevel=7")
    )
    booted = machine.boot(talking, kernel("debian:6.12").vmlinux, image.base())
    assert booted.complaint == ""
    assert "2 CPUs" in booted.console


def test_debian_6_1_breaks_the_restore_of_a_young_snapshot_on_amd_smp_too(kernel: Find) -> None:
    assert verdicts(kernel("debian:6.1"), AMD_SMP) == ["FAIL", "PASS"]


@pytest.mark.full
def test_debian_6_12_keeps_both_restores_on_amd_smp(kernel: Find) -> None:
    assert verdicts(kernel("debian:6.12"), AMD_SMP) == ["PASS", "PASS"]


@pytest.mark.full
@pytest.mark.parametrize("spec", ["debian:6.1", "debian:6.12"])
def test_amd_unstable_brings_every_trace_back_the_same_to_the_byte(kernel: Find, spec: str) -> None:
    scenarios = list(SCENARIOS.values())
    sessions = [play.play(kernel(spec), AMD_UNSTABLE, scenarios) for _ in range(2)]
    lines = [
        [list(to_lines(each)) for each in (session.probe, *session.traces.values())] for session in sessions
    ]
    assert len(lines[0]) == 1 + len(scenarios)
    assert lines[0] == lines[1]
