# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read off a machine's console."""

import pytest

from kvmharness.lab.machines import console


def test_the_consoles_last_words_are_its_end_and_what_names_a_fault() -> None:
    said = "BUG: it\n" + "".join(f"line {number}\r\n\n" for number in range(40))
    assert console.last_words(said, 2) == ["BUG: it", "line 38", "line 39"]


PLAYED = """\
[    1.000000] kvmharness plays probe
[    1.100000] kvmharness plays young-restore
[    1.200000] ------------[ cut here ]------------
[    1.200001] WARNING: CPU: 0 PID: 1 at arch/x86/kvm/x86.c:1 something+0x1/0x2
[    1.300000] kvmharness plays old-restore
{fault}
"""


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (
            "[    1.4] Kernel panic - not syncing: Attempted to kill init!",
            "the kernel panicked during old-restore: Kernel panic - not syncing: Attempted to kill init!",
        ),
        (
            "[    1.4][   C1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
            "a CPU was locked up during old-restore: watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
        ),
        (
            "[    1.4] BUG: kernel NULL pointer dereference",
            "the kernel hit a bug of its own during old-restore: BUG: kernel NULL pointer dereference",
        ),
        ("[    1.4] Oops: 0002 [#1]", "the kernel oopsed during old-restore: Oops: 0002 [#1]"),
    ],
)
def test_a_fault_is_told_apart_and_with_what_was_played(fault: str, text: str) -> None:
    found = console.worst(PLAYED.format(fault=fault))
    assert found is not None
    assert found.text == text


def test_a_warning_is_no_fault_and_is_told_with_what_was_played() -> None:
    said = PLAYED.format(fault="")
    assert console.worst(said) is None
    assert console.warnings(said) == (
        "a warning during young-restore: WARNING: CPU: 0 PID: 1 at arch/x86/kvm/x86.c:1 something+0x1/0x2",
    )
    assert console.playing(said) == "old-restore"


def test_a_silent_console_says_nothing() -> None:
    assert console.remarks("") == []
    assert console.playing("") == ""
    assert console.worst("all is well") is None
