# SPDX-License-Identifier: GPL-2.0-or-later
"""What the values of a script stand for."""

import pytest

from kvmharness.values import NothingReadError, cycles, resolve

KHZ = 2_445_432


def test_a_number_is_cycles_modulo_two_to_the_64() -> None:
    assert resolve(123, KHZ, {}) == 123
    assert resolve(-1, KHZ, {}) == 2**64 - 1


def test_a_time_is_in_the_vcpus_own_cycles_rounded_down() -> None:
    # 0.9 s of 2445432 kHz are 2445432000 * 0.9 = 2200888800 cycles.
    assert resolve({"ns": 900_000_000}, KHZ, {}) == 2_200_888_800
    # 1 ns is 2.445432 cycles.
    assert cycles(1, KHZ) == 2


def test_a_reading_is_what_its_label_read_plus_something() -> None:
    assert resolve({"read": "tsc", "plus": 5}, KHZ, {"tsc": 7}) == 12
    assert resolve({"read": "tsc", "plus": {"ns": 1000}}, KHZ, {"tsc": 7}) == 7 + 2445
    assert resolve({"read": "tsc", "plus": -8}, KHZ, {"tsc": 7}) == 2**64 - 1


def test_a_reading_nobody_made_has_no_value() -> None:
    with pytest.raises(NothingReadError, match="tsc"):
        resolve({"read": "tsc", "plus": 0}, KHZ, {"other": 1})
