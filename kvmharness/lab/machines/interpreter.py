# SPDX-License-Identifier: GPL-2.0-or-later
"""The running interpreter with modules of this package and all that they load, as files to be carried
elsewhere: into a lab machine, or to a box that is reached by ssh."""

import functools
import importlib.util
import json
import marshal
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

import kvmharness
from kvmharness.lab.errors import LabError

PACKAGE = Path(kvmharness.__file__).parent

# Loads what a module loads, and lists it: Python modules, the shared objects mapped for them, and where the
# interpreter itself looks for its library (Modules/getpath.py): os.py, the folder of its shared objects.
_LIST_FILES = """
import sys
sys.path[:0] = {path!r}
import {module}
modules = list(sys.modules.values())
sources = [getattr(module, "__file__", None) for module in modules]
with open("/proc/self/maps") as maps:
    mapped = sorted({{line.split(maxsplit=5)[5].rstrip() for line in maps if "/" in line}})
import json, os
dynload = [path for path in sys.path if os.path.basename(path) == "lib-dynload"]
sources = sorted(set(filter(None, [*sources, os.__file__])))
print(json.dumps({{"sources": sources, "mapped": mapped, "folders": dynload}}))
"""


@dataclass(frozen=True, slots=True)
class Files:
    """Contents and modes by path, the paths being this machine's; empty folders that are looked for; the
    dynamic loader's path."""

    contents: dict[str, tuple[bytes, int]]
    folders: list[str]
    loader: str


@functools.cache
def interpreter() -> Path:
    """The program that runs this."""
    return Path(sys.executable).resolve()


@functools.cache
def import_path() -> list[str]:
    """Where the player's own modules lie: this package, and cffi's backend."""
    backend = importlib.util.find_spec("_cffi_backend")
    if backend is None or backend.origin is None:
        raise LabError("cffi is not installed beside this Python")
    return [str(PACKAGE.parent), str(Path(backend.origin).parent)]


def files(module: str) -> Files:
    """All that a module needs to run. LabError where it does not load here."""
    code = _LIST_FILES.format(path=import_path(), module=module)
    command = [str(interpreter()), "-I", "-S", "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise LabError(f"the player does not load: {(done.stderr.splitlines() or ['no reason given'])[-1]}")
    listed = json.loads(done.stdout)
    sources = {Path(name) for name in listed["sources"] if name.endswith(".py")}
    contents = {str(source.with_suffix(".pyc")): (compiled(source), 0o644) for source in sorted(sources)}
    loader = _program_loader(interpreter())
    contents[loader] = Path(loader).read_bytes(), 0o755
    for path in sorted({*map(Path, listed["mapped"]), interpreter()}):
        if path.is_file() and _is_elf(path):
            contents[str(path.with_name(_loaded_as(path)))] = _stripped(path), 0o755
    return Files(contents, listed["folders"], loader)


def compiled(source: Path) -> bytes:
    """A module as bytecode that is never held against its source (PEP 552: hash-based, unchecked)."""
    code = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _loaded_as(path: Path) -> str:
    """The file name a shared object is looked for by: its soname, where it has one."""
    with path.open("rb") as file:
        for segment in ELFFile(file).iter_segments():
            if isinstance(segment, DynamicSegment):
                for tag in segment.iter_tags("DT_SONAME"):
                    return str(tag.soname)  # type: ignore[attr-defined]
    return path.name


def _program_loader(program: Path) -> str:
    with program.open("rb") as file:
        for segment in ELFFile(file).iter_segments():
            if isinstance(segment, InterpSegment):
                return str(segment.get_interp_name())
    raise LabError(f"{program} names no dynamic loader")


def _stripped(path: Path) -> bytes:
    """An ELF file without debugging information, where there is a strip; as it is otherwise."""
    strip = shutil.which("strip")
    if strip is None:
        return path.read_bytes()
    with tempfile.NamedTemporaryFile() as out:
        done = subprocess.run([strip, "-o", out.name, path], capture_output=True, check=False)
        return Path(out.name).read_bytes() if done.returncode == 0 else path.read_bytes()
