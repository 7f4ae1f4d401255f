# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels held against each other."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from kvmharness.cli.main import main
from kvmharness.judging.difference import compare_sessions
from kvmharness.judging.session import SessionResult, settle
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD, AMD_SMP
from kvmharness.scenarios import SCENARIOS

pytestmark = pytest.mark.lab

# What the fix of kernel bug 217423 is for (bf328e22e472).
FIXED = {"young-restore", "qemu-pair-young", "firecracker-restore-young", "write-after-run-near"}


def test_the_fix_of_young_restores_is_what_differs_between_6_1_and_6_12(
    outcome: Callable[[str], SessionResult],
) -> None:
    found = compare_sessions(outcome("debian:6.1").attempts, outcome("debian:6.12").attempts)
    assert found.compared == len(SCENARIOS)
    assert found.kept_by_first == ()
    assert set(found.kept_by_second) >= FIXED
    assert {each.scenario for each in found.differences} >= {*FIXED, "young-restore-twice"}
    assert {each.second for each in found.differences} == {"vCPU 0 honours what was written"}


def test_a_kernel_played_twice_differs_in_nothing(kernel: Callable[[str], Kernel]) -> None:
    names = ("young-restore", "qemu-pair-old", "restored-at-once", "offset-moved")
    found = kernel("debian:6.12")
    scenarios = [SCENARIOS[name] for name in names]
    sessions = [settle(scenarios, lambda each: play.play(found, AMD_SMP, each)).attempts for _ in range(2)]
    comparison = compare_sessions(*sessions)
    assert (comparison.compared, comparison.differences) == (len(names), ())


@pytest.mark.full
@pytest.mark.parametrize("machine", [AMD, AMD_SMP], ids=lambda machine: machine.name)
def test_kernels_of_one_policy_differ_in_a_refusal_alone(
    kernel: Callable[[str], Kernel], machine: object
) -> None:
    sessions = {
        spec: settle(
            list(SCENARIOS.values()),
            lambda each, spec=spec: play.play(kernel(spec), machine, each),  # type: ignore[misc,arg-type]
        ).attempts
        for spec in ("debian:6.12", "debian:7.2")
    }
    for one, other in combinations(sessions.values(), 2):
        found = compare_sessions(one, other)
        assert (found.kept_by_first, found.kept_by_second) == ((), ())
        # KVM_SET_TSC_KHZ of a VM that has a vCPU (Linux 6.17 and later).
        assert {(each.scenario, each.second) for each in found.differences} == {
            ("vm-khz-after-vcpu", "fails with EINVAL")
        }


def test_the_command_says_at_which_step_two_kernels_differ_and_whom_that_hurts(
    kernel: Callable[[str], Kernel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for spec in ("debian:6.1", "debian:6.12"):
        kernel(spec)
    arguments = [
        "--scenario",
        "young-restore",
        "--scenario",
        "old-restore",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(["lab", "diff", "debian:6.1", "debian:6.12", *arguments]) == 1
    text = (tmp_path / "out").read_text()
    assert text.startswith("1 of 2 scenarios differ on amd\n  A  debian:6.1 (6.1.")
    assert "B keeps, A breaks: young-restore\n" in text
    assert "kernel bug 217423" in " ".join(text.split())
    assert "young-restore, step 4: write TSC of vCPU 0" in text
    assert "  A: vCPU 0 keeps the offset that it had\n  B: vCPU 0 honours what was written\n" in text
    assert capsys.readouterr().out == ""
