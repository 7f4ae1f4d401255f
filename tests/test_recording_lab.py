# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings replayed on real kernels, by derived contracts alone: young restores are broken everywhere."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.contract import Status
from kvmharness.judging.verdict import Expectation, Verdict
from kvmharness.lab import runs
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.model.policies import POLICIES
from kvmharness.recording import vmms
from kvmharness.scenarios.predicted import predicted_contract

SHIPPED = vmms.shipped()
TELLING = ("qemu-loadvm-young", "qemu-loadvm-old", "qemu-incoming-young")


def verdicts(kernel: Kernel, names: list[str], policy: str | None) -> dict[str, Verdict]:
    """By the contracts alone without a policy."""
    expectation = Expectation(POLICIES[policy] if policy else None, POLICIES)
    played = runs.play_on(kernel, AMD, [SHIPPED[name] for name in names], expectation)
    return {each.scenario: each.verdict for each in played.results}


def expected(names: list[str], policy: str) -> dict[str, Verdict]:
    """The verdicts on the contracts that the model predicts."""
    kept = frozenset({Status.KEPT})
    return {
        name: Verdict.PASS if predicted_contract(SHIPPED[name], POLICIES[policy]) == kept else Verdict.FAIL
        for name in names
    }


@pytest.mark.lab
def test_a_kernel_breaks_the_recordings_that_the_model_says_it_breaks(
    kernel: Callable[[str], Kernel],
) -> None:
    names = [f"recorded-{name}" for name in TELLING]
    found = verdicts(kernel("debian:6.12"), names, None)
    assert found == expected(names, "mainline-6.7")
    assert list(found.values()) == [Verdict.FAIL, Verdict.PASS, Verdict.FAIL]


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ("debian:5.10", "mainline-before-6.7"),
        ("debian:6.1", "mainline-before-6.7"),
        ("debian:6.12", "mainline-6.7"),
    ],
)
def test_every_recording_is_judged_and_none_raises_a_false_alarm(
    kernel: Callable[[str], Kernel], spec: str, policy: str
) -> None:
    names = [*SHIPPED]
    by_contract = verdicts(kernel(spec), names, None)
    assert by_contract == expected(names, policy)
    by_policy = verdicts(kernel(spec), names, policy)
    assert {each for name, each in by_policy.items() if by_contract[name] is Verdict.FAIL} == {Verdict.XFAIL}
    assert {each for name, each in by_policy.items() if by_contract[name] is Verdict.PASS} == {Verdict.PASS}


def test_the_page_of_the_vmms_is_current(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vmms-page", "--check"])
    script = Path(__file__).parent.parent / "scripts" / "vmms-page"
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert (ended.value.code, capsys.readouterr().err) == (0, "")
