# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference model is pure: it reads no clock, no file and no device, and each file fits in a head."""

import ast
import subprocess
import sys
from pathlib import Path

import kvmharness.model

FOLDER = Path(kvmharness.model.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))

# What the model's files may import; everything else could be a way out.
ALLOWED = {
    *("collections.abc", "dataclasses", "enum", "functools", "itertools", "typing", "copy", "operator"),
    *(
        "kvmharness",
        "kvmharness.guests.layout",
        "kvmharness.guests.rdtsc",
        "kvmharness.contract",
        "kvmharness.script",
        "kvmharness.trace",
        "kvmharness.player.host_state",
        "kvmharness.player.values",
    ),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_the_model_imports_nothing_that_does_io() -> None:
    assert len(FILES) > 10
    for path in FILES:
        strange = {
            name for name in imports(path) if name not in ALLOWED and not name.startswith("kvmharness.model")
        }
        assert not strange, path.name


def test_the_model_can_be_used_without_the_device() -> None:
    names = [f"kvmharness.model.{path.stem}" for path in FILES if path.stem != "__init__"]
    forbidden = [
        "kvmharness.kvm",
        "kvmharness.player.player",
        "kvmharness.lab",
        "socket",
        "subprocess",
        "cffi",
    ]
    program = (
        f"import sys, {', '.join(names)}\n"
        f"print([name for name in sys.modules if name.startswith(tuple({forbidden}))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_model_opens_and_asks_nothing() -> None:
    for path in FILES:
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"open", "input", "print", "exec", "eval", "__import__"}, path.name


def test_every_file_of_the_model_fits_in_a_head() -> None:
    assert {path.name: len(path.read_text().splitlines()) for path in FILES} == {
        path.name: min(len(path.read_text().splitlines()), 400) for path in FILES
    }
