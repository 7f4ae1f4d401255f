# SPDX-License-Identifier: GPL-2.0-or-later
"""The initial file system of a lab machine, in pieces that change apart from each other.

    base      init and /dev/console: the same for every kernel; alone, it is the bare boot
    python    the running interpreter with the player and what they load, and the command that starts it
    modules   a kernel's KVM
    job       what to play

The job is for machines that cannot be given one once they run.

Base and python are kept in the cache, under the hash of what they are made of. The files in python
lie at the same paths as on this machine, so that the interpreter finds everything as it does here.
"""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from kvmharness.lab import cache, distribution
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import elf
from kvmharness.lab.machines import interpreter
from kvmharness.lab.machines.cpio import Archive
from kvmharness.lab.machines.interpreter import PACKAGE
from kvmharness.lab.machines.protocol import JOB_PATH

_INIT = Path(__file__).with_name("init.c")

# The parts of this package that run inside a machine.
_INSIDE = ("kvm", "guests", "player")
_INSIDE_FILES = (
    *("__init__.py", "lab/__init__.py", "lab/machines/__init__.py"),
    *("lab/machines/guest.py", "lab/machines/program.py", "lab/machines/protocol.py"),
)

_SECTION_SIZE = 32  # where in an entry of the section table: sh_size of Elf64_Shdr

# A piece that was not used for so long goes.
_KEEP_S = 7 * 24 * 3600

# Without the interpreter's own clearing up, which takes an emulated CPU longer than a scenario.
_RUN_PLAYER = (
    "import os, sys; sys.path[:0] = {path!r}; from kvmharness.lab.machines.guest import main; "
    "main(); os._exit(0)"
)


def base() -> bytes:
    """The piece with init; LabError without a C compiler."""
    return _kept("base", _INIT.read_bytes(), _build_base)


def python() -> bytes:
    """The piece with the interpreter and the player."""
    return _kept("python", _fingerprint(), _build_python)


def modules(contents: Mapping[str, bytes]) -> bytes:
    """The piece with a kernel's modules, which init loads in this order."""
    archive = Archive()
    for name, content in contents.items():
        archive.add_file(f"/modules/{name}", content)
    names = "".join(f"/modules/{name}\n" for name in contents)
    archive.add_file("/etc/modules", names.encode())
    return bytes(archive)


def job(content: bytes) -> bytes:
    """The piece with a job (see `wire`)."""
    archive = Archive()
    archive.add_file(JOB_PATH, content)
    return bytes(archive)


def untraced(module: bytes) -> bytes:
    """A module that the kernel does not prepare for tracing, being told of no place to trace at.

    A 6.1 or 6.12 kernel looks up the name of each function of kvm.ko there, from the first one on: a quarter
    of all it executes until the last scenario is played. The functions keep their calls of an empty one
    (__fentry__), which the kernel would have patched out. What is no ELF file is as it was.
    """
    if module[:4] != b"\x7fELF":
        return module
    emptied = bytearray(module)
    with elf.opened(module, "a module") as file:
        table, entry_size = file["e_shoff"], file["e_shentsize"]
        for index, section in enumerate(file.iter_sections()):
            if section.name in ("__mcount_loc", ".rela__mcount_loc"):
                struct.pack_into("<Q", emptied, table + index * entry_size + _SECTION_SIZE, 0)
    return bytes(emptied)


def _kept(name: str, made_of: bytes, build: Callable[[Path], None]) -> bytes:
    key = hashlib.sha256(made_of).hexdigest()[:16]
    pieces = cache.root() / "images"
    folder = cache.published(pieces / f"{name}-{key}", build)
    try:
        piece = (folder / "piece.cpio").read_bytes()
    except OSError:
        piece = b""
    cache.used(folder, f"{name}-*", lambda other: _KEEP_S)
    if b"TRAILER!!!" not in piece[-512:]:
        raise LabError(f"{folder} was damaged: remove it and try again")
    return piece


def _fingerprint() -> bytes:
    """What the python piece depends on, without loading any of it."""
    files = [PACKAGE / name for name in _INSIDE_FILES]
    for part in _INSIDE:
        files += [path for path in (PACKAGE / part).rglob("*") if path.suffix in (".py", ".so")]
    files += [interpreter.interpreter(), Path(__file__), Path(interpreter.__file__)]
    rows = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(files)]
    return json.dumps([sys.version, interpreter.import_path(), rows]).encode()


def _build_base(folder: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LabError(f"there is no C compiler on this machine: {distribution.install('gcc', 'libc6-dev')}")
    init = folder / "init"
    command = [compiler, "-static", "-Os", "-Wall", "-Wextra", "-s", "-o", str(init), str(_INIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise LabError(f"init.c does not compile: {(done.stderr.splitlines() or ['no reason given'])[-1]}")
    archive = Archive()
    archive.add_device("/dev/console", 5, 1)
    for name in ("/proc", "/sys", "/tmp"):
        archive.add_folder(name)
    archive.add_file("/init", init.read_bytes(), 0o755)
    (folder / "piece.cpio").write_bytes(bytes(archive))


def _build_python(folder: Path) -> None:
    found = interpreter.files("kvmharness.lab.machines.guest")
    archive = Archive()
    code = _RUN_PLAYER.format(path=interpreter.import_path())
    player = [str(interpreter.interpreter()), "-I", "-S", "-B", "-c", code]
    archive.add_file("/etc/command", "".join(f"{word}\n" for word in player).encode())
    for path in found.folders:
        archive.add_folder(path)
    for path, (content, mode) in found.contents.items():
        archive.add_file(path, content, mode)
    (folder / "piece.cpio").write_bytes(bytes(archive))
