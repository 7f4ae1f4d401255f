# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness explore, as a user runs it, on made-up kernels."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness import host
from kvmharness.cli import explore
from kvmharness.explore import corpus
from kvmharness.explore.corpus import CorpusError
from kvmharness.model.simulate import SimulatedRules
from tests.command_line import Capture, one_line, status_of
from tests.made_up_faults import FAULTS, Rules, player

EXPLORE = ("explore", "--host", "--scripts", "40")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Rules], None]:
    """Replaces this host's KVM by a made-up one with these rules; findings land in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def use(rules: Rules) -> None:
        monkeypatch.setattr(host, "play", player(rules))

    return use


def test_a_kernel_without_a_fault_has_no_findings(kernel: Callable[[Rules], None], capsys: Capture) -> None:
    kernel(SimulatedRules)
    assert status_of(*EXPLORE) == 0
    said = capsys.readouterr().out
    assert said.startswith("host on /dev/kvm: 0 findings in 40 scripts")
    assert "Known: what mainline-6.7 itself breaks" in said
    (covered,) = [line for line in said.splitlines() if "operations never played" in line]
    assert "set_clock_guest" in covered, "which this kernel does not have"
    assert "set_msrs" not in covered


def test_a_finding_is_reported_kept_and_played_again_by_the_command_that_is_given(
    kernel: Callable[[Rules], None], capsys: Capture
) -> None:
    kernel(FAULTS["GateByCreation"])
    assert status_of(*EXPLORE) == 1
    said = capsys.readouterr().out
    again = next(line for line in said.splitlines() if "again: kvmharness" in line)
    command = again.partition("kvmharness ")[2].split()
    assert Path(command[command.index("--scenario-file") + 1]).is_file()
    assert status_of(*command) == 1
    kernel(SimulatedRules)
    assert status_of(*command) == 0


def test_the_corpus_keeps_scripts_and_findings_and_is_begun_with(
    kernel: Callable[[Rules], None], tmp_path: Path
) -> None:
    kernel(FAULTS["GateByCreation"])
    assert status_of(*EXPLORE, "--corpus", "kept") == 1
    scripts = corpus.load(tmp_path / "kept")
    assert len(scripts) > 10
    assert list((tmp_path / "kept" / "findings").glob("found-*.json"))
    assert status_of(*EXPLORE, "--corpus", "kept", "--seed", "2") == 1
    assert len(corpus.load(tmp_path / "kept")) > len(scripts)


def test_a_finding_is_kept_as_soon_as_it_is_made(
    kernel: Callable[[Rules], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(*given: object) -> None:
        raise SystemExit(137)

    kernel(FAULTS["GateByCreation"])
    monkeypatch.setattr(explore, "_show_progress", killed)
    assert status_of(*EXPLORE, "--corpus", "kept") == 137
    assert list((tmp_path / "kept" / "findings").glob("found-*.json"))


def test_a_ctrl_c_reports_what_was_found_until_then(
    kernel: Callable[[Rules], None], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    kernel(FAULTS["GateByCreation"])
    monkeypatch.setattr(explore, "_FIRST_BATCH", 20)
    monkeypatch.setattr(explore, "_show_progress", _interrupt)
    assert status_of(*EXPLORE) == 1
    assert re.search(r"\b[123] findings in 20 scripts", capsys.readouterr().out)
    kernel(SimulatedRules)
    assert status_of(*EXPLORE) == 130
    assert "0 findings in 20 scripts" in capsys.readouterr().out


def _interrupt(*given: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "arguments",
    [
        ("explore",),
        ("explore", "--host", "debian:6.12"),
        ("explore", "--host", "--machine", "amd"),
        ("explore", "--host", "--for", "1m", "--scripts", "5"),
        ("explore", "a", "b", "--against", "c"),
        ("explore", "--host", "--for", "soon"),
        ("explore", "--host", "--for", "0s"),
        ("explore", "--host", "--scripts", "-1"),
        ("explore", "debian:6.12", "--machine", "abacus"),
        ("explore", "--host", "--expect", "magic"),
    ],
)
def test_what_makes_no_sense_costs_one_line_and_status_2(arguments: tuple[str, ...], capsys: Capture) -> None:
    assert status_of(*arguments) == 2
    one_line(capsys.readouterr().err)


def test_a_corpus_that_is_none_is_named_with_its_line(tmp_path: Path, capsys: Capture) -> None:
    good = json.dumps([{"op": "get_clock", "label": "clock"}])
    (tmp_path / "scripts.jsonl").write_text(f"{good}\n[1]\n")
    with pytest.raises(CorpusError, match="line 2"):
        corpus.load(tmp_path)
    assert status_of("explore", "--host", "--corpus", str(tmp_path)) == 2
    assert "scripts.jsonl, line 2" in one_line(capsys.readouterr().err)
