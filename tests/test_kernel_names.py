# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel may be called on the command line, and which one is meant."""

import re
from pathlib import Path

import pytest

from kvmharness.cli.main import main
from kvmharness.lab import kernels
from kvmharness.lab.errors import LabError
from tests.made_up_kernels import put


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("6.1", "unknown kernel '6.1': name it debian:VERSION, as in debian:6.1, or host, or by a path"),
        ("", "unknown kernel ''"),
        ("hots", "unknown kernel 'hots'"),
        ("/nosuch/vmlinuz", "/nosuch/vmlinuz: no such file"),
        ("nosuch.deb", "nosuch.deb: no such file"),
        ("/dev/null", "/dev/null: not a file"),
    ],
)
def test_a_kernel_that_is_not_there_is_one_line(spec: str, complaint: str, cache_root: Path) -> None:
    with pytest.raises(LabError, match=f"^{re.escape(complaint)}"):
        kernels.find(spec)


def test_bad_input_ends_the_command_with_status_2_and_one_line(
    cache_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmharness.cli.lab.check_emulator", lambda machine: None)
    text = str(put(tmp_path / "notes.txt", "hello"))
    folder = str(tmp_path)
    for arguments, said in (
        ((text, "--modules", folder), f"{text}: not a kernel image: no boot header"),
        (("debian:6.1", "--modules", folder), "--modules is for a KERNEL given as an image or a built tree"),
        (("debian:6.1", "--offline"), "debian:6.1 is not in the cache, which has none of Debian"),
    ):
        assert main(["lab", "run", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"kvmharness: {said}")
        assert error.count("\n") == 1
