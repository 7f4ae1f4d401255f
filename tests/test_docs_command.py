# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation, the man page and the completions, as the command itself shows them."""

import argparse
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import kvmharness
from kvmharness.cli import docs
from kvmharness.cli.main import parser
from tests.command_line import Capture, one_line, status_of

ROOT = Path(__file__).parent.parent


def commands(of: argparse.ArgumentParser) -> list[str]:
    """The names of all commands, also those of commands."""
    found = []
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                found += [name, *commands(command)]
    return found


def test_help_says_where_the_documentation_is(capsys: Capture) -> None:
    assert status_of("--help") == 0
    assert "kvmharness docs" in capsys.readouterr().out


def test_all_pages_are_listed_with_their_titles_and_each_can_be_shown(capsys: Capture) -> None:
    names = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert status_of("docs") == 0
    out = capsys.readouterr().out
    assert {line.split()[0] for line in out.splitlines() if "  " in line} == names
    assert str(ROOT / "docs") in out
    for name in ("policies", "docs/policies.md"):
        assert status_of("docs", name) == 0
        assert capsys.readouterr().out == (ROOT / "docs/policies.md").read_text()


def test_a_page_that_is_not_there_is_one_line_with_those_that_are(capsys: Capture) -> None:
    assert status_of("docs", "policy") == 2
    assert "no page 'policy': there are" in one_line(capsys.readouterr().err)


def test_the_pages_of_an_installed_package_are_found_where_pip_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "share/doc/kvmharness").mkdir(parents=True)
    (tmp_path / "share/doc/kvmharness/index.md").write_text("# The pages\n")
    info = tmp_path / "lib/site-packages/kvmharness-9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kvmharness\nVersion: 9\n")
    (info / "RECORD").write_text("../../share/doc/kvmharness/index.md,,\n")
    monkeypatch.setattr(kvmharness, "__file__", str(info.parent / "kvmharness/__init__.py"))
    monkeypatch.setattr(metadata, "files", lambda name: metadata.Distribution.at(info).files)
    assert docs.pages() == {"index": tmp_path / "share/doc/kvmharness/index.md"}


def test_a_package_without_its_documentation_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(kvmharness, "__file__", str(tmp_path / "kvmharness/__init__.py"))
    monkeypatch.setattr(metadata, "files", lambda name: [])
    assert status_of("docs") == 2
    assert "the documentation was not installed" in one_line(capsys.readouterr().err)


def test_the_man_page_has_every_command(capsys: Capture) -> None:
    assert status_of("docs", "--man") == 0
    page = capsys.readouterr().out
    assert page.startswith('.TH KVMHARNESS "1"')
    plain = page.replace("\\-", "-")
    assert [name for name in commands(parser()) if name not in plain] == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_that_reads_the_completions_knows_every_command(shell: str, capsys: Capture) -> None:
    assert status_of("docs", "--completion", shell) == 0
    text = capsys.readouterr().out
    assert [name for name in commands(parser()) if name not in text] == []
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_bash_completes_a_command_and_its_options(capsys: Capture) -> None:
    if shutil.which("bash") is None:
        pytest.skip("missing capability bash")
    status_of("docs", "--completion", "bash")
    words = "COMP_WORDS=(kvmharness lab v); COMP_CWORD=2; _shtab_kvmharness; echo ${COMPREPLY[*]}\n"
    script = capsys.readouterr().out + words
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout == "validate\n"
