# SPDX-License-Identifier: GPL-2.0-or-later
"""Colours for the verdicts of a text that goes to a terminal."""

import os
import re
import sys

_RED, _GREEN, _YELLOW, _BOLD = "31;1", "32", "33", "1"
_COLOURS = {
    "FAIL": _RED,
    "LOST": _RED,
    "CUT SHORT": _RED,
    "PASS": _GREEN,
    "XFAIL": _YELLOW,
    "INCONCLUSIVE": _YELLOW,
    "NONE": _YELLOW,
}
_WORDS = re.compile(r"\b(" + "|".join(map(re.escape, _COLOURS)) + r")\b")


def is_wanted() -> bool:
    """Whether stdout is a terminal that shows colours, and the user wants them (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def verdicts(text: str) -> str:
    """The text with its verdicts coloured."""
    return _WORDS.sub(lambda found: f"\x1b[{_COLOURS[found[0]]}m{found[0]}\x1b[0m", text)
