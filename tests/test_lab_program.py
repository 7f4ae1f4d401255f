# SPDX-License-Identifier: GPL-2.0-or-later
"""`lab run --program`: a static program played in a lab machine; its exit status and KTAP are the verdict."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.judging.verdict import Verdict
from kvmharness.lab import program
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from tests.command_line import Capture, one_line, status_of
from tests.limits import GIVE_UP_S

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="missing capability C compiler")


def compiled(tmp_path: Path, body: str, *options: str) -> Path:
    """A program with this main()."""
    source, made = tmp_path / "a.c", tmp_path / "a"
    source.write_text(
        "#include <fcntl.h>\n#include <stdio.h>\n#include <stdlib.h>\nint main(void)\n{\n" + body + "\n}\n"
    )
    subprocess.run(["cc", *options, "-o", made, source], check=True, timeout=GIVE_UP_S)
    return made


@pytest.mark.parametrize(
    ("status", "output", "verdict", "reason"),
    [
        (0, "ok 1 a\n", Verdict.PASS, "exit status 0"),
        (0x400, "1..0 # SKIP no KVM\n", Verdict.SKIP, "exit status 4"),
        (0x100, "not ok 1 a\n", Verdict.FAIL, "exit status 1"),
        (0x700, "", Verdict.FAIL, "exit status 7"),
        (6, "", Verdict.FAIL, "the program was killed by SIGABRT"),
        (0, "ok 1 a\nnot ok 2 b\n", Verdict.FAIL, "exit status 0, but it printed 'not ok 2 b'"),
        (0, "1..0 # SKIP no KVM\n", Verdict.SKIP, "exit status 0, and it printed '1..0 # SKIP no KVM'"),
    ],
)
def test_exit_status_and_ktap_are_the_verdict(
    status: int, output: str, verdict: Verdict, reason: str
) -> None:
    ran = program.judged(status, output)
    assert (ran.verdict, ran.reason) == (verdict, reason)


@needs_a_compiler
def test_a_static_program_is_taken(tmp_path: Path) -> None:
    made = compiled(tmp_path, "return 0;", "-static")
    assert program.read(made) == made.read_bytes()


@needs_a_compiler
def test_a_dynamic_program_is_refused_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    made = compiled(tmp_path, "return 0;")
    assert status_of("lab", "run", "debian:6.12", "--program", str(made)) == 2
    said = one_line(capsys.readouterr().err)
    assert said.endswith("dynamically linked: a lab machine has no libraries; link it with -static")


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(100)])
def test_what_is_no_program_is_refused_in_one_line(tmp_path: Path, capsys: Capture, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert status_of("lab", "run", "debian:6.12", "--program", str(tmp_path / "a")) == 2
    assert str(tmp_path / "a") in one_line(capsys.readouterr().err)


@needs_a_compiler
def test_an_object_file_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="not a program for x86-64"):
        program.read(compiled(tmp_path, "return 0;", "-c"))


def test_what_only_scenarios_have_is_refused_beside_a_program(capsys: Capture) -> None:
    assert status_of("lab", "run", "debian:6.12", "--program", "a", "--scenario", "young-restore") == 2
    assert "--scenario is for scenarios" in one_line(capsys.readouterr().err)


@pytest.mark.lab
@needs_a_compiler
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (
            'printf("kvm %s\\n", open("/dev/kvm", O_RDWR) < 0 ? "lacks" : "is there"); return 0;',
            *(0, ["PASS", "exit status 0", "kvm is there"]),
        ),
        ('fprintf(stderr, "not ok 1 \\033[31mx\\n"); return 1;', 1, ["FAIL", "exit status 1", "\\x1b[31mx"]),
        ("return 4;", 4, ["SKIP", "exit status 4"]),
        ("abort();", 1, ["FAIL", "killed by SIGABRT"]),
    ],
)
def test_a_program_is_played_and_what_it_prints_comes_back(
    tmp_path: Path, capsys: Capture, body: str, status: int, said: list[str]
) -> None:
    made = compiled(tmp_path, body, "-static")
    assert status_of("lab", "run", "debian:6.12", "--program", str(made)) == status
    out = capsys.readouterr().out
    assert [each for each in said if each not in out] == []


@pytest.mark.lab
@pytest.mark.full
@needs_a_compiler
def test_a_program_that_does_not_end_is_said_to_hang(
    kernel: Callable[[str], Kernel], tmp_path: Path, capsys: Capture
) -> None:
    kernel("debian:6.12")
    made = compiled(tmp_path, "for (;;);", "-static")
    assert status_of("lab", "run", "debian:6.12", "--hang-after", "5", "--program", str(made)) == 3
    assert "hung" in capsys.readouterr().out
