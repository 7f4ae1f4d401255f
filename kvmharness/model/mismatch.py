# SPDX-License-Identifier: GPL-2.0-or-later
"""A step that a policy does not allow, in words: what was observed, and what the policy allows."""

from typing import NamedTuple


class Allowed(NamedTuple):
    """One result that a policy allows at a step, in words.

    `difference` says how far it is from what was observed, with units ("" where the two cannot be
    subtracted). `rule` is the rule that leads to it ("" where there is none to name), `step` (from 1) where
    that rule applied (0: at this step).
    """

    result: str
    difference: str = ""
    rule: str = ""
    step: int = 0

    @property
    def text(self) -> str:
        """The result, with the difference."""
        return f"{self.result}, {self.difference}" if self.difference else self.result

    @property
    def because(self) -> str:
        """The rule, with the step where it applied."""
        return f"at step {self.step} {self.rule}" if self.step else self.rule


class Mismatch(NamedTuple):
    """A step, what was observed there, and each result that the policy allows instead.

    `done` is the step's operation in words.
    """

    done: str
    observed: str
    allowed: tuple[Allowed, ...]

    @property
    def expected(self) -> str:
        """All that the policy allows, in one line."""
        return "; or ".join(dict.fromkeys(each.text for each in self.allowed)) or "nothing"

    @property
    def because(self) -> str:
        """The rules that lead there, in one line; "" where there is none to name."""
        return "; or ".join(dict.fromkeys(each.because for each in self.allowed if each.because))

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules alone: mismatches with the same have one cause."""
        return tuple(dict.fromkeys(each.rule for each in self.allowed if each.rule))
