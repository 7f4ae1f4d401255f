# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a file of rules as code, and tries each on the catalogue before anything is played."""

import ast
import inspect
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policy import Policy, PolicyError, from_tables
from kvmharness.model.simulate import UNPREDICTABLE, simulate
from kvmharness.model.written_rule import RuleError, WrittenRule
from kvmharness.scenarios import SCENARIOS

_MODULE = "kvmharness_rule_file"
_METHODS = ("kvm_synchronize_tsc", "kvm_arch_tsc_set_attr", "kvm_set_tsc_khz", "remember")
_OWN = ("name", "like")
_KEYS = tuple(each.name for each in fields(Policy) if each.name not in ("name", "summary", "source", "rule"))


def read(path: Path, known: Mapping[str, Policy]) -> dict[str, Policy]:
    """The policies of a file's classes that derive from kvmharness.rule.Rule, by name.

    RuleError with file and line where it cannot be run, or a rule makes no sense. OSError and
    UnicodeDecodeError where it cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    found: dict[str, Policy] = {}
    for kind in _classes(path, text):
        policy = _policy(path, text, kind, {**known, **found})
        _try(path, policy)
        found[policy.name] = policy
    if not found:
        raise RuleError(f"{path}: no class in it derives from kvmharness.rule.Rule")
    return found


def _classes(path: Path, text: str) -> list[type[WrittenRule]]:
    """The rules in a file, which is run."""
    module = ModuleType(_MODULE)
    module.__file__ = str(path)
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise RuleError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        line, trace = 0, error.__traceback__
        while trace:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(path) else line
            trace = trace.tb_next
        said = " ".join(str(error).split())
        raise RuleError(f"{path}:{line}: {type(error).__name__}: {said:.200}") from None
    return [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, WrittenRule) and each.__module__ == _MODULE
    ]


def _policy(path: Path, text: str, kind: type[WrittenRule], known: Mapping[str, Policy]) -> Policy:
    """The policy whose keys a class states, with the class as its rule."""
    lines = _lines(text, kind.__name__)
    stated = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
    table: dict[str, Any] = {"like": kind.like}
    for name, value in stated.items():
        if name in _METHODS and callable(value):
            _check_parameters(f"{path}:{lines.get(name, lines[''])}", name, value)
        elif name in _KEYS:
            table[name] = sorted(value) if isinstance(value, set | frozenset) else value
        elif name not in _OWN:
            may = ", ".join((*_METHODS, *_OWN, *_KEYS))
            where = f"{path}:{lines.get(name, lines[''])}"
            raise RuleError(f"{where}: {name}: unknown; a rule has {may}, and what begins with _")
    summary = next(iter((kind.__doc__ or "").strip().splitlines()), "") or "a rule as code"
    name = kind.name if isinstance(kind.name, str) and kind.name else kind.__name__
    try:
        found = from_tables({"policy": {name: {**table, "summary": summary}}}, known)[name]
    except PolicyError as error:
        key = str(error).partition(":")[0].rpartition(".")[2]
        raise RuleError(f"{path}:{lines.get(key, lines[''])}: {error}") from None
    try:
        rule = kind()
    except Exception as error:
        raise RuleError(f"{path}:{lines['']}: {kind.__name__}(): {' '.join(str(error).split())}") from None
    return replace(found, source=f"a rule as code, {path.name}", rule=rule)


def _check_parameters(where: str, name: str, method: Any) -> None:
    """RuleError where a method does not take what it is given."""
    given = len(inspect.signature(getattr(WrittenRule, name)).parameters)
    try:
        inspect.signature(method).bind(*range(given))
    except TypeError as error:
        takes = ", ".join(inspect.signature(getattr(WrittenRule, name)).parameters)
        raise RuleError(f"{where}: {name}({takes}): {error}") from None


def _lines(text: str, name: str) -> dict[str, int]:
    """The line at which a class states each of its names; "" is its own."""
    classes = (each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.ClassDef))
    node = next((each for each in classes if each.name == name), None)
    if node is None:
        return {"": 1}
    lines = {"": node.lineno}
    for each in node.body:
        if isinstance(each, ast.FunctionDef):
            lines[each.name] = each.lineno
        elif isinstance(each, ast.Assign | ast.AnnAssign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            lines |= {target.id: each.lineno for target in targets if isinstance(target, ast.Name)}
    return lines


def _try(path: Path, policy: Policy) -> None:
    """Play the catalogue on a model with the rule, and judge it by the rule, before anything is booted."""
    for name, scenario in SCENARIOS.items():
        try:
            played = simulate(name, scenario.script, policy, scenario.host)
        except UNPREDICTABLE:
            continue
        judgement = judge(played, policy, scenario.host)
        if judgement.possibility is Possibility.IMPOSSIBLE:
            raise RuleError(
                f"{path}: {policy.name} does not decide twice alike ({name}, step {judgement.step}): a rule "
                "keeps nothing in itself, it returns it from remember()"
            )
