# SPDX-License-Identifier: GPL-2.0-or-later
"""`lab validate`: what it says of a patch, and how to do it again; with a make and machines that are made
up."""

import hashlib
import io
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmharness import __version__
from kvmharness.cli.main import main
from kvmharness.judging.verdict import Expectation, Result, Verdict
from kvmharness.lab import runs
from kvmharness.lab.build.incremental_tree import Tree
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.patches import kept
from kvmharness.lab.runs import Played
from kvmharness.scenarios import Scenario
from tests.command_line import checked
from tests.limits import GIVE_UP_S
from tests.made_up_builds import PACKAGE, SPEC, needs_a_compiler
from tests.made_up_kernels import put
from tests.made_up_mails import DIFF, THREAD, mail

pytestmark = needs_a_compiler


@pytest.fixture
def validated(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines in which a kernel keeps a contract where its modules say "frozen", and nowhere else."""

    def play_on(
        kernel: Kernel, machine: Machine, scenarios: list[Scenario], expectation: Expectation
    ) -> Played:
        frozen = b"frozen" in (kernel.folder / "kvm.ko").read_bytes()
        verdict = Verdict.PASS if frozen else Verdict.FAIL
        return Played(tuple(Result(each.name, verdict, "", "x", 1, frozen, frozen) for each in scenarios), {})

    monkeypatch.setattr(runs, "play_on", play_on)
    monkeypatch.setattr("kvmharness.cli.lab_options.check_emulator", lambda machine: None)


def to_reproduce(text: str) -> list[str]:
    """The words after the command's name that a validation says it can be done again with."""
    _, _, last = text.partition("To reproduce:\n")
    return shlex.split(last.partition("\n\n")[0].replace("\\\n", ""))[1:]


@pytest.mark.usefixtures("validated")
def test_validate_plays_on_the_kernel_with_the_patch_and_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thread = str(put(tmp_path / "thread.txt", THREAD))
    asked = ["--pick", "1", "--scenario", "young-restore", "--expect", "oliver-upton"]
    assert main(["lab", "validate", SPEC, "--patch", thread, *asked, "--offline"]) == 0
    text = capsys.readouterr().out
    digits = hashlib.sha256(THREAD.encode()).hexdigest()[:16]
    told = f"Tested with kvmharness: {thread} (sha256 {digits}, patch 1)"
    assert told in " ".join(text.split())
    assert ["young-restore", "broken", "kept", "yes"] in [line.split() for line in text.splitlines()]
    assert to_reproduce(text) == ["lab", "validate", SPEC, "--patch", f"sha256:{digits}", *asked]
    flat = " ".join(text.split())
    assert f"By kvmharness {__version__}" in flat
    assert "qemu-system-x86_64" in flat
    assert "kernel: linux-image-6.18.0-mine-cloud-amd64 6.18-1 " in flat
    assert "Level of testing: emulated, no hardware: amd-smp (QEMU's emulation of two AMD CPUs" in flat
    assert main(["lab", "validate", SPEC, "--patch", thread, *asked, "--offline", "--format", "json"]) == 0
    data = checked(capsys.readouterr().out, "validate.schema.json")
    of_machine = data["machines"]["amd-smp"]
    assert (data["patches"], data["kernel"], data["expect"]) == (
        [told.partition(": ")[2]],
        SPEC,
        "oliver-upton",
    )
    assert (of_machine["fixed"], of_machine["broken"], of_machine["conforms"]) == (
        ["young-restore"],
        [],
        True,
    )
    assert of_machine["before"]["contracts_broken"] == ["young-restore"]
    assert data["command"][1:] == to_reproduce(text)
    assert data["about"]["packages"] == {SPEC: f"{PACKAGE.package} {PACKAGE.version}"}
    asked[1] = "2"
    output = ("--output", str(tmp_path / "text"))
    assert main(["lab", "validate", SPEC, "--patch", thread, *asked, "--offline", *output]) == 1
    assert "does not follow oliver-upton: young-restore" in (tmp_path / "text").read_text()


@pytest.mark.usefixtures("validated")
@pytest.mark.parametrize("given", ["-", "a.patch"])
def test_what_a_validation_says_to_reproduce_it_works_from_anywhere(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = mail(DIFF, Message_ID="<1@example.org>")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(posted.encode())))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.patch").write_text(posted)
    (tmp_path / "mine.toml").write_text('[policy.mine]\nlike = "mainline-6.7"\nsummary = "x"\n')
    by_own_policy = ("--expect", "mine", "--policy-file", "mine.toml")
    asked = ["--patch", given, "--scenario", "young-restore", *by_own_policy]
    assert main(["lab", "validate", SPEC, *asked, "--offline"]) == 0
    text = capsys.readouterr().out
    about = "[PATCH] clock: Leave frozen clocks alone (A. Developer <a@example.org>, <1@example.org>)"
    assert f"Tested with kvmharness: {about}" in " ".join(text.split())
    (tmp_path / "a.patch").unlink()
    monkeypatch.chdir("/")
    assert main([*to_reproduce(text), "--offline"]) == 0
    again = capsys.readouterr().out
    assert to_reproduce(again) == to_reproduce(text)
    assert again.splitlines()[:3] == text.splitlines()[:3]


@pytest.mark.usefixtures("validated")
def test_an_interrupted_validation_says_what_it_has_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, play_on = runs.Matrix.__iter__, runs.play_on

    def endless_on_smp(kernel: Kernel, machine: Machine, *rest: Any) -> Played:
        assert machine.stop
        if machine.name == "amd-smp":
            assert machine.stop.wait(GIVE_UP_S)
        return play_on(kernel, machine, *rest)

    def two_only(matrix: runs.Matrix) -> Iterator[runs.Finished]:
        for number, each in enumerate(whole(matrix)):
            yield each
            if number == 1:
                raise KeyboardInterrupt

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(runs, "play_on", endless_on_smp)
    monkeypatch.setattr(runs.Matrix, "__iter__", two_only)
    monkeypatch.setattr(os, "_exit", leave)
    patch = str(put(tmp_path / "a.patch", DIFF))
    machines = ("--machine", "amd", "--machine", "amd-smp", "--jobs", "1")
    with pytest.raises(SystemExit, match="130"):
        main(["lab", "validate", SPEC, "--patch", patch, *machines, "--scenario", "old-restore", "--offline"])
    out, error = capsys.readouterr()
    assert error.splitlines()[-1] == "kvmharness: interrupted"
    assert "emulated machine amd\n" in out
    missing = f"CUT SHORT: {SPEC} on amd-smp, built:debian-6.18+a on amd-smp was interrupted"
    assert missing in " ".join(out.split())
    assert "emulated machine amd-smp" not in out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sha256:0123456789abcdef", "the cache holds no patch sha256:0123456789abcdef: give its file"),
        ("sha256:0123", "names no patch: expected sha256: and at least 16 digits"),
        ("sha256:../../../etc/passwd", "names no patch"),
    ],
)
def test_a_patch_that_is_not_kept_is_one_line(
    tree: Tree, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    assert main(["lab", "build", SPEC, "--patch", name, "--offline"]) == 2
    assert reason in capsys.readouterr().err


def test_a_kept_patch_is_found_by_all_of_its_hash_and_not_by_anothers(cache_root: Path) -> None:
    name = kept.keep(DIFF.encode())
    whole = hashlib.sha256(DIFF.encode()).hexdigest()
    for each in (name, f"sha256:{whole}", f"sha256:{whole.upper()}"):
        assert kept.load(each) == DIFF.encode()
    with pytest.raises(LabError, match="is another patch than"):
        kept.load(f"sha256:{whole[:20]}{'0' * 20}")
