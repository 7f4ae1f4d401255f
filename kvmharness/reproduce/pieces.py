# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions, structs and constants in C, of which a test gets those whose names it uses (pieces/*.c)."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).with_name("pieces")
_FILES = ("machine.c", "operations.c", "offsets.c", "clocks.c", "end.c")
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
def pieces() -> tuple[Piece, ...]:
    """All of them, in their order: each uses only earlier ones."""
    found = []
    for file in _FILES:
        _, *chunks = (_FOLDER / file).read_text().split(_MARK)
        for chunk in chunks:
            head, _, code = chunk.partition("\n")
            found.append(Piece(frozenset(head.split()), code.strip("\n"), words(code)))
    return tuple(found)


def words(code: str) -> frozenset[str]:
    """The names in C code, apart from comments and texts."""
    return frozenset(_WORD.findall(_TEXT.sub("", _COMMENT.sub("", code))))


@cache
def names() -> frozenset[str]:
    """Every name that a piece defines, but for those of structs, which variables may have as well."""
    found = {name for piece in pieces() for name in piece.names}
    return frozenset(found - {tag for piece in pieces() for tag in _TAG.findall(piece.code)})


def used_by(code: str) -> list[Piece]:
    """The pieces that this code needs, and those that they need, in their order."""
    wanted, chosen = set(words(code)), list[Piece]()
    for piece in reversed(pieces()):
        if piece.names & wanted:
            chosen.append(piece)
            wanted |= piece.uses
    return chosen[::-1]
