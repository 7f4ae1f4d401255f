# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks in C of what steps read, on hand-worked steps: compiled, and run without a KVM."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvmharness.reproduce import pieces
from kvmharness.reproduce.styles import included

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="missing capability C compiler")

# A check alone leaves some of its pieces' names unused.
OPTIONS = ("-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused")


def results(checks: Sequence[tuple[str, str]], tmp_path: Path) -> list[str]:
    """What comes of each check: kept, broken or undecided, and why. A check is declarations and an
    expression."""
    blocks = "".join(
        "\t{\n"
        f"\t\t{declared}\n"
        f"\t\tenum result result = {expression};\n\n"
        '\t\tprintf("%s%s\\n", result == KEPT ? "kept" : result == BROKEN ? "broken: " : "undecided: ",\n'
        '\t\t       result == KEPT ? "" : reason);\n'
        "\t}\n"
        for declared, expression in checks
    )
    body = f"int main(void)\n{{\n{blocks}\treturn 0;\n}}\n"
    own = "\n\n".join(piece.code for piece in pieces.used_by(body))
    source, made = tmp_path / "a.c", tmp_path / "a"
    source.write_text(f"{included(own)}\n{own}\n\n{body}")
    subprocess.run(["cc", *OPTIONS, "-o", made, source], check=True, timeout=120)
    done = subprocess.run([made], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def step(name: str, *values: int, error: str = "0") -> str:
    """A step that read these values, as a declaration."""
    count = 0 if error != "0" else len(values)
    fields = (
        f'.name = "{name}", .error = {error}, .count = {count}, .value = {{ {", ".join(map(str, values))} }}'
    )
    return f"struct step {name} = {{ {fields} }};"


def steal(name: str, ns: int, waited: tuple[int, int], *, version: int = 2, preempted: int = 0) -> str:
    """A step that reads a steal time."""
    return step(name, ns, version, 0, preempted, 0, *waited, 1000)


GROWS = "steal_grows((struct steal_claim) { .due = &first, .seen = { &last }, .by = { &wait } })"


def test_the_steal_time_has_to_grow_by_what_the_thread_waited(tmp_path: Path) -> None:
    """The thread waits 5000 ns in one step, and 10 ns while the guest runs: 5000 to 5020 ns."""
    first, wait = steal("first", 100, (1000, 1010)), step("wait", 1010, 6010)
    grown = {ns: f"{first} {wait} {steal('last', 100 + ns, (6010, 6020))}" for ns in (4999, 5000, 5020, 5021)}
    said = "from step first to last the steal time grew by {} ns, while the thread waited 5000 to 5020 ns"
    assert results([(each, GROWS) for each in grown.values()], tmp_path) == [
        f"broken: {said.format(4999)}",
        "kept",
        "kept",
        f"broken: {said.format(5021)}",
    ]


def test_a_page_that_no_running_guest_may_find_is_broken(tmp_path: Path) -> None:
    first, wait = steal("first", 100, (1000, 1000)), step("wait", 1000, 6000)
    pages = (
        steal("last", 5100, (6000, 6000), version=0),
        steal("last", 5100, (6000, 6000), version=3),
        steal("last", 5100, (6000, 6000), preempted=1),
        step("last", 5100, 2, 0, 0, 8, 6000, 6000, 1000),
    )
    assert results([(f"{first} {wait} {page}", GROWS) for page in pages], tmp_path) == [
        "broken: step last: version 0",
        "broken: step last: version 3",
        "broken: step last: its vCPU is preempted, while it runs",
        "broken: step last: flags 0, padding 0x8, where there is nothing",
    ]


def test_nothing_is_said_where_the_thread_did_not_wait_or_a_guest_read_nothing(tmp_path: Path) -> None:
    first, last = steal("first", 100, (1000, 1000)), steal("last", 100, (1000, 1000))
    idle, wait = step("wait", 1000, 1000), step("wait", 1000, 6000)
    failed = step("last", error="ENXIO")
    assert results([(f"{first} {idle} {last}", GROWS), (f"{first} {wait} {failed}", GROWS)], tmp_path) == [
        "undecided: step wait: nothing competed for the CPU",
        "undecided: step last read nothing: No such device or address",
    ]


def test_a_page_that_is_off_has_to_stay_as_it_was(tmp_path: Path) -> None:
    first, same = steal("first", 100, (0, 0)), steal("last", 100, (0, 0))
    later, never = steal("last", 100, (0, 0), version=4), steal("last", 0, (0, 0), version=0)
    since, ever = "no_steal(&last, &first)", "no_steal(&last, NULL)"
    found = [(f"{first} {same}", since), (f"{first} {later}", since), (never, ever), (same, ever)]
    assert results(found, tmp_path) == [
        "kept",
        "broken: step last read a page of version 4, 100 ns",
        "kept",
        "broken: step last read a page of version 2, 100 ns",
    ]
