# SPDX-License-Identifier: GPL-2.0-or-later
"""`lab run` with a made-up lab: kernels by machines, those that are lost, and what an interrupt leaves."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from kvmharness.cli import lab_build, lab_options, writing
from kvmharness.judging.session import Session
from kvmharness.lab import kernels, play, runs
from kvmharness.lab.build.modules import Built
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.scenarios import Scenario
from tests.command_line import Capture, one_line, status_of
from tests.limits import GIVE_UP_S
from tests.made_up import session
from tests.made_up_mails import DIFF


def test_a_lost_machine_is_reported_with_its_console_and_exits_3(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lose(*_: object) -> Session:
        raise play.LostMachineError("the machine hung, 3 times", ["BUG: something"])

    monkeypatch.setattr(play, "play", lose)
    monkeypatch.setattr(lab_options, "check_emulator", lambda machine: None)
    monkeypatch.setattr(kernels, "find", lambda spec, *_: Kernel(spec, "6.1.0", tmp_path, {}))
    assert status_of("lab", "run", "debian:6.1") == 3
    out = capsys.readouterr().out
    assert "LOST" in out
    assert "  | BUG: something" in out
    assert "was lost, so nothing is known about the kernel" in " ".join(out.split())


@pytest.fixture
def made_up_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Replaces the lab: debian:6.1 is from before 6.7, debian:0 ignores writes, debian:5 has no modules.

    debian:2 is not finished before the test is.
    """
    over = threading.Event()

    def play_there(kernel: Kernel, machine: Machine, scenarios: Sequence[Scenario]) -> Session:
        if kernel.spec == "debian:5":
            raise LabError(f"{kernel.spec} has no module {machine.vendor_module}")
        if kernel.spec == "debian:4":
            raise OSError(28, "No space left on device")
        if kernel.spec == "debian:2":
            over.wait(GIVE_UP_S)
        if kernel.spec == "debian:3":
            raise ZeroDivisionError("a fault of ours")
        other = {"debian:6.1": "mainline-before-6.7", "debian:0": "tsc-protected"}
        return session(scenarios, other.get(kernel.spec, "mainline-6.7"))

    monkeypatch.setattr(play, "play", play_there)
    monkeypatch.setattr(lab_options, "check_emulator", lambda machine: None)
    monkeypatch.setattr(kernels, "find", lambda spec, *_, **__: Kernel(spec, spec[7:], tmp_path, {}))
    yield
    over.set()


@pytest.mark.usefixtures("made_up_lab")
def test_every_kernel_is_played_on_every_machine(capsys: Capture) -> None:
    machines = ("--machine", "amd", "--machine", "amd-smp")
    assert status_of("lab", "run", "debian:6.1", "debian:6.12", *machines, "--format", "json") == 1
    columns = json.loads(capsys.readouterr().out)["kernels"]
    assert [(column["kernel"], column["machine"], column["behaves_as"]) for column in columns] == [
        ("debian:6.1", "amd", ["mainline-before-6.7"]),
        ("debian:6.1", "amd-smp", ["mainline-before-6.7"]),
        ("debian:6.12", "amd", ["mainline-6.7"]),
        ("debian:6.12", "amd-smp", ["mainline-6.7"]),
    ]


@pytest.mark.usefixtures("made_up_lab")
def test_a_kernel_that_ignores_writes_in_an_emulated_machine_is_at_fault(capsys: Capture) -> None:
    assert status_of("lab", "run", "debian:0", "--scenario", "old-restore") == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "consistent with: tsc-protected" in out


@pytest.mark.usefixtures("made_up_lab")
@pytest.mark.parametrize(("good", "status"), [("debian:6.12", 2), ("debian:6.1", 1)])
def test_a_kernel_that_cannot_be_played_does_not_cost_the_others_their_verdicts(
    capsys: Capture, good: str, status: int
) -> None:
    assert status_of("lab", "run", "debian:5", good) == status
    out, error = capsys.readouterr()
    behaves_as = "mainline-6.7" if status == 2 else "mainline-before-6.7"
    assert f"It behaves as {behaves_as}." in " ".join(out.split())
    assert out.startswith("CUT SHORT: debian:5 on amd could not be played (debian:5 has no module")
    assert one_line(error) == "kvmharness: debian:5 has no module kvm_amd"


@pytest.mark.usefixtures("made_up_lab")
def test_a_full_memory_does_not_cost_the_others_their_verdicts(capsys: Capture) -> None:
    assert status_of("lab", "run", "debian:4", "debian:6.12") == 2
    out, error = capsys.readouterr()
    assert "It behaves as mainline-6.7." in " ".join(out.split())
    assert "No space left on device" in one_line(error)


@pytest.fixture
def interrupted_after_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes when the first kernel is finished; debian:6.12 is not until then."""
    play_there = play.play

    def endless(kernel: Kernel, machine: Machine, scenarios: Sequence[Scenario]) -> Session:
        assert machine.stop
        if kernel.spec == "debian:6.12":
            assert machine.stop.wait(GIVE_UP_S)
        return play_there(kernel, machine, scenarios)

    def first_only(futures: Sequence[Future[Any]]) -> Iterator[Future[Any]]:
        futures[0].exception()
        yield futures[0]
        raise KeyboardInterrupt

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(play, "play", endless)
    monkeypatch.setattr(runs, "as_completed", first_only)
    monkeypatch.setattr(os, "_exit", leave)


@pytest.mark.usefixtures("made_up_lab", "interrupted_after_one")
def test_what_is_finished_is_reported_and_saved_when_the_rest_is_interrupted(
    capsys: Capture, tmp_path: Path
) -> None:
    folder = tmp_path / "traces"
    assert status_of("lab", "run", "debian:6.1", "debian:2", "--save-traces", str(folder)) == 130
    out, error = capsys.readouterr()
    assert "debian:6.1 on amd" in out
    assert out.startswith("CUT SHORT: debian:2 on amd was interrupted.\n")
    assert one_line(error) == "kvmharness: interrupted"
    assert {path.name.split(".amd.")[0] for path in folder.iterdir()} == {"debian-6.1"}


@pytest.mark.usefixtures("made_up_lab", "interrupted_after_one")
def test_what_is_finished_is_saved_also_when_the_interrupt_comes_before_it_is_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none_of_them(futures: Sequence[Future[Any]]) -> Iterator[Future[Any]]:
        futures[0].result()
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "as_completed", none_of_them)
    asked = ("--scenario", "old-restore", "--jobs", "1", "--save-traces", str(tmp_path / "traces"))
    assert status_of("lab", "run", "debian:6.1", "debian:6.12", *asked) == 130
    assert (tmp_path / "traces" / "debian-6.1.amd.old-restore.jsonl").exists()


@pytest.mark.usefixtures("made_up_lab", "interrupted_after_one")
@pytest.mark.parametrize("spec", ["debian:5", "debian:4", "debian:3"])
def test_an_interrupt_is_one_also_after_a_kernel_that_could_not_be_played(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    trouble = {"debian:5": "has no module", "debian:4": "No space left", "debian:3": "a fault of ours"}[spec]
    assert status_of("lab", "run", spec, "debian:6.12", "--jobs", "1") == 130
    first, last = capsys.readouterr().err.splitlines()
    assert trouble in first
    assert last == "kvmharness: interrupted"


@pytest.mark.usefixtures("made_up_lab")
@pytest.mark.parametrize("command", ["run", "validate"])
def test_what_cannot_be_written_in_the_end_goes_to_stdout_and_is_no_success(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    asked = ["--scenario", "old-restore", "--output", str(tmp_path / "report")]
    if command == "validate":
        built = Built(kernels.find("debian:6.12"), (), (), tmp_path / "log", "gcc 12")
        monkeypatch.setattr(lab_build, "build_kernel", lambda *_: built)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "a.patch").write_text(DIFF)
        monkeypatch.setattr(lab_options, "check_emulator", lambda machine: None)
        asked += ["--patch", str(tmp_path / "a.patch")]

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "report").write_text("of an earlier run")
    assert status_of("lab", command, "debian:6.12", *asked) == 0
    whole = (tmp_path / "report").read_text()
    monkeypatch.setattr(writing, "write_whole", full)
    assert status_of("lab", command, "debian:6.12", *asked) == 2
    out, error = capsys.readouterr()
    assert out == whole
    assert one_line(error).startswith(f"kvmharness: cannot write to {tmp_path / 'report'}: No space left")
    assert [path.name for path in tmp_path.iterdir() if "report" in path.name] == ["report"]
    # Nor are traces that are not kept.
    traces = ("--save-traces", str(tmp_path / "traces"))
    assert status_of("lab", "run", "debian:6.12", *asked[:2], *traces) == 2


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("no-such/report", "No such file or directory"),
        ("", "Is a directory"),
        ("file/report", "Not a directory"),
    ],
)
def test_why_a_report_cannot_be_written_is_said_before_anything_is_played(
    capsys: Capture, tmp_path: Path, place: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    assert status_of("lab", "run", "debian:6.1", "--output", str(tmp_path / place)) == 2
    assert one_line(capsys.readouterr().err).endswith(f"cannot write to {tmp_path / place}: {reason}")
