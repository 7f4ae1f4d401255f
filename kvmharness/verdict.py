# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts: what a trace of a scenario says about the kernel it was played on."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from kvmharness import capabilities
from kvmharness.contract import State, check
from kvmharness.scenarios import Scenario
from kvmharness.trace import Trace


class Verdict(Enum):
    """What a scenario came to. Only PASS and FAIL are judgements of the kernel."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"
    INCONCLUSIVE = "INCONCLUSIVE"
    LOST = "LOST"


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario's verdict, the reason for it ("" for PASS), and the step it rests on (from 1; 0: none)."""

    scenario: str
    verdict: Verdict
    contract: str
    reason: str = ""
    step: int = 0


def judge(scenario: Scenario, trace: Trace, probe: Trace) -> Result:
    """Judge a scenario by its contract, on the trace of it and the probe of the same KVM."""

    def result(verdict: Verdict, reason: str = "", step: int = 0, claim: str = "") -> Result:
        text = f"{claim}: {reason}" if claim else reason
        return Result(scenario.name, verdict, scenario.contract, text, step)

    if trace.script != scenario.script[: len(trace.script)]:
        return result(Verdict.INCONCLUSIVE, "the trace is not of this scenario's script")
    state, lacking = capabilities.unmet(probe, scenario.needs)
    if lacking:
        return result(Verdict.SKIP if state is State.BROKEN else Verdict.INCONCLUSIVE, lacking)
    found = [check(claim, trace) for claim in scenario.claims]
    for state, verdict in ((State.BROKEN, Verdict.FAIL), (State.UNDECIDED, Verdict.INCONCLUSIVE)):
        for finding in found:
            if finding.state is state:
                return result(verdict, finding.reason, finding.step, finding.claim.text)
    return result(Verdict.PASS)


def exit_status(results: Iterable[Result]) -> int:
    """What a run with these results exits with.

    1 when something failed, else 3 when a machine was lost, else 0 when something was judged, else 4.
    """
    verdicts = {result.verdict for result in results}
    if Verdict.FAIL in verdicts:
        return 1
    if Verdict.LOST in verdicts:
        return 3
    return 0 if Verdict.PASS in verdicts else 4
