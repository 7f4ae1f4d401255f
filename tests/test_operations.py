# SPDX-License-Identifier: GPL-2.0-or-later
"""An operation is one class, one method of the player and one rule of the model, and nobody else knows it.

Save for tests in C, which may have a call of it (reproduce/calls.py).
"""

import ast
import re
from pathlib import Path

import pytest

import kvmharness
from kvmharness.model.operations import HANDLERS
from kvmharness.player.stage import Stage
from kvmharness.reproduce.calls import Calls
from kvmharness.script import OPERATIONS

ROOT = Path(kvmharness.__file__).parent
# The catalogue and the probe are scripts: they are made of operations. So is what a recording becomes, whose
# lines are ioctls by the same names.
SCRIPTS = ("scenarios/", "judging/probe.py", "explore/", "recording/")
IN_C = "reproduce/calls.py"
TREES = {
    name: ast.parse(path.read_text())
    for path in sorted(ROOT.rglob("*.py"))
    if not (name := path.relative_to(ROOT).as_posix()).startswith(SCRIPTS)
}
CLASSES = {kind.__name__ for kind in OPERATIONS.values()}


_ASKS = re.compile(r"\b(isinstance|issubclass|type)\(")


def names(tree: ast.AST) -> set[str]:
    """Every name that a file uses, defines or imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias | ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
    return found


def texts(tree: ast.AST) -> set[str]:
    """Every text that a file has among its code."""
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


KNOWN = {name: (names(tree), texts(tree)) for name, tree in TREES.items()}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_is_known_in_three_files(operation: str) -> None:
    kind = OPERATIONS[operation]
    # A short word, "run" or "sleep", is a command's and a function's name as well.
    asked = {operation} if "_" in operation else set()
    where = {
        name
        for name, (used, said) in KNOWN.items()
        if {kind.__name__, f"_do_{operation}"} & used or asked & said
    }
    rule = HANDLERS[operation].__module__.removeprefix("kvmharness.").replace(".", "/") + ".py"
    method = getattr(Stage, f"_do_{operation}")
    player = method.__module__.removeprefix("kvmharness.").replace(".", "/") + ".py"
    assert player in {"player/host_operations.py", "player/guest_operations.py"}
    own = kind.__module__.removeprefix("kvmharness.").replace(".", "/") + ".py"
    assert (where | {rule}) - {IN_C} == {own, player, rule}


def test_every_operation_has_a_player_and_a_rule() -> None:
    assert {name for name in dir(Stage) if name.startswith("_do_")} == {f"_do_{name}" for name in OPERATIONS}
    assert set(HANDLERS) == set(OPERATIONS)


def test_every_call_in_c_is_of_an_operation() -> None:
    assert {name[2:] for name in dir(Calls) if name.startswith("c_")} <= set(OPERATIONS)


def test_nobody_asks_an_operation_for_its_class() -> None:
    asking = [
        f"{name}, line {node.lineno}"
        for name, tree in TREES.items()
        if KNOWN[name][0] & CLASSES and not name.startswith("script/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call | ast.Compare | ast.MatchClass) and names(node) & CLASSES
    ]
    assert not asking


def test_what_makes_scripts_asks_no_operation_for_its_class_either() -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
    asks = {name: ast.parse(text) for name, text in texts.items() if _ASKS.search(text)}
    assert any(name.startswith("explore/") for name in asks)
    asking = [
        f"{name}, line {node.lineno}"
        for name, tree in asks.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in {"isinstance", "issubclass", "type"} and names(node) & CLASSES
    ]
    assert not asking
