# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's CPUs are taken offline in the lab alone, and are all online again when a script is over."""

import errno
import os
from pathlib import Path

import pytest

from kvmharness.kvm import System
from kvmharness.player.cpu_hotplug import CpuHotplug
from kvmharness.player.player import Player
from kvmharness.script import SetCpuOnline
from tests.hand_worked import HOST, MS, create, possible, run, step


def folder(where: Path, *cpus: int) -> Path:
    """A host with these CPUs, all online; CPU 0 is always."""
    for cpu in (0, *cpus):
        (where / f"cpu{cpu}").mkdir()
    for cpu in cpus:
        (where / f"cpu{cpu}" / "online").write_text("1")
    return where


def is_online(where: Path, cpu: int) -> bool:
    return (where / f"cpu{cpu}" / "online").read_text() == "1"


def test_a_cpu_goes_offline_and_comes_online(tmp_path: Path) -> None:
    host = CpuHotplug(str(folder(tmp_path, 1, 2)))
    host.choose(1, online=False)
    assert (is_online(tmp_path, 1), is_online(tmp_path, 2)) == (False, True)
    host.choose(1, online=True)
    assert is_online(tmp_path, 1)


def test_cpus_that_a_script_took_offline_are_brought_back_once(tmp_path: Path) -> None:
    host = CpuHotplug(str(folder(tmp_path, 1, 2)))
    for cpu in (1, 2):
        host.choose(cpu, online=False)
    host.restore()
    assert is_online(tmp_path, 1)
    assert is_online(tmp_path, 2)
    (tmp_path / "cpu1" / "online").write_text("0")
    host.restore()
    assert not is_online(tmp_path, 1)


@pytest.mark.parametrize("cpu", [0, 7])
def test_a_cpu_that_is_always_online_or_not_there_cannot_be_changed(tmp_path: Path, cpu: int) -> None:
    host = CpuHotplug(str(folder(tmp_path, 1)))
    for online in (False, True):
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
            host.choose(cpu, online=online)
    assert not (tmp_path / "cpu7").exists()


@pytest.mark.kvm
def test_a_player_leaves_this_hosts_cpus_alone(system: System, tmp_path: Path) -> None:
    script = [{"op": "set_cpu_online", "cpu": 1, "online": False, "label": ""}]
    (step,) = Player(system).play(script)
    assert step["errno"] == "ENODEV"
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("this process may use one CPU alone")
    made_up = CpuHotplug(str(folder(tmp_path, *(cpu for cpu in allowed if cpu))))
    (step,) = Player(system, hotplug=made_up).play(script)
    assert "errno" not in step
    # The script is over: all are online.
    assert is_online(tmp_path, allowed[1])
    # The one that the thread is on stays as it is.
    (step,) = Player(system, hotplug=made_up).play([{**script[0], "cpu": 0}])
    assert step["errno"] == "ENODEV"


def test_a_tsc_goes_on_across_a_cpus_absence() -> None:
    off, on = (SetCpuOnline(cpu=1, online=online) for online in (False, True))
    away = (create(1000 * MS), run(1002 * MS, 2 * MS), step(off, 1010 * MS), step(on, 1020 * MS))
    assert possible(*away, run(1030 * MS, 30 * MS))
    assert not possible(*away, run(1030 * MS, 40 * MS))
    assert possible(create(1000 * MS), step(off, 1010 * MS, error="ENODEV"), host=HOST)
    assert not possible(create(1000 * MS), step(off, 1010 * MS, error="EINVAL"), host=HOST)
