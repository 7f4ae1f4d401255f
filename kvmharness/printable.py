# SPDX-License-Identifier: GPL-2.0-or-later
"""Text from elsewhere (a kernel's console, a mail, a file's name), made fit to print.

A terminal obeys what is not printable: escape sequences change its title, its colours, what it answers to its
own input. So text that is not ours goes through here before it reaches a terminal or a report.
"""

import unicodedata


def printable(text: str) -> str:
    """The text as one line that every terminal prints and none obeys.

    Tabs and wide spaces become spaces. Whatever else is not printable is spelled out as Python would, a line
    end as \\n: control and format characters, line separators, bytes that were no text (lone surrogates),
    characters that do not exist. Text that is printable already stays as it is.
    """
    return "".join(map(_printable, text)) if not text.isprintable() else text


def plain(text: str, most: int = 200) -> str:
    """The text in printable ASCII, cut off at so many characters: for a trace's header."""
    return printable(text).encode("ascii", "backslashreplace").decode()[:most]


def printable_lines(text: str) -> str:
    """The same for text of several lines: line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if character == "\t" or unicodedata.category(character) == "Zs":
        return " "
    return ascii(character)[1:-1]
