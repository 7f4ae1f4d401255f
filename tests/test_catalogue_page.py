# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/scenarios.md: current, and whole."""

import runpy
import sys
from pathlib import Path

import pytest

from kvmharness.report import catalogue
from kvmharness.report.steps import in_short
from kvmharness.scenarios import SCENARIOS, proposed
from kvmharness.script import CreateVcpu, GetTscOffset, Read, Run, SetTscOffset, Sleep

ROOT = Path(__file__).parent.parent

# What distinguishes which policies is worked out once in a process.
pytestmark = pytest.mark.xdist_group("catalogue page")


def test_the_page_is_current(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["catalogue", "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "catalogue"), run_name="__main__")
    assert (ended.value.code, capsys.readouterr().err) == (0, "")


def test_every_scenario_has_its_place_on_the_page() -> None:
    lines = (ROOT / "docs" / "scenarios.md").read_text().splitlines()
    assert [line[4:] for line in lines if line.startswith("### ")] == list(SCENARIOS)


@pytest.mark.full
def test_every_pair_is_distinguished_or_the_page_says_why_not() -> None:
    undistinguished = {
        frozenset(pair) for pair, names in catalogue.distinguished_pairs().items() if not names
    }
    assert undistinguished == set(catalogue.INSEPARABLE)


def test_every_scenario_says_something_somewhere_but_those_of_interfaces_that_no_release_has() -> None:
    nowhere = [scenario.name for scenario in SCENARIOS.values() if not catalogue.judged_on(scenario)]
    assert nowhere == [scenario.name for scenario in proposed.SCENARIOS]


def test_what_is_done_to_one_vcpu_after_the_other_is_said_once() -> None:
    script = (
        *(CreateVcpu(vcpu=vcpu) for vcpu in range(3)),
        Sleep(ns=1_000_000),
        *(
            step
            for vcpu in range(2)
            for step in (GetTscOffset(vcpu=vcpu, label=f"was-{vcpu}"), Run(vcpu=vcpu))
        ),
        *(SetTscOffset(vcpu=vcpu, offset=Read(f"was-{vcpu}")) for vcpu in range(2)),
        Run(vcpu=1),
    )
    assert in_short(script) == [
        "for each of vCPUs 0 to 2: creation",
        "wait 1 ms",
        "for each of vCPUs 0 and 1: read the TSC offset (was-N), run the guest",
        "for each of vCPUs 0 and 1: set the TSC offset to what was-N read",
        "run the guest of vCPU 1",
    ]
