# SPDX-License-Identifier: GPL-2.0-or-later
"""What the values of a script stand for."""

import pytest

from kvmharness.player.values import NothingReadError, cycles, frequency, resolve

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
    assert resolve({"read": "tsc", "plus": 5}, KHZ, {"tsc": [7]}) == 12
    assert resolve({"read": "tsc", "plus": {"ns": 1000}}, KHZ, {"tsc": [7]}) == 7 + 2445
    assert resolve({"read": "tsc", "plus": -8}, KHZ, {"tsc": [7]}) == 2**64 - 1
    assert resolve({"read": "clock", "plus": 5, "place": 2}, KHZ, {"clock": [1, 14, 7, 3]}) == 12


def test_a_reading_nobody_made_has_no_value() -> None:
    with pytest.raises(NothingReadError, match="tsc"):
        resolve({"read": "tsc", "plus": 0}, KHZ, {"other": [1]})
    with pytest.raises(NothingReadError, match="clock"):
        resolve({"read": "clock", "plus": 0, "place": 2}, KHZ, {"clock": [1, 2]})


def test_a_frequency_is_khz_or_ppm_of_what_it_was_rounded_down() -> None:
    assert frequency(1_000_000, KHZ) == 1_000_000
    # 2445432 * 1.0002 = 2445921.0864, and * 0.9998 = 2444942.9136.
    assert frequency({"ppm": 200}, KHZ) == 2_445_921
    assert frequency({"ppm": -200}, KHZ) == 2_444_942
    assert frequency({"ppm": -1_000_000}, KHZ) == 0


def test_a_frequency_has_32_bits() -> None:
    assert frequency({"ppm": 1_000_000}, 2**32 - 1) == 2**32 - 2
