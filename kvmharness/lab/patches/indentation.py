# SPDX-License-Identifier: GPL-2.0-or-later
"""The indentation of an added line that a mail archive took away, guessed for the reader's sake. Pure.

It never changes what the line says: the compiler does not see the difference.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher

# How far above a line its neighbours are looked for.
REACH = 12
_SIMILAR = 0.6
_TAB = 8
# So many blanks may be an indentation with its tabs expanded. Fewer are what an archive leaves of any.
_BLANKS = 4

_LABEL = re.compile(r"(case\b.*|default\s*|\w+):$")
_CONDITION = re.compile(r"(\}\s*)?(else\s+)?(if|for|while|switch|\w*for_each\w*)\b.*\)$|(\}\s*)?else$")


def learnt(pairs: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Which indentations of the file each mailed one stands for, from lines that are in both."""
    known: dict[str, frozenset[str]] = {}
    for mailed, there in pairs:
        if mailed.strip():
            known[_of(mailed)] = known.get(_of(mailed), frozenset()) | {_of(there)}
    return known


def restored(
    line: str, above: Sequence[str], removed: Sequence[str], known: Mapping[str, frozenset[str]]
) -> str:
    """An added line with the indentation that it had, most likely.

    `above` are the lines before it as they will be, `removed` those that it takes the place of.
    """
    if not line.strip():
        return line
    mailed = _of(line)
    meant = known.get(mailed, frozenset())
    if "\t" in mailed or len(mailed) >= _BLANKS:
        return (next(iter(meant)) if len(meant) == 1 else mailed) + line.lstrip()
    text = line.lstrip()
    alike = [(SequenceMatcher(None, text.strip(), each.strip()).ratio(), each) for each in removed]
    ratio, best = max(alike, default=(0.0, ""), key=lambda pair: pair[0])
    if ratio > _SIMILAR:
        return _of(best) + text
    return _below([each for each in above if each.strip() and not each.startswith("#")], text) + text


def _below(above: Sequence[str], text: str) -> str:
    """The indentation of a line that comes below these."""
    if not above or text.startswith("#"):
        return ""
    last = above[-1]
    code = last.strip()
    indent = _of(last)
    if code.startswith(("/*", "*")) and not code.endswith("*/"):
        return indent + (" " if code.startswith("/*") else "")
    if code.endswith("*/") and code.startswith("*"):
        indent = indent.removesuffix(" ")
    opened = _open_parenthesis(above)
    if opened is not None and not text.startswith("}"):
        return opened
    begin = _begin(above)
    levels = (_of(above[begin]) if begin < len(above) - 1 else indent).count("\t")
    if code.endswith("{") or _LABEL.match(code) or _CONDITION.match(code):
        levels += 1
    elif begin and _CONDITION.match(above[begin - 1].strip()):
        levels = _of(above[begin - 1]).count("\t")  # what was conditional is done
    if text.startswith("}") or _LABEL.match(text.strip()):
        levels -= 1
    return "\t" * max(0, levels)


def _begin(above: Sequence[str]) -> int:
    """Where the statement begins that the last line ends: where its parentheses are opened."""
    at = len(above) - 1
    closed = above[at].count(")") - above[at].count("(")
    while closed > 0 and at > 0:
        at -= 1
        closed += above[at].count(")") - above[at].count("(")
    return at


def _open_parenthesis(above: Sequence[str]) -> str | None:
    """The indentation behind the last parenthesis that the line above leaves open, in tabs and blanks."""
    line = above[-1].rstrip("\n")
    opened = []
    for place, character in enumerate(line):
        if character == "(":
            opened.append(place)
        elif character == ")" and opened:
            opened.pop()
    if not opened:
        return None
    column = len(line[: opened[-1] + 1].expandtabs(_TAB))
    return "\t" * (column // _TAB) + " " * (column % _TAB)


def _of(line: str) -> str:
    body = line.rstrip("\n")
    return body[: len(body) - len(body.lstrip())]
