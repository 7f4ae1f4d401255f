# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness rules."""

import json
from pathlib import Path

import pytest

from kvmharness.cli.main import main

ASKED = ["young-restore", "qemu-pair-young", "young-restore-twice", "old-restore"]


def test_the_rules_that_no_other_beats_come_first_within_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rules", *ASKED, "--key", "snap_requires", "--jobs", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("16 combinations of snap_requires against 4 contracts, on the model alone: ")
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "  1  breaks 1: " in text
    assert "mainline-before-6.7, beaten\n" in text
    assert "Source: kernel bug 217423" in text
    assert "Contracts that no rule keeps together\n  " in text


def test_in_json_every_rule_has_what_it_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", *ASKED, "--key", "snap_requires", "--jobs", "1", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["keys"], found["combinations"]) == (1, ["snap_requires"], 16)
    assert [each["scenario"] for each in found["contracts"]] == ASKED
    assert sum(rule["combinations"] for rule in found["rules"]) == 16
    (before,) = (rule for rule in found["rules"] if "mainline-before-6.7" in rule["policies"])
    assert before["breaks"] == ["qemu-pair-young", "young-restore", "young-restore-twice"]
    assert before["beaten"] is True
    assert (before["like"], before["but"]) == ("mainline-before-6.7", {})


def test_a_rule_of_a_file_has_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[policy.mine]\nlike = "mainline-6.7"\nsnap_requires = ["never"]\nwindow_ns = 1000\n')
    arguments = ["--key", "user_zero", "--policy-file", str(file), "--jobs", "1"]
    assert main(["rules", *ASKED, *arguments]) == 0
    assert ": mine, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--key", "colour"], "--key: 'colour' cannot be varied"),
        (["no-such"], "unknown scenario 'no-such'"),
        (["protected-write"], "these scenarios are about a KVM that ignores writes"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rules", *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
