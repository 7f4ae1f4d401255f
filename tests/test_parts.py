# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel's scenarios are played in several machines: the same parts everywhere, and the results of one."""

import marshal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from kvmharness.judging.probe import PROBES
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import machine, protocol, snapshot
from kvmharness.lab.machines.catalogue import AMD, AMD_SMP, INTEL
from kvmharness.lab.machines.machine import FINISHED, Boot, Machine
from kvmharness.lab.machines.snapshot import Snapshot
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import to_lines
from tests.limits import GIVE_UP_S

ALL = list(SCENARIOS.values())
KEPT = Snapshot(b"state", b"console")
OOPS = "Oops: 0000 [#1] PREEMPT SMP"

Find = Callable[[str], Kernel]


def slots(number: int) -> Machine:
    return replace(AMD, slots=threading.Semaphore(number))


def played(job: bytes) -> Boot:
    """A boot that comes to its end, with traces of no steps."""
    number, rounds = marshal.loads(job)  # our own
    names = [name for scripts in rounds for name, _ in scripts]
    created = {"tsc": [1, 2], "ns": [1, 2]}
    frames = b"".join(protocol.encode(number, [name, "6.1", created, [], {}]) for name in names)
    return Boot(FINISHED, "", frames + protocol.encode(number, protocol.END), 1.0)


@pytest.fixture
def kernel_of_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_root: Path) -> Kernel:
    """One with a snapshot, which boots nowhere."""
    monkeypatch.setattr(play, "image_for", lambda *_: b"")
    monkeypatch.setattr(snapshot, "load", lambda _: KEPT)
    (tmp_path / "vmlinux").touch()
    return Kernel("debian:6.1", "6.1", tmp_path, {})


def test_the_parts_are_all_scenarios_once_and_about_equal() -> None:
    parts = play.parts_of(ALL, AMD)
    assert sorted(each.name for part in parts for each in part) == sorted(SCENARIOS)
    assert len(parts) > 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert max(map(len, parts)) <= play.MOST_TOGETHER


def test_what_fits_a_machine_and_what_would_have_to_boot_or_runs_in_real_time_is_one_part() -> None:
    few = ALL[: play.MOST_TOGETHER]
    assert play.parts_of(few, AMD) == [few]
    assert play.parts_of([], AMD) == [[]]
    for on in (INTEL, AMD_SMP, AMD.without_snapshots):
        assert play.parts_of(ALL, on) == [ALL]


@pytest.mark.parametrize("number", [1, 2])
def test_no_more_machines_run_at_a_time_than_there_are_slots_and_results_come_in_order(
    kernel_of_the_lab: Kernel, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    running: list[int] = []
    most: list[int] = []
    together = threading.Barrier(number)
    probed: list[bool] = []

    def booted(on: Machine, kernel: Path, image: bytes, job: bytes, *_: object, **__: object) -> Boot:
        running.append(1)
        most.append(len(running))
        together.wait(GIVE_UP_S)
        running.pop()
        together.wait(GIVE_UP_S)
        probed.append(b"probe-write" in job)
        return played(job)

    monkeypatch.setattr(machine, "boot", booted)
    found = play.play(kernel_of_the_lab, slots(number), ALL)
    assert max(most) == number
    assert list(found.traces) == list(SCENARIOS)
    assert [each.scenario for each in found.probe.traces] == list(PROBES)
    assert sorted(probed) == [False, True]
    assert len({each.place for each in found.everything}) == 1


def test_without_a_snapshot_the_others_go_on_from_the_one_that_the_first_leaves(
    kernel_of_the_lab: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "load", lambda _: None)
    monkeypatch.setattr(snapshot, "keep", lambda *_: None)
    starts: list[Snapshot | None] = []

    def booted(
        on: Machine,
        kernel: Path,
        image: bytes,
        job: bytes,
        kept: Snapshot | None,
        *,
        modules: Mapping[str, bytes],
    ) -> Boot:
        starts.append(kept)
        return replace(played(job), snapshot=None if kept else KEPT)

    monkeypatch.setattr(machine, "boot", booted)
    assert list(play.play(kernel_of_the_lab, slots(2), ALL).traces) == list(SCENARIOS)
    assert starts == [None, KEPT]


def test_a_machine_that_is_lost_is_blamed_on_the_scenario_that_it_played(
    kernel_of_the_lab: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = play.parts_of(ALL, AMD)

    def booted(on: Machine, kernel: Path, image: bytes, job: bytes, *_: object, **__: object) -> Boot:
        if second[0].name.encode() not in job:
            return played(job)
        return Boot(0, f"[    1.0] kvmharness plays {second[0].name}\n[    1.2] {OOPS}\n", b"", 1.0)

    monkeypatch.setattr(machine, "boot", booted)
    with pytest.raises(play.CrashError) as crash:
        play.play(kernel_of_the_lab, slots(2), ALL)
    assert crash.value.scenario == second[0].name


@pytest.mark.lab
def test_two_machines_at_a_time_play_what_one_after_the_other_do_to_the_byte(
    kernel: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play, "MOST_TOGETHER", 5)
    found = kernel("debian:6.12")
    play.play(found, AMD, ALL[:1])  # leaves the snapshot
    sessions = [play.play(found, slots(number), ALL[:10]) for number in (1, 2)]
    lines = [[list(to_lines(each)) for each in session.everything] for session in sessions]
    assert len(lines[0]) == len(PROBES) + 10
    assert lines[0] == lines[1]
