# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines of a text report: wrapping, and labels with what they say beside them."""

import textwrap
from collections.abc import Iterator, Sequence

WIDTH = 78

# The width of a label and its colon, beside which the text begins.
_LABEL = 17


def wrap(text: str, first: str = "", rest: str = "", width: int = WIDTH) -> list[str]:
    """The text in lines of `width` columns where words allow; `first` and `rest` are their indents."""
    wrapper = textwrap.TextWrapper(width, first, rest, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)


def labelled(pairs: Sequence[tuple[str, str]], indent: str = "  ", width: int = WIDTH) -> Iterator[str]:
    """Each label with its text; those without a text are left out."""
    for label, text in pairs:
        if text:
            start = f"{indent}{f'{label}:':{_LABEL - 1}} "
            yield from wrap(f"{start}{text}", "", indent + " " * _LABEL, width)


def shortened(text: str, width: int = WIDTH) -> str:
    """The text in one line of at most `width` columns; where it is longer, to the end of a word."""
    if len(text) <= width:
        return text
    return text[: text.rfind(" ", 0, width - 3)] + " ..."


def some(names: Sequence[str], most: int) -> str:
    """The names, or as many as `most` of them and how many more there are."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
