# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host is: read from a made-up /proc and /sys, and compared with what it was."""

from pathlib import Path

import pytest

from kvmharness.player import host_reader, host_state
from tests import made_up_root
from tests.made_up_root import CLOCKSOURCE, CLOCKSOURCES, KVM_NOTE, ONLINE, STATUS, TOLERANCE, made_up, write

BUILD_ID = bytes(range(20)).hex()


def test_a_host_is_described_by_what_proc_and_sys_say(tmp_path: Path) -> None:
    assert host_reader.read(made_up(tmp_path)) == {
        "kernel": "6.12.0-made-up",
        "boot": "12345678-1234-1234-1234-123456789abc",
        "clocksource": "tsc",
        "available clocksources": "tsc hpet acpi_pm",
        "CPUs online": "0-3",
        "CPUs allowed": "0-1,3",
        "kvm.tsc_tolerance_ppm": "250",
        "kvm_amd.npt": "Y",
        "kvm build id": BUILD_ID,
    }


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert host_reader.read(str(tmp_path)) == {}
    root = made_up(tmp_path)
    for path in (CLOCKSOURCE, TOLERANCE, KVM_NOTE, STATUS):
        (tmp_path / path).unlink()
    assert set(host_reader.read(root)) == {
        *("kernel", "boot", "available clocksources", "CPUs online", "kvm_amd.npt"),
    }


def test_this_host_can_be_read(tmp_path: Path) -> None:
    facts = host_reader.read()
    assert facts["kernel"]
    assert facts["CPUs allowed"]
    assert all(text.isascii() and text.isprintable() and len(text) <= 200 for text in facts.values())


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        (CLOCKSOURCE, b"hpet\n", ["clocksource was tsc and is hpet"]),
        (
            CLOCKSOURCES,
            b"hpet acpi_pm \n",
            ["available clocksources was tsc hpet acpi_pm and is hpet acpi_pm"],
        ),
        (ONLINE, b"0,2-3\n", ["CPUs online was 0-3 and is 0,2-3", "CPUs allowed was 0-1,3 and is 0,3"]),
        (STATUS, b"Cpus_allowed_list:\t2\n", ["CPUs allowed was 0-1,3 and is 2"]),
        (TOLERANCE, b"0\n", ["kvm.tsc_tolerance_ppm was 250 and is 0"]),
        (KVM_NOTE, made_up_root.build_id(b"\7" * 4), [f"kvm build id was {BUILD_ID} and is 07070707"]),
        (
            "proc/sys/kernel/random/boot_id",
            b"\n",
            ["boot was 12345678-1234-1234-1234-123456789abc and is empty"],
        ),
    ],
)
def test_what_changed_is_said_in_words(tmp_path: Path, path: str, content: bytes, said: list[str]) -> None:
    root = made_up(tmp_path)
    before = host_reader.read(root)
    assert host_state.changes(before, host_reader.read(root)) == []
    write(tmp_path, path, content)
    assert host_state.changes(before, host_reader.read(root)) == said


def test_what_was_read_only_once_says_nothing(tmp_path: Path) -> None:
    root = made_up(tmp_path)
    before = host_reader.read(root)
    (tmp_path / TOLERANCE).unlink()
    write(tmp_path, "sys/module/kvm/parameters/new", b"1\n")
    assert host_state.changes(before, host_reader.read(root)) == []


def test_a_quick_look_sees_the_clock_and_the_cpus(tmp_path: Path) -> None:
    root = made_up(tmp_path)
    before = host_reader.read(root)
    for path, content in ((CLOCKSOURCE, b"hpet\n"), (ONLINE, b"0\n"), (TOLERANCE, b"0\n")):
        write(tmp_path, path, content)
    changed = host_state.changes(before, host_reader.read_quick(root))
    assert changed == ["clocksource was tsc and is hpet", "CPUs online was 0-3 and is 0"]


def test_a_build_id_is_found_among_other_notes_and_nowhere_else(tmp_path: Path) -> None:
    other = made_up_root.note(b"Linux\0", 3, b"\1\2\3\4\5")
    for notes, found in (
        (other + made_up_root.build_id(b"\xab\xcd"), {"kvm": "abcd"}),
        (other, {}),
        (b"", {}),
        (b"\xff" * 40, {}),
        (made_up_root.build_id(b"\xab\xcd")[:11], {}),
    ):
        write(tmp_path, KVM_NOTE, notes)
        assert host_state.build_ids(host_reader.read(str(tmp_path))) == found


def test_where_kvm_is_no_module_the_kernels_own_build_id_stands_for_it(tmp_path: Path) -> None:
    write(tmp_path, "sys/kernel/notes", made_up_root.build_id(b"\x42"))
    assert host_state.build_ids(host_reader.read(str(tmp_path))) == {"kvm": "42"}
    write(tmp_path, KVM_NOTE, made_up_root.build_id(b"\x43"))
    assert host_state.build_ids(host_reader.read(str(tmp_path))) == {"kvm": "43"}


@pytest.mark.parametrize(
    ("text", "ppm"), [("250", 250), ("0", 0), ("", None), ("-1", None), ("Y", None), ("9" * 40, None)]
)
def test_a_tolerance_is_a_number_or_not_known(text: str, ppm: int | None) -> None:
    assert host_state.tolerance_ppm({"kvm.tsc_tolerance_ppm": text}) == ppm
    assert host_state.tolerance_ppm({}) is None


def test_what_is_kept_with_a_trace_does_not_say_which_boot_it_was(tmp_path: Path) -> None:
    facts = host_reader.read(made_up(tmp_path))
    assert host_state.described(facts) == {name: text for name, text in facts.items() if name != "boot"}


def test_odd_bytes_become_plain_text(tmp_path: Path) -> None:
    write(tmp_path, TOLERANCE, b"\x1b[31m\xff" + b"9" * 1000)
    (text,) = host_reader.read(str(tmp_path)).values()
    assert text == "[31m " + "9" * 194
