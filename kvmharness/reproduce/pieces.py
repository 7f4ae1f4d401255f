# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions, structs and constants in C, of which a test gets those whose names it uses (pieces/*.c)."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).with_name("pieces")
# The files of each style, and the names that its headers define already.
_COMMON = ("steal.c", "pages.c", "offsets.c", "clocks.c", "xen.c", "runstate.c")
_DEVICES = ("plain_steal.c", "hyperv.c", "timer.c")
_PLAIN = ("steps.c", "machine.c", "values.c", *_COMMON, "operations.c", *_DEVICES, "end.c")
_SELFTEST = ("steps.c", "selftest_vm.c", "values.c", *_COMMON, "selftest.c", "selftest_steal.c")
_OF_KERNEL = ("MSR_IA32_TSC", "MSR_IA32_TSC_ADJUST", "KVM_VCPU_TSC_CTRL")
STYLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "plain": (_PLAIN, ()),
    "selftest": (_SELFTEST, _OF_KERNEL),
}
_MARK = "//// "
_WORD = re.compile(r"(?<![\w.])(?<!->)[A-Za-z_]\w*")  # no field of a struct
_TAG = re.compile(r"^(?:struct|enum) (\w+) {", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of C, the names that it defines, and those that it uses."""

    names: frozenset[str]
    code: str
    uses: frozenset[str]


@cache
def pieces(style: str = "plain") -> tuple[Piece, ...]:
    """Those of a style, in their order: each uses only earlier ones."""
    found = []
    files, _ = STYLES[style]
    for file in files:
        _, *chunks = (_FOLDER / file).read_text().split(_MARK)
        for chunk in chunks:
            head, _, code = chunk.partition("\n")
            found.append(Piece(frozenset(head.split()), code.strip("\n"), words(code)))
    return tuple(found)


def words(code: str) -> frozenset[str]:
    """The names in C code, apart from comments and texts."""
    return frozenset(_WORD.findall(_TEXT.sub("", _COMMENT.sub("", code))))


@cache
def names(style: str = "plain") -> frozenset[str]:
    """Every name that a piece defines, but for those of structs, which variables may have as well."""
    found = {name for piece in pieces(style) for name in piece.names}
    return frozenset(found - {tag for piece in pieces(style) for tag in _TAG.findall(piece.code)})


def used_by(code: str, style: str = "plain") -> list[Piece]:
    """The pieces that this code needs, and those that they need, in their order."""
    wanted, chosen = set(words(code)), list[Piece]()
    _, there = STYLES[style]
    for piece in reversed(pieces(style)):
        if piece.names & wanted and not piece.names & {*there}:
            chosen.append(piece)
            wanted |= piece.uses
    return chosen[::-1]
