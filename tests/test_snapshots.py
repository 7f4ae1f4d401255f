# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of machines that are ready for a job: what is kept of them, and what QEMU is told."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.judging.session import Session
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import machine, snapshot
from kvmharness.lab.machines.catalogue import AMD, AMD_EARLY, AMD_SMP, INTEL
from kvmharness.lab.machines.qmp import CommandRefusedError, EndedError, Monitor
from kvmharness.lab.machines.snapshot import Snapshot
from kvmharness.player import host_state
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import to_lines
from tests.machines import built_again

SNAPSHOT = Snapshot(bytes(range(256)) * 400, b"[    0.1] hello\n")


@pytest.fixture
def place(cache_root: Path) -> Path:
    return cache_root / "snapshots" / "0123456789abcdef"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether there was one, each time that a snapshot was looked for."""
    found: list[bool] = []
    load = snapshot.load

    def remembered(place: Path) -> Snapshot | None:
        kept = load(place)
        found.append(kept is not None)
        return kept

    monkeypatch.setattr(snapshot, "load", remembered)
    return found


def test_a_snapshot_is_kept_as_it_was_until_it_is_forgotten(place: Path) -> None:
    assert snapshot.load(place) is None
    snapshot.keep(place, SNAPSHOT)
    assert snapshot.load(place) == SNAPSHOT
    snapshot.forget(place)
    assert snapshot.load(place) is None
    assert not place.exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_snapshot_is_none(place: Path, damage: str) -> None:
    snapshot.keep(place, SNAPSHOT)
    state = place / "state.zst"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        state.unlink()
    else:
        state.write_bytes(content if damage == "changed" else content[:-10])
    assert snapshot.load(place) is None
    snapshot.keep(place, SNAPSHOT)
    assert snapshot.load(place) == SNAPSHOT


def test_a_cache_that_can_only_be_read_serves_as_well(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.keep(place, SNAPSHOT)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert snapshot.load(place) == SNAPSHOT


@pytest.mark.lab
def test_a_kernel_that_says_nothing_leaves_a_snapshot_too(
    kernel: Callable[[str], Kernel], cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    found = kernel("debian:6.1")
    silent = dataclasses.replace(AMD, kernel_options=AMD.kernel_options.replace("loglevel=5", "loglevel=0"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_root.parent))
    job = play.job_for([SCENARIOS["young-restore"]])
    for _ in range(10):  # a busy host leaves none
        booted = machine.boot(silent, found.vmlinux, play.image_for(found, silent), job.content)
        assert booted.complaint == ""
        if booted.snapshot:
            break
    assert booted.snapshot is not None
    assert booted.snapshot.console == b"\n"


def test_the_snapshots_used_least_recently_go_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_KEEP", 3)
    for number in range(5):
        each = place.with_name(f"{number:016}")
        snapshot.keep(each, SNAPSHOT)
        os.utime(each, (number, number))
        if number == 2:
            os.utime(place.with_name(f"{0:016}"), (10, 10))
    left = sorted(each.name for each in place.parent.iterdir())
    assert left == [*(f"{number:016}" for number in (0, 3, 4)), "lock"]


def test_a_cache_that_cannot_be_written_keeps_nothing_and_says_nothing(place: Path) -> None:
    place.parent.parent.mkdir()
    place.parent.write_text("no folder")
    snapshot.keep(place, SNAPSHOT)
    assert snapshot.load(place) is None


def test_another_kernel_image_machine_or_emulator_has_a_snapshot_of_its_own(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"kernel")
    first = AMD.snapshot_place(kernel, b"image")
    assert first == AMD.snapshot_place(kernel, b"image")
    others = {AMD.snapshot_place(kernel, b"another"), AMD_SMP.snapshot_place(kernel, b"image")}
    kernel.write_bytes(b"another kernel")
    others.add(AMD.snapshot_place(kernel, b"image"))
    assert len(others) == 3
    assert first not in others
    assert INTEL.snapshot_place(kernel, b"image") is None


def qemu_that_prints(*lines: str) -> "subprocess.Popen[bytes]":
    code = f"print({os.linesep.join(lines)!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_a_monitor_keeps_events_for_later_and_other_output_for_the_end() -> None:
    printed = ('{"QMP": {}}', '{"event": "STOP"}', "qemu: a warning", '{"return": {"status": "running"}}')
    with qemu_that_prints(*printed) as process:
        monitor = Monitor(process)
        assert monitor.execute("query-status") == {"status": "running"}
        assert monitor.has_seen("STOP")
        monitor.wait_for("STOP")
        with pytest.raises(EndedError):
            monitor.wait_for("RESUME")
        assert monitor.rest() == b"qemu: a warning\n"


def test_a_command_that_qemu_refuses_or_does_not_live_to_answer_is_told() -> None:
    with qemu_that_prints('{"error": {"desc": "no such command"}}') as process:
        monitor = Monitor(process)
        with pytest.raises(CommandRefusedError, match="no such command"):
            monitor.execute("nonsense")
        with pytest.raises(EndedError):
            monitor.execute("query-status")


def test_a_machine_that_cannot_load_modules_later_is_as_it_is() -> None:
    assert AMD.loading_modules_later.loads_modules_later
    assert AMD_SMP.loading_modules_later.loads_modules_later
    for machine_without in (INTEL, AMD_EARLY, AMD.without_snapshots):
        assert machine_without.loading_modules_later == machine_without
        assert not machine_without.loads_modules_later


@pytest.mark.lab
def test_another_build_of_the_modules_goes_on_from_the_kernels_snapshot_the_same_to_the_byte(
    kernel: Callable[[str], Kernel], cache_root: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[bool]
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    found = kernel("debian:6.1")
    builds = [built_again(found, f"test-again-{number}") for number in range(2)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_root.parent))
    scenarios = [SCENARIOS[name] for name in ("young-restore", "qemu-pair-old")]
    # A host that is too busy leaves no snapshot.
    while loaded.count(True) < 1 and len(loaded) < 10:
        play.play(builds[0], AMD, scenarios)
    sessions = [play.play(build, AMD, scenarios) for build in (*builds, *builds)]
    assert loaded[-4:] == [True] * 4
    lines = [[list(to_lines(each)) for each in session.everything] for session in sessions]
    assert lines[:2] == lines[2:]
    ids = [host_state.build_ids(session.probe.host)["kvm"] for session in sessions]
    assert ids == [hashlib.sha1(f"test-again-{number}".encode()).hexdigest() for number in (0, 1, 0, 1)]


@pytest.mark.lab
def test_modules_that_do_not_load_are_told_and_leave_the_snapshot_to_the_others(
    kernel: Callable[[str], Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play, "ATTEMPTS", 2)
    build = built_again(kernel("debian:6.1"), "test-again-0")
    scenarios = [SCENARIOS["young-restore"]]
    on = AMD.loading_modules_later
    place = on.snapshot_place(build.vmlinux, play.image_for(build, on))
    assert place is not None
    for _ in range(10):  # a busy host leaves none
        play.play(build, AMD, scenarios)
        if snapshot.load(place):
            break
    whole = play.modules_for(build, on)
    # With CRCs of what it uses a module may be another release's; but not a kernel's of another kind.
    unfit = {**whole, "kvm.ko": whole["kvm.ko"].replace(b" SMP ", b" UP! ")}
    monkeypatch.setattr(play, "modules_for", lambda *_: unfit)
    with pytest.raises(play.LostMachineError, match="a module did not load") as lost:
        play.play(build, AMD, scenarios)
    assert any("modules/01/kvm.ko: Exec format error" in line for line in lost.value.console)
    assert any("version magic" in line for line in lost.value.console)
    assert snapshot.load(place) is not None


@pytest.mark.lab
@pytest.mark.parametrize("spec", ["debian:6.1", pytest.param("debian:6.12", marks=pytest.mark.full)])
def test_a_run_from_a_snapshot_brings_back_what_a_run_from_a_boot_does_to_the_byte(
    kernel: Callable[[str], Kernel],
    cache_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    loaded: list[bool],
    spec: str,
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    found = kernel(spec)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_root.parent))
    scenarios = [SCENARIOS[name] for name in ("young-restore", "qemu-pair-old")]
    # A host that is too busy leaves no snapshot.
    sessions: list[Session] = []
    while len(sessions) < 20 and loaded.count(True) < 2:
        sessions.append(play.play(found, AMD, scenarios))
    assert loaded[0] is False
    assert loaded.count(True) == 2
    # So does a machine that keeps none, as after an attempt that was lost.
    sessions.append(play.play(found, AMD.without_snapshots, scenarios))
    lines = [[list(to_lines(each)) for each in session.everything] for session in sessions]
    assert all(each == lines[0] for each in lines)
    # Another job goes on from the same snapshot.
    play.play(found, AMD, [SCENARIOS["write-zero"]])
    assert loaded[-1]
