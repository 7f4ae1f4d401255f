# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kvmharness this is."""

import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from kvmharness import __version__, version
from kvmharness.cli.main import main


def test_the_version_stands_in_one_place() -> None:
    assert metadata.version("kvmharness") == __version__


def test_the_version_of_a_checkout_names_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*words: str) -> str:
        options = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *options, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    (tmp_path / "kvmharness").mkdir()
    (tmp_path / "kvmharness" / "a.py").touch()
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message=one")
    monkeypatch.setattr(version, "_HERE", tmp_path / "kvmharness")
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    revision = git("rev-parse", "--short=12", "HEAD")
    assert capsys.readouterr().out == f"kvmharness {__version__} ({revision})\n"
    (tmp_path / "kvmharness" / "a.py").write_text("changed\n")
    assert version.described() == f"{__version__} ({revision}-dirty)"


def test_an_installed_package_has_its_version_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "_HERE", tmp_path / "kvmharness")
    assert version.described() == __version__
