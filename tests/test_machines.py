# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines of the lab, as they are written down."""

import pytest

from kvmharness.lab import machine
from kvmharness.lab.errors import LabError


def test_a_missing_emulator_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LabError, match="machine amd needs qemu-system-x86_64: install qemu-system-x86"):
        machine.check_emulator(machine.AMD)


def test_amd_unstable_is_amd_but_for_the_kernels_trust_in_its_tsc() -> None:
    assert machine.AMD_UNSTABLE.emulator == machine.AMD.emulator
    assert machine.AMD_UNSTABLE.kernel_options == machine.AMD.kernel_options.replace(
        "tsc=reliable", "tsc=unstable"
    )


def test_every_machine_is_listed_under_its_own_name() -> None:
    assert {name: each.name for name, each in machine.MACHINES.items()} == {
        name: name for name in ("amd", "amd-smp", "amd-unstable", "intel")
    }
