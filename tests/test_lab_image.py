# SPDX-License-Identifier: GPL-2.0-or-later
"""The image that a lab machine boots: its archive, its job, and what runs inside."""

import marshal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kvmharness.lab import play
from kvmharness.lab.machines import initramfs, interpreter
from kvmharness.lab.machines.cpio import Archive
from kvmharness.scenarios import SCENARIOS
from tests.limits import GIVE_UP_S


def unpacked(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Mode, content and device of each file in an archive, which has to have an end."""
    files: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    place = 0
    while True:
        assert data[place : place + 6] == b"070701"
        fields = [int(data[place + 6 + 8 * k : place + 14 + 8 * k], 16) for k in range(13)]
        name = data[place + 110 : place + 110 + fields[11] - 1].decode()
        content_at = (place + 110 + fields[11] + 3) // 4 * 4
        content = data[content_at : content_at + fields[6]]
        if name == "TRAILER!!!":
            return files
        files[name] = (fields[1], content, (fields[9], fields[10]))
        place = (content_at + fields[6] + 3) // 4 * 4


def test_an_archive_holds_its_files_the_way_the_kernel_unpacks_them() -> None:
    archive = Archive()
    archive.add_file("/a/b", b"hello", 0o755)
    archive.add_device("/dev/console", 5, 1)
    assert unpacked(bytes(archive)) == {
        "a": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "a/b": (stat.S_IFREG | 0o755, b"hello", (0, 0)),
        "dev": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "dev/console": (stat.S_IFCHR | 0o600, b"", (5, 1)),
    }
    assert len(bytes(archive)) % 4 == 0


def test_the_interpreter_inside_finds_its_library_where_it_looks_for_it(
    tmp_path: Path, cache_root: Path
) -> None:
    """In a file system that holds the piece and nothing else, it starts without a word."""
    if subprocess.run(["unshare", "--map-root-user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("missing capability: user namespaces")
    files = unpacked(initramfs.python())
    for name, (mode, content, _) in files.items():
        path = tmp_path / "root" / name
        if stat.S_ISDIR(mode):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.write_bytes(content)
            path.chmod(mode & 0o777)
    program = files["etc/command"][1].decode().split("\n")[0]
    command = ["unshare", "--map-root-user", "chroot", str(tmp_path / "root"), program]
    code = "import sys; print(sys.prefix, sys.exec_prefix, *sys.path, sep='\\n')"
    done = subprocess.run(
        [*command, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, timeout=GIVE_UP_S
    )
    assert done.stderr == ""
    outside = subprocess.run(
        [program, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, timeout=GIVE_UP_S
    )
    assert done.stdout == outside.stdout
    # Without its folder of shared objects it complains, since 3.13. No other is of use there.
    (wanted,) = [line for line in outside.stdout.splitlines() if line.endswith("/lib-dynload")]
    assert [f"/{name}" for name in files if name.endswith("/lib-dynload")] == [wanted]


def test_equal_jobs_are_equal_to_the_byte() -> None:
    scenarios = list(SCENARIOS.values())
    assert play.job_for(scenarios) == play.job_for(scenarios)
    job = play.job_for(scenarios)
    assert marshal.loads(job.content)[0] == job.number
    assert play.job_for(scenarios[:1]).number != job.number


@pytest.mark.parametrize("module", ["kvmharness.lab.machines.guest", "kvmharness.remote.there"])
def test_what_runs_inside_loads_nothing_slow(module: str) -> None:
    path = interpreter.import_path()
    code = f"import sys; sys.path[:0] = {path!r}; import {module}; print(*sys.modules)"
    command = [str(interpreter.interpreter()), "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIVE_UP_S)
    loaded = set(done.stdout.split())
    assert "kvmharness.player.player" in loaded
    assert loaded & {"typing", "dataclasses", "enum", "re", "json", "collections", "inspect"} == set()


def test_a_module_file_compiles_to_bytecode_the_interpreter_takes(tmp_path: Path) -> None:
    source = tmp_path / "thing.py"
    source.write_text("print('hello')")
    compiled = tmp_path / "alone" / "thing.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(interpreter.compiled(source))
    code = f"import sys; sys.path.insert(0, {str(compiled.parent)!r}); import thing"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=GIVE_UP_S
    )
    assert done.stdout == "hello\n"
