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


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP", "oopsed"),
        ("Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1]", "oopsed"),
        ("invalid opcode: 0000 [#1] PREEMPT SMP NOPTI", "oopsed"),
        ("divide error: 0000 [#1]", "oopsed"),
        ("kernel BUG at arch/x86/kvm/x86.c:1234!", "a bug of its own"),
        ("BUG: sleeping function called from invalid context at mm/slab.h:1", "a bug of its own"),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 1", "locked up"),
        ("watchdog: Watchdog detected hard LOCKUP on cpu 1", "locked up"),
        ("watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 1", "locked up"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "stalled"),
        ("rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", "stalled"),
        ("traps: PANIC: double fault, error_code: 0x0", "panicked"),
        ("PANIC: early exception 0x0e IP 10:ffffffff error 0 cr2 0x0", "panicked"),
    ],
)
def test_every_kind_of_fault_that_a_kernel_prints_is_known(line: str, kind: str) -> None:
    for stamp in ("", "[    1.400000] ", "[    1.400000][   T77] "):
        found = console.worst(stamp + line)
        assert found is not None
        assert kind in found.kind


@pytest.mark.parametrize(
    "line",
    [
        "DEBUG: the write is honoured",
        "kvm: DEBUG: masterclock 1",
        "kvm_synchronize_tsc: no BUG: here",
        "traps: python3[99] general protection fault ip:7f00 sp:7ffc error:0 in libc.so.6[7f00+1000]",
        "traps: python3[99] trap invalid opcode ip:7f00 sp:7ffc error:0 in python3.11[400000+1000]",
        "python3[99]: segfault at 0 ip 00007f00 sp 00007ffc error 4 in libc.so.6[7f00+1000]",
        "BUG: a name[9]: segfault at 0 ip 00007f00 sp 00007ffc error 4",
        "traps: BUG: a name[9] general protection fault ip:7f00 sp:7ffc error:0",
        "ValueError: the Kernel panicked, said its log: Kernel panic - not syncing",
        "no WARNING: it is well",
        "kvm: the page at 0: 0000 [#1] is no oops of mine, [#2] is",
    ],
)
def test_a_debugging_line_and_a_users_program_are_no_fault_of_the_kernels(line: str) -> None:
    assert console.remarks(f"[    1.400000] {line}\n[    1.500000][    C0] {line}\n") == []


def test_a_line_that_a_program_left_unended_hides_no_fault() -> None:
    found = console.worst("Traceback (most recent[    1.400000] BUG: scheduling while atomic: x/1/0x0\r\n")
    assert found is not None
    assert found.line == "BUG: scheduling while atomic: x/1/0x0"


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
