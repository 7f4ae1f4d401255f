# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels held against each other."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from kvmharness.cli.main import main
from kvmharness.judging.difference import compare_sessions
from kvmharness.judging.session import Session, SessionResult, settle
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD, AMD_SMP, INTEL
from kvmharness.lab.machines.machine import Machine
from kvmharness.scenarios import SCENARIOS

pytestmark = pytest.mark.lab

# What the fix of kernel bug 217423 is for (bf328e22e472).
FIXED = {"young-restore", "qemu-pair-young", "firecracker-restore-young", "write-after-run-near"}

# 6.1 looks at the masterclock again when a vCPU is plugged in.
LOOKS_AT_HOTPLUG = {"hyperv-hotplug", "line-across-hotplug", "twenty-vcpus"}


def test_the_fix_of_young_restores_is_what_differs_between_6_1_and_6_12(
    outcome: Callable[[str], SessionResult],
) -> None:
    found = compare_sessions(outcome("debian:6.1").attempts, outcome("debian:6.12").attempts)
    assert found.compared == len(SCENARIOS)
    assert found.kept_by_first == ()
    assert set(found.kept_by_second) >= FIXED
    assert {each.scenario for each in found.differences} >= {*FIXED, "young-restore-twice"}
    # 6.12 is built with Xen, and 6.1 is not.
    others = [each for each in found.differences if not each.scenario.startswith("xen-")]
    looks = [each for each in others if "the masterclock in the kvmclock page" in each.first]
    assert {each.scenario for each in looks} == LOOKS_AT_HOTPLUG
    assert {each.second for each in others if each not in looks} == {"vCPU 0 honours what was written"}


def test_a_kernel_played_twice_differs_in_nothing(kernel: Callable[[str], Kernel]) -> None:
    names = ("young-restore", "qemu-pair-old", "restored-at-once", "offset-moved")
    found = kernel("debian:6.12")
    scenarios = [SCENARIOS[name] for name in names]
    sessions = [settle(scenarios, lambda each: play.play(found, AMD_SMP, each)).attempts for _ in range(2)]
    comparison = compare_sessions(*sessions)
    assert (comparison.compared, comparison.differences) == (len(names), ())


def played(kernel: Kernel, machine: Machine) -> tuple[Session, ...]:
    """The whole catalogue on a kernel."""
    return settle(list(SCENARIOS.values()), lambda each: play.play(kernel, machine, each)).attempts


PAGE = Path(__file__).parent.parent / "docs" / "differences.md"
# Of one policy each, from the oldest on.
BEFORE, SINCE = ["debian:5.10", "debian:6.1"], ["debian:6.12", "debian:7.2", "debian:7.3"]


def documented(older: str, newer: str) -> set[str]:
    """The scenarios that differ between two kernels, as the page says."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    order = [*BEFORE, *SINCE]
    since, until = order.index(older), order.index(newer)
    return {
        name
        for row in rows
        if len(row) == 6 and f"debian:{row[0]}" in order
        if since <= order.index(f"debian:{row[0]}") and order.index(f"debian:{row[1]}") <= until
        for name in row[2].split(", ")
    }


def test_the_page_explains_what_differs_between_kernels_of_one_policy() -> None:
    newest = {"xen-runstate-clock-back", "xen-shared-again"}
    assert documented("debian:6.12", "debian:7.3") == {"vm-khz-after-vcpu", "xen-stopped", *newest}
    assert documented("debian:7.2", "debian:7.3") == newest
    assert {"vm-khz", "unstable-offset", "offset-for-both"} < documented("debian:5.10", "debian:6.1")
    assert documented("debian:5.10", "debian:6.1") <= set(SCENARIOS)


@pytest.mark.full
@pytest.mark.parametrize(
    ("machine", "specs"),
    [
        pytest.param(AMD, BEFORE, id="amd-before-6.7"),
        pytest.param(AMD, SINCE, id="amd-6.7"),
        pytest.param(AMD_SMP, SINCE[:2], id="amd-smp-6.7"),
        pytest.param(INTEL, BEFORE, id="intel-before-6.7"),
        pytest.param(INTEL, SINCE[::2], id="intel-6.7"),
    ],
)
def test_kernels_of_one_policy_differ_in_what_the_page_explains_alone(
    kernel: Callable[[str], Kernel], machine: Machine, specs: list[str]
) -> None:
    sessions = {spec: played(kernel(spec), machine) for spec in specs}
    for older, newer in combinations(specs, 2):
        found = compare_sessions(sessions[older], sessions[newer])
        # L2 has a rate of its own by VMX alone.
        expected = {
            each
            for each in documented(older, newer)
            if machine is INTEL or not each.startswith("nested-ratio")
        }
        assert {each.scenario for each in found.differences} == expected
        # Each is a call that one of them refuses, a mark in Xen's pages, a runstate that runs back, a look at
        # the masterclock that 7.3 no longer takes, or a Hyper-V's page that 5.10 writes at other times.
        of_xen = {"xen-stopped", "xen-runstate-clock-back", "xen-shared-again"}
        differences = [each for each in found.differences if each.scenario not in of_xen]
        others = [each for each in differences if "fails with" not in f"{each.first} {each.second}"]
        assert all(each.scenario.startswith("hyperv-") for each in others)
        kept = {*found.kept_by_first, *found.kept_by_second}
        assert kept <= {each.scenario for each in others} | {"hyperv-set-clock", *of_xen}
        assert older == "debian:5.10" or not others


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
