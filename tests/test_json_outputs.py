# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON of commands that are no report: each by its published schema, and each says which run it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

from kvmharness import version
from tests.command_line import Capture, status_of

DOCS = Path(__file__).parents[1] / "docs"


def checked(text: str, schema: str) -> Any:
    """The JSON, held against its schema in docs/."""
    data = json.loads(text)
    jsonschema.validate(data, json.loads((DOCS / schema).read_text()))
    return data


def test_probe_says_in_json_what_kvm_can_do(made_up_host: Callable[..., None], capsys: Capture) -> None:
    made_up_host("mainline-6.7")
    assert status_of("probe", "--format", "json") == 0
    data = checked(capsys.readouterr().out, "probe.schema.json")
    assert data["capabilities"]["stable-tsc"]["has"] is True
    assert False in [each["has"] for each in data["capabilities"].values()]
    assert data["tsc_khz"] == 2_000_000
    assert data["about"]["command"] == ["kvmharness", "probe", "--format", "json"]
    assert data["about"]["version"] == version.described()


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
