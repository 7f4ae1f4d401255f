# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios that crash a kernel: the others are played without them, and so is what crashes it twice.

Scripts wait together, so the one that has its turn when the kernel crashes is only a suspect. It is taken
out of the batch, and played again apart from the others' turns. A fault that the kernel reports of itself
then, as it did before, is the kernel's answer to this scenario.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kvmharness.judging.session import LostError, Session
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.play import CrashError
from kvmharness.scenarios import Scenario

_LOG = logging.getLogger(__name__)

# How many suspects are taken out of a batch. A kernel that crashes in one more is broken as a whole.
MOST_SUSPECTS = 3


@dataclass(frozen=True, slots=True)
class Crash:
    """How a scenario crashed a kernel, how often, and whether the kernel reported the same fault each
    time."""

    error: CrashError
    times: int = 1
    same_fault: bool = True

    def again(self, error: CrashError) -> "Crash":
        """The same, once more."""
        faults = [each.fault.kind if each.fault else "" for each in (self.error, error)]
        return Crash(self.error, self.times + 1, self.same_fault and faults[0] == faults[1] != "")


class Crashes:
    """Plays on a kernel, and notes which scenarios crash it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._of: dict[str, Crash] = {}
        self._given_up: list[str] = []

    def play(self, on: Machine, scenarios: Sequence[Scenario]) -> Session:
        """A session of these, without those that crash the kernel.

        LostError when there is none to be had; LabError when the kernel lacks what the machine needs.
        """
        suspects: list[Scenario] = []
        # A snapshot is forgotten anyway when a run from it is lost.
        on = on.without_snapshots if self._of else on
        left = [each for each in scenarios if not self._is_settled(each.name)]
        while left:
            try:
                return play.play(self._kernel, on, left)
            except CrashError as crash:
                _LOG.info("%s on %s: %s", self._kernel.spec, on.name, crash)
                on = on.without_snapshots
                known = self._of.get(crash.scenario)
                self._of[crash.scenario] = known.again(crash) if known else Crash(crash)
                suspects += [replace(each, alone=True) for each in left if each.name == crash.scenario]
                left = [each for each in left if each.name != crash.scenario]
                if not left or len(suspects) == MOST_SUSPECTS:
                    # There is nothing, or nothing any more, to be played without them.
                    self._given_up += [each.name for each in left]
                    left = [each for each in suspects if not self._is_settled(each.name)]
                    suspects = []
        raise LostError("the kernel crashed in every scenario")

    def _is_settled(self, name: str) -> bool:
        """Whether a scenario need not be played any more."""
        return name in self._given_up or (name in self._of and self._of[name].times > 1)

    def result(self, scenario: Scenario, on: Machine) -> Result | None:
        """What a scenario without a trace came to; None where it crashed nothing and was not given up."""
        crash = self._of.get(scenario.name)
        if crash is not None:
            # Where time is the host's, a host that holds up a CPU makes it look locked up.
            fault = crash.error.fault
            told = fault is not None and (on.counts_instructions or not fault.is_lockup)
            verdict = Verdict.FAIL if crash.times > 1 and crash.same_fault and told else Verdict.LOST
            return Result(
                scenario.name,
                verdict,
                scenario.contract,
                f"{crash.error}{_times(crash.times)}",
                conforms=False if verdict is Verdict.FAIL else None,
            )
        if scenario.name in self._given_up:
            names = ", ".join(self._of)
            reason = f"the kernel crashed during {names}, and was not played on any more"
            return Result(scenario.name, Verdict.LOST, scenario.contract, reason)
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """Each crash, and what the console said last before the first one of a scenario."""
        return tuple(
            line
            for crash in self._of.values()
            for line in (f"{crash.error}{_times(crash.times)}", *crash.error.console)
        )


def _times(number: int) -> str:
    return f", {number} times" if number > 1 else ""
