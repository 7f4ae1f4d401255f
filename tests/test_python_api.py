# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/python.md: each of its examples is run, in its order, as a reader would."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kvmharness
from kvmharness import api
from kvmharness.lab.kernels import Kernel
from kvmharness.scenarios import SCENARIOS

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def example(having: str) -> str:
    """The example that has these words."""
    found: str
    (found,) = [each for each in EXAMPLES if having in each]
    return found


def test_every_public_name_is_there_and_no_other() -> None:
    assert kvmharness.__all__ == api.__all__
    assert [name for name in api.__all__ if not hasattr(kvmharness, name)] == []
    with pytest.raises(AttributeError, match="has no attribute 'settle'"):
        kvmharness.settle  # noqa: B018


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    program = "import sys, kvmharness; print([each for each in sys.modules if 'kvmharness.' in each])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_of_ours_says_what_it_is() -> None:
    own = [getattr(kvmharness, name) for name in kvmharness.__all__ if callable(getattr(kvmharness, name))]
    assert [each for each in own if not each.__doc__] == []


@pytest.mark.kvm
def test_a_vm_is_read_and_written_by_hand(capsys: pytest.CaptureFixture[str], system: Any) -> None:
    exec(example("create_vcpu(0), vm.create_vcpu(1)"), {})
    rate, apart = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"vCPU 0 counts at [1-9]\d* kHz", rate)
    assert re.fullmatch(r"vCPU 1 was read -?\d+ cycles later than vCPU 0", apart)


@pytest.mark.lab
def test_a_scenario_of_ones_own_goes_through_every_example_of_the_page(
    kernel: Callable[[str], Kernel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for spec in ("debian:6.1", "debian:6.12"):
        kernel(spec)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    def run(having: str) -> str:
        capsys.readouterr()
        exec(example(having), names)
        return capsys.readouterr().out

    run("restore = kh.Scenario(")
    verdict, *report = run('old = kh.run_in_lab("debian:6.1"').splitlines()
    assert verdict == "FAIL False False"
    assert any("my-restore" in line for line in report)
    assert run('again = old.judged_by("mainline-before-6.7")') == "XFAIL\n"
    assert run("kh.compare(old, new)").startswith(
        "my-restore, step 3: vCPU 0 keeps the offset that it had / vCPU 0 honours what was written ("
    )
    assert run("kh.load(paths") == "FAIL\n"
    assert run("mine = replace(") == "FAIL\n"
    assert run("kh.predict(restore") == (
        "mainline-before-6.7 -> 300.015 ms broken\nmainline-6.7, my-rule -> 800.001 ms kept\n"
    )


@pytest.mark.kvm
def test_a_scenario_of_ones_own_is_played_on_this_host(
    capsys: pytest.CaptureFixture[str], system: Any
) -> None:
    names: dict[str, Any] = {}
    exec(example("restore = kh.Scenario("), names)
    exec(example("run_on_host"), names)
    verdict, *_ = capsys.readouterr().out.split()
    assert verdict in {"PASS", "XFAIL", "SKIP", "INCONCLUSIVE"}
    assert len(names["here"].results) == 1


def test_every_scenario_of_the_catalogue_says_where_it_is_from_and_whom_it_hurts() -> None:
    assert [each.name for each in SCENARIOS.values() if not (each.source and each.consequence)] == []


def test_a_name_that_nothing_has_is_refused_with_those_that_are_near() -> None:
    with pytest.raises(ValueError, match=r"unknown policy 'mainline-6\.6': did you mean mainline-6\.7"):
        kvmharness.predict("young-restore", ["mainline-6.6"])
    with pytest.raises(ValueError, match="unknown scenario 'yung-restore': did you mean young-restore"):
        kvmharness.predict("yung-restore")
    with pytest.raises(ValueError, match="unknown machine 'arm': did you mean amd"):
        kvmharness.run_in_lab("debian:6.1", machine="arm")
    wrong = replace(SCENARIOS["young-restore"], needs=("tsc-wirte",))
    with pytest.raises(ValueError, match="unknown capability of scenario young-restore 'tsc-wirte'"):
        kvmharness.predict(wrong)


@pytest.mark.parametrize("claim", [{"seen": ("raed",)}, {"seen": "read"}, {"instead": "craete"}])
def test_a_claim_that_names_no_step_is_refused_before_anything_is_played(claim: dict[str, Any]) -> None:
    scenario = SCENARIOS["young-restore"]
    (first, *_) = scenario.claims
    with pytest.raises(
        kvmharness.ScenarioError, match=r"scenario young-restore: no step has the label '.*' of a"
    ):
        replace(scenario, claims=(replace(first, **claim),))


def test_two_steps_with_one_label_are_refused() -> None:
    scenario = SCENARIOS["young-restore"]
    with pytest.raises(kvmharness.ScenarioError, match="two steps have the label"):
        replace(scenario, script=(*scenario.script, scenario.script[0]))


def test_the_claims_of_a_scenario_can_be_tried_on_what_is_predicted() -> None:
    scenario = SCENARIOS["young-restore"]
    found = {
        policy: {each.status for each in scenario.findings(prediction.trace)}
        for prediction in kvmharness.predict(scenario, ["mainline-before-6.7", "mainline-6.7"])
        for policy in prediction.policies
    }
    assert found["mainline-6.7"] == {kvmharness.Status.KEPT}
    assert kvmharness.Status.BROKEN in found["mainline-before-6.7"]
