# SPDX-License-Identifier: GPL-2.0-or-later
"""The image that a lab machine boots: its archive, its job, and what runs inside."""

import marshal
import stat
import subprocess
import sys
from pathlib import Path

from kvmharness.lab import play
from kvmharness.lab.machines import initramfs
from kvmharness.lab.machines.cpio import Archive
from kvmharness.scenarios import SCENARIOS


def test_an_archive_holds_its_files_the_way_the_kernel_unpacks_them() -> None:
    archive = Archive()
    archive.add_file("/a/b", b"hello", 0o755)
    archive.add_device("/dev/console", 5, 1)
    data = bytes(archive)
    names, place = {}, 0
    while True:
        assert data[place : place + 6] == b"070701"
        fields = [int(data[place + 6 + 8 * k : place + 14 + 8 * k], 16) for k in range(13)]
        name = data[place + 110 : place + 110 + fields[11] - 1].decode()
        content_at = (place + 110 + fields[11] + 3) // 4 * 4
        content = data[content_at : content_at + fields[6]]
        if name == "TRAILER!!!":
            break
        names[name] = (fields[1], content, (fields[9], fields[10]))
        place = (content_at + fields[6] + 3) // 4 * 4
    assert names == {
        "a": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "a/b": (stat.S_IFREG | 0o755, b"hello", (0, 0)),
        "dev": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "dev/console": (stat.S_IFCHR | 0o600, b"", (5, 1)),
    }
    assert len(data) % 4 == 0


def test_equal_jobs_are_equal_to_the_byte() -> None:
    scenarios = list(SCENARIOS.values())
    assert play.job_for(scenarios) == play.job_for(scenarios)
    job = play.job_for(scenarios)
    assert marshal.loads(job.content)[0] == job.number
    assert play.job_for(scenarios[:1]).number != job.number


def test_what_runs_inside_loads_nothing_slow() -> None:
    path = initramfs._import_path()
    code = f"import sys; sys.path[:0] = {path!r}; import kvmharness.lab.machines.guest; print(*sys.modules)"
    command = [str(initramfs._interpreter()), "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "kvmharness.player.player" in loaded
    assert loaded & {"typing", "dataclasses", "enum", "re", "json", "collections", "inspect"} == set()


def test_a_module_file_compiles_to_bytecode_the_interpreter_takes(tmp_path: Path) -> None:
    source = tmp_path / "thing.py"
    source.write_text("print('hello')")
    compiled = tmp_path / "alone" / "thing.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(initramfs._compiled(source))
    code = f"import sys; sys.path.insert(0, {str(compiled.parent)!r}); import thing"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "hello\n"
