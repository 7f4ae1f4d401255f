# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios in files: what goes out comes back, what makes no sense costs a line, commands take them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmharness.contract import OffsetClaim
from kvmharness.scenarios import SCENARIOS
from kvmharness.scenarios.file import ScenarioFileError, from_text, to_text
from tests.command_line import Capture, one_line, status_of

MINE: dict[str, Any] = {
    "name": "mine",
    "contract": "A restored vCPU goes on from the saved TSC.",
    "needs": ["tsc-write"],
    "script": [
        {"op": "create_vcpu", "vcpu": 0, "guest": "rdtsc-16", "label": "create"},
        {"op": "set_msrs", "vcpu": 0, "msrs": [["TSC", {"ns": 900000000}]], "label": "write"},
        {"op": "get_msrs", "vcpu": 0, "indices": ["TSC"], "label": "read"},
    ],
    "claims": [
        {
            "claim": "offset",
            "text": "it goes on",
            "seen": ["read"],
            "expected": ["write"],
            "instead": "create",
        },
        {"claim": "entitled", "text": "on its timeline", "rule": "timeline"},
    ],
}
TOML = """
scenarios = 1
[[scenario]]
name = "mine"
contract = "A VM is created."
script = [{op = "create_vcpu", vcpu = 0, guest = "rdtsc-16"}]
"""


def file(*scenarios: dict[str, Any]) -> str:
    return json.dumps({"scenarios": 1, "scenario": list(scenarios or [MINE])})


def test_the_whole_catalogue_goes_to_a_file_and_back() -> None:
    assert from_text(to_text(list(SCENARIOS.values()), ["a note"]), {}) == dict(SCENARIOS)


def test_what_may_be_left_out_may_be_left_out() -> None:
    (mine,) = from_text(file(), {}).values()
    assert mine.name == "mine"
    assert isinstance(mine.claims[0], OffsetClaim)
    assert mine.claims[0].otherwise == ""
    assert not mine.alone


def test_toml_has_the_same_keys() -> None:
    (mine,) = from_text(TOML, {}, toml=True).values()
    assert mine.script[0].creates_vcpu


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in MINE.items() if name != key}


def claiming(**claim: Any) -> dict[str, Any]:
    return {**MINE, "claims": [claim]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not JSON"),
        ("[" * 100_000, "nested"),
        ("{}", "scenarios = 1"),
        (file().replace('"scenarios": 1', '"scenarios": 2'), "scenarios = 1"),
        ('{"scenarios": 1, "scenario": []}', "list of 1"),
        (file(without("script")), "script at least"),
        (file({**MINE, "code": "import os"}), "unknown"),
        (file({**MINE, "name": "../etc"}), "name"),
        (file({**MINE, "contract": "two\nlines"}), "contract"),
        (file({**MINE, "needs": ["magic"]}), "no capability"),
        (file({**MINE, "script": [{"op": "format_disk"}]}), "step 1"),
        (file({**MINE, "script": []}), "script"),
        (file({**MINE, "alone": 1}), "alone"),
        (file({**MINE, "promptly": {"first": "create"}}), "promptly"),
        (file({**MINE, "promptly": {"first": "create", "last": "gone", "within_ns": 5}}), "promptly"),
        (file({**MINE, "notes": "text"}), "notes"),
        (file(claiming(claim="magic")), "claim"),
        (file(claiming(claim="entitled", text="", rule="magic")), "no rule"),
        (file(claiming(claim="reads", text="")), "missing or unknown: seen"),
        (file(claiming(claim="reads", text="", seen="read", more=1)), "missing or unknown: more"),
        (file(claiming(claim="reads", text="", seen="gone")), "no step has the label"),
        (file(claiming(claim="offset", text="", seen=[], expected=["write"])), "not empty"),
        (file(claiming(claim="clock", text="", seen="read", stable="yes")), "true or false"),
        (file(MINE, MINE), "another of the name mine"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_place(text: str, said: str) -> None:
    with pytest.raises(ScenarioFileError, match=said):
        from_text(text, {})


def test_a_name_of_the_catalogue_cannot_be_taken() -> None:
    with pytest.raises(ScenarioFileError, match="young-restore"):
        from_text(file({**MINE, "name": "young-restore"}), SCENARIOS)


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.json"
    path.write_text(file())
    return str(path)


def test_a_file_is_listed_predicted_and_played(
    mine: str, made_up_host: Callable[..., None], capsys: Capture
) -> None:
    assert status_of("list", "scenarios", "--scenario-file", mine) == 0
    assert "A restored vCPU goes on" in capsys.readouterr().out
    assert status_of("predict", "--scenario-file", mine) == 0
    assert capsys.readouterr().out.count("mine") == 1
    made_up_host("mainline-6.7")
    assert status_of("run", "--scenario-file", mine) == 0
    made_up_host("mainline-before-6.7")
    assert status_of("run", "--scenario-file", mine) == 1


def test_scenarios_of_the_catalogue_are_played_beside_it_by_name(
    mine: str, made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("mainline-6.7")
    assert status_of("run", "mine", "old-restore", "--scenario-file", mine, "--format", "json") == 0
    assert {"mine", "old-restore"} <= {*capsys.readouterr().out.replace('"', " ").split()}


def test_saved_traces_of_a_file_are_judged_with_it(
    mine: str, made_up_host: Callable[..., None], tmp_path: Path, capsys: Capture
) -> None:
    made_up_host("mainline-before-6.7")
    assert status_of("run", "--scenario-file", mine, "--save-traces", str(tmp_path / "traces")) == 1
    (saved,) = map(str, (tmp_path / "traces").iterdir())
    capsys.readouterr()
    assert status_of("judge", saved) == 2
    assert "mine" in one_line(capsys.readouterr().err)
    assert status_of("judge", saved, "--scenario-file", mine) == 1


def test_a_bisection_takes_one_as_asked_for_by_name(
    mine: str, made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("mainline-before-6.7")
    assert status_of("bisect-step", "--host", "--scenario-file", mine) == 1
    made_up_host("mainline-6.7")
    assert status_of("bisect-step", "--host", "--scenario-file", mine) == 0


@pytest.mark.parametrize("content", [b"\xff", b"{", b'{"scenarios": 1}'])
def test_a_file_that_is_none_costs_one_line_and_status_2(
    content: bytes, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    assert status_of("predict", "--scenario-file", str(path)) == 2
    assert str(path) in one_line(capsys.readouterr().err)
    assert status_of("predict", "--scenario-file", str(tmp_path / "gone.json")) == 2
