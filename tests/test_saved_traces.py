# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces that were saved, and are judged again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmharness.scenarios import SCENARIOS
from tests.command_line import Capture, one_line, status_of


def saved(made_up_host: Callable[..., None], folder: Path) -> Path:
    made_up_host()
    folder.mkdir()
    status_of("run", "old-restore", "--save-traces", str(folder))
    (path,) = folder.iterdir()
    return path


def test_saved_traces_are_judged_again_to_the_same_verdicts(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    made_up_host()
    assert status_of("run", "--save-traces", str(tmp_path), "--format", "json") == 0
    first = json.loads(capsys.readouterr().out)
    files = [str(path) for path in tmp_path.iterdir()]
    assert len(files) == len(SCENARIOS)
    assert status_of("judge", "--format", "json", *files) == 0
    again = json.loads(capsys.readouterr().out)

    def by_name(report: dict[str, Any]) -> dict[str, str]:
        (kernel,) = report["kernels"]
        assert kernel["behaves_as"] == ["mainline-6.7"]
        return {result["scenario"]: result["verdict"] for result in kernel["results"]}

    assert by_name(first) == by_name(again)


def test_a_broken_trace_is_one_line_and_status_2(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    made_up_host()
    status_of("run", "old-restore", "--save-traces", str(tmp_path))
    capsys.readouterr()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for broken, complaint in (
        (whole[:-10], "not JSON"),
        (whole.replace(b'"old-restore"', b'"odd-restore"'), "did you mean old-restore"),
        (b"\xff" + whole, "bytes that are not ASCII"),
    ):
        path.write_bytes(broken)
        assert status_of("judge", str(path)) == 2
        assert complaint in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("good", "hostile"),
    [
        (b'"tsc":[', b'"tsc":[0,9223372036854775808],"was":['),
        (b'"release": "made-up"', b'"release": "\\ud800"'),
        (b'"release": "made-up"', b'"release": "a\\nnot ok 1"'),
        (b'"values":[2000000]', b'"values":[]'),
        (b'"values":[2000000]', b'"values":[1,2,3]'),
    ],
)
def test_a_hostile_trace_is_one_line_and_status_2(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path, good: bytes, hostile: bytes
) -> None:
    path = saved(made_up_host, tmp_path / "traces")
    capsys.readouterr()
    assert good in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(good, hostile))
    assert status_of("judge", str(path)) == 2
    one_line(capsys.readouterr().err)


def test_traces_of_different_folders_are_different_columns(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    one, other = saved(made_up_host, tmp_path / "a"), saved(made_up_host, tmp_path / "b")
    capsys.readouterr()
    assert status_of("judge", "--format", "json", str(one), str(other)) == 0
    kernels_seen = [each["kernel"] for each in json.loads(capsys.readouterr().out)["kernels"]]
    assert kernels_seen == [str(tmp_path / "a" / "host"), str(tmp_path / "b" / "host")]


def test_the_saved_traces_of_two_kernels_are_compared_without_being_played_again(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    files = []
    for policy in ("mainline-before-6.7", "mainline-6.7"):
        made_up_host(policy)
        folder = tmp_path / policy
        status_of("run", "old-restore", "young-restore", "--save-traces", str(folder))
        files += [str(path) for path in sorted(folder.iterdir())]
    capsys.readouterr()
    assert status_of("judge", "--diff", *files) == 1
    text = capsys.readouterr().out
    assert text.startswith("1 of 2 scenarios differ on /dev/kvm\n")
    assert "B keeps, A breaks: young-restore\n" in text
    assert status_of("judge", "--diff", "--format", "json", *files) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == 1
    (found,) = data["comparisons"]
    assert (found["compared"], found["left_open"], found["kept_by_second"]) == (2, 0, ["young-restore"])
    assert [(each["scenario"], each["step"]) for each in found["differences"]] == [("young-restore", 5)]
    assert status_of("judge", "--diff", "--format", "junit", *files) == 2
    assert "--diff has no junit" in one_line(capsys.readouterr().err)
    assert status_of("judge", "--diff", *files[:2]) == 2
    assert "compares two kernels" in one_line(capsys.readouterr().err)
