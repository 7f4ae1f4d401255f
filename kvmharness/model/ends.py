# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the rules leave several ways open, or a value within an interval: the one end and the other."""

from collections.abc import Callable

ENDS: tuple[Callable[[int], int], ...] = (lambda count: 0, lambda count: count - 1)


class Chooser:
    """Chooses an end of what is open, and notes whether anything was."""

    def __init__(self, end: Callable[[int], int]) -> None:
        self._end = end
        self.had_choice = False

    def __call__(self, count: int) -> int:
        """One of so many."""
        self.had_choice |= count > 1
        return self._end(count)
