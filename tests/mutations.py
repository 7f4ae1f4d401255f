# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile files made of good trace files: lines mutated as data, or the whole file as bytes."""

import json
from collections.abc import Callable

from tests.line_mutations import GENTLE, ROUGH, repair_the_end_marks
from tests.random_traces import Chance, Lines


def flip_bytes(text: bytearray, chance: Chance) -> None:
    for _ in range(chance.randint(1, 4)):
        text[chance.randrange(len(text))] = chance.choice(
            (*b'0123456789[]{},:"ab\\-e. \n', chance.randrange(256))
        )


def delete_bytes(text: bytearray, chance: Chance) -> None:
    begin = chance.randrange(len(text))
    del text[begin : begin + chance.choice((1, 1, 2, 30))]


def insert_bytes(text: bytearray, chance: Chance) -> None:
    some = chance.choice(
        (b"0", b"-", b"e9", b'"', b"{", b"]", b",", b"\\u0000", b"\n", b"\0", b"\xff", b"9" * 5_000)
    )
    place = chance.randrange(len(text) + 1)
    text[place:place] = some


def truncate(text: bytearray, chance: Chance) -> None:
    del text[chance.randrange(len(text)) :]


def duplicate_a_key(text: bytearray, chance: Chance) -> None:
    """The second one holds, for Python."""
    key = chance.choice((b'"op":', b'"tsc":', b'"vcpu":', b'"values":', b'"end":'))
    places = [at for at in range(len(text)) if text.startswith(key, at)]
    if places:
        place = chance.choice(places)
        text[place:place] = key + chance.choice((b"0,", b"[1,2],", b'"run",', b"{},"))


def nest(text: bytearray, chance: Chance) -> None:
    """A value that is nested as deep as the parser may just bear, or deeper."""
    places = [at for at in range(len(text)) if text.startswith(b":", at)]
    if places:
        place, depth = (
            chance.choice(places) + 1,
            chance.choice((50, 300, 900, 950, 970, 980, 990, 1_000, 100_000)),
        )
        begin, end = chance.choice(((b"[", b"]"), (b'{"plus":', b"}"), (b'{"read":"tsc","plus":', b"}")))
        text[place : place + 1] = begin * depth + b"1" + end * depth


def lengthen_a_line(text: bytearray, chance: Chance) -> None:
    place = chance.randrange(len(text))
    text[place:place] = chance.choice((b" ", b"1", b"1,", b"[")) * chance.choice((10_000, 999_000, 1_100_000))


IN_BYTES: tuple[Callable[[bytearray, Chance], None], ...] = (
    flip_bytes,
    flip_bytes,
    delete_bytes,
    insert_bytes,
    truncate,
    duplicate_a_key,
    nest,
    lengthen_a_line,
)


def mutate(lines: Lines, chance: Chance) -> bytes:
    """Something hostile made of a good file."""
    lines = json.loads(json.dumps(lines))
    how = chance.choice(("gently", "gently", "roughly", "in bytes"))
    for _ in range(0 if how == "in bytes" else chance.randint(1, 4)):
        if lines:
            chance.choice(GENTLE if how == "gently" else GENTLE + ROUGH)(lines, chance)
    if how == "gently" or chance.randrange(2):
        repair_the_end_marks(lines)
    text = "".join(json.dumps(line) + "\n" for line in lines).replace('"@deep@"', "[" * 900 + "]" * 900)
    found = bytearray(text, "ascii")
    if how == "in bytes" and found:
        chance.choice(IN_BYTES)(found, chance)
    return bytes(found)
