# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VM may have more than others: a guest that uses it, and steps that do."""

from collections.abc import Callable
from typing import ClassVar

from kvmharness.explore.draft import Draft


class Devices:
    """Takes such steps, for a draft that begins with them.

    guest  the program of the guest that uses them
    """

    guest: ClassVar[str] = ""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.chance = draft.chance

    def begin(self) -> None:
        """What comes before the first vCPU: nothing."""

    def created(self, number: int) -> None:
        """What comes after a vCPU's creation: nothing."""

    def kinds(self) -> list[tuple[Callable[[], None], int]]:
        """Each kind of step, and how often it comes."""
        return []

    def last_look(self, number: int) -> None:
        """What there is to see of a vCPU in the end."""

    def _uses(self, number: int) -> bool:
        """Whether a vCPU's guest uses them."""
        return self.draft.guests[number] == self.guest

    def _one(self) -> int:
        """One of the vCPUs, whose guest uses them if any does."""
        using = [number for number in self.draft.vcpus if self._uses(number)]
        return self.chance.choice(using or self.draft.vcpus)
