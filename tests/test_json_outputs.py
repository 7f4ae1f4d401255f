# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON of commands that are no report: each by its published schema, and each says which run it was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness import version
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import SCENARIOS
from tests.command_line import Capture, checked, status_of


def test_probe_says_in_json_what_kvm_can_do(made_up_host: Callable[..., None], capsys: Capture) -> None:
    made_up_host("mainline-6.7")
    assert status_of("probe", "--format", "json") == 0
    data = checked(capsys.readouterr().out, "probe.schema.json")
    assert data["capabilities"]["stable-tsc"]["has"] is True
    assert False in [each["has"] for each in data["capabilities"].values()]
    assert data["tsc_khz"] == 2_000_000
    assert data["about"]["command"] == ["kvmharness", "probe", "--format", "json"]
    assert data["about"]["version"] == version.described()


@pytest.mark.parametrize("what", ["scenarios", "policies", "machines", "kernels"])
def test_what_there_is_is_listed_in_json_too(what: str, cache_root: Path, capsys: Capture) -> None:
    asked = ("list", what, *(["--offline"] if what == "kernels" else []), "--format", "json")
    assert status_of(*asked) == 0
    rows = checked(capsys.readouterr().out, "list.schema.json")[what]
    known = {"scenarios": SCENARIOS, "policies": POLICIES, "machines": MACHINES, "kernels": ()}
    assert [each["name"] for each in rows] == [*known[what]]


def test_scenarios_that_are_named_are_listed_in_json_alone(capsys: Capture, tmp_path: Path) -> None:
    assert status_of("list", "scenarios", "young-restore", "restore-one-by-one", "--format", "json") == 0
    rows = checked(capsys.readouterr().out, "list.schema.json")["scenarios"]
    assert [each["name"] for each in rows] == ["young-restore", "restore-one-by-one"]
    assert (rows[0]["subject"], rows[0]["needs"]) == ("Restoring a snapshot", ["tsc-write"])
    assert "amd" in rows[0]["judged_on"]


def test_a_comparison_says_in_json_which_run_it_was(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    files = []
    for policy in ("mainline-before-6.7", "mainline-6.7"):
        made_up_host(policy)
        status_of("run", "young-restore", "--save-traces", str(tmp_path / policy))
        files += [str(path) for path in (tmp_path / policy).iterdir()]
    capsys.readouterr()
    assert status_of("judge", "--diff", "--format", "json", *files) == 1
    data = checked(capsys.readouterr().out, "diff.schema.json")
    assert data["comparisons"][0]["differences"][0]["scenario"] == "young-restore"
    assert data["about"]["command"][:3] == ["kvmharness", "judge", "--diff"]
    assert data["about"]["seconds"] >= 0
