# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's clocksource is changed in the lab alone, and given back."""

import errno
import os
from pathlib import Path

import pytest

from kvmharness.kvm import System
from kvmharness.player.clocksource import Clocksource
from kvmharness.player.player import Player


def folder(where: Path, available: str = "tsc hpet acpi_pm \n") -> Path:
    (where / "available_clocksource").write_text(available)
    (where / "current_clocksource").write_text("tsc\n")
    return where


def current(where: Path) -> str:
    return (where / "current_clocksource").read_text().strip()


def test_a_clock_leaves_the_tsc_for_the_best_of_the_others_and_comes_back(tmp_path: Path) -> None:
    host = Clocksource(str(folder(tmp_path)))
    host.choose(tsc=False)
    assert current(tmp_path) == "hpet"
    host.choose(tsc=True)
    assert current(tmp_path) == "tsc"


def test_a_clock_that_a_script_took_off_the_tsc_is_put_right_once(tmp_path: Path) -> None:
    host = Clocksource(str(folder(tmp_path)))
    host.choose(tsc=False)
    host.restore()
    assert current(tmp_path) == "tsc"
    (tmp_path / "current_clocksource").write_text("acpi_pm")
    host.restore()
    assert current(tmp_path) == "acpi_pm"


@pytest.mark.parametrize("available", ["tsc \n", "hpet acpi_pm \n", ""])
def test_a_clock_without_a_choice_is_left_alone(tmp_path: Path, available: str) -> None:
    host = Clocksource(str(folder(tmp_path, available)))
    for tsc in (True, False):
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
            host.choose(tsc=tsc)
    assert current(tmp_path) == "tsc"


def test_a_kernel_that_shows_no_clocksource_has_no_choice(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
        Clocksource(str(tmp_path / "nothing")).choose(tsc=True)


@pytest.mark.kvm
def test_a_player_leaves_this_hosts_clocksource_alone(system: System, tmp_path: Path) -> None:
    script = [{"op": "set_clocksource", "tsc": False, "label": ""}]
    (step,) = Player(system).play(script)
    assert step["errno"] == "ENODEV"
    made_up = Clocksource(str(folder(tmp_path)))
    (step,) = Player(system, made_up).play(script)
    assert "errno" not in step
    # The script is over: the clock is put right.
    assert current(tmp_path) == "tsc"
