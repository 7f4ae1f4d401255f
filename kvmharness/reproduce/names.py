# SPDX-License-Identifier: GPL-2.0-or-later
"""Names, numbers and texts, as C has them."""

import re
from collections.abc import Iterable

from kvmharness.script import RUNSTATES

# C's words, and names that a test cannot give away.
_KEYWORDS = frozenset(
    {
        *("auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum"),
        *("extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return"),
        *("short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void"),
        *("volatile", "while", "asm", "bool", "true", "false", "main", "errno", "printf"),
    }
)
_NS = ((1_000_000_000, "SECOND"), (1_000_000, "MS"))


class CannotExpressError(ValueError):
    """The scenario does something that a test in C cannot do (yet); the text says what."""


def identifier(label: str, taken: Iterable[str] = ()) -> str:
    """A variable's name for a label."""
    name = re.sub(r"\W", "_", label, flags=re.ASCII)
    name = f"step_{name}" if not name or name[0].isdigit() else name
    return f"{name}_" if name in _KEYWORDS or name in taken else name


def text(words: str) -> str:
    """A string literal."""
    escaped = "".join(f"\\{each}" if each in '"\\' else each for each in words if each.isprintable())
    return f'"{escaped.encode("ascii", "replace").decode()}"'


def duration(ns: int) -> str:
    """An expression for so many ns: 900 * MS."""
    for unit, name in _NS:
        if ns and ns % unit == 0:
            return name if ns == unit else f"{ns // unit} * {name}"
    return f"{ns}LL" if abs(ns) >= 2**31 else str(ns)


def number(value: int) -> str:
    """A 64-bit number."""
    value %= 2**64
    if value >= 2**63:
        return f"-{2**64 - value}LL" if 2**64 - value < 2**63 else f"{value:#x}ULL"
    return f"{value}LL" if value >= 2**31 else str(value)


def runstate(state: int) -> str:
    """A Xen's runstate."""
    return RUNSTATES[state].upper()


def of_fields(called: str, struct: str, fields: list[str]) -> str:
    """A call whose argument is a struct."""
    lines = "".join(f"\t{field},\n" for field in fields)
    return f"{called}((struct {struct}) {{\n{lines}}})"


def wrapped(line: str, indent: str, columns: int = 100) -> str:
    """A statement, broken after its commas where it is too long, the outer ones first; tabs are 8 columns."""
    begin = 8 * indent.count("\t")
    if begin + len(line) <= columns:
        return f"{indent}{line}"
    lines, rest = list[str](), line
    while len(rest) > columns - begin - 8 * bool(lines):
        place = _break(rest, columns - begin - 8 * bool(lines))
        if not place:
            break
        lines.append(rest[:place].rstrip())
        rest = rest[place:].lstrip()
    return f"\n{indent}\t".join([f"{indent}{(*lines, rest)[0]}", *(*lines, rest)[1:]])


def _break(line: str, most: int) -> int:
    """Where to break a line: after the last comma, of the least depth, that fits; 0 if none does."""
    found, depth, quoted = dict[int, int](), 0, False
    for place, each in enumerate(line[:most]):
        quoted ^= each == '"' and line[place - 1] != "\\"
        if not quoted:
            depth += (each in "({") - (each in ")}")
            if each == ",":
                found[depth] = place + 1
    return found[min(found)] if found else 0
