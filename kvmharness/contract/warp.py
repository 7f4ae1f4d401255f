# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on vCPUs that run at once and hold their TSCs against each other's."""

from dataclasses import dataclass

from kvmharness.contract.finding import Finding, State
from kvmharness.script import RunTogether
from kvmharness.trace import Trace


@dataclass(frozen=True, slots=True)
class NoWarpClaim:
    """No vCPU of the step labelled `seen` read a TSC less than one that another had read before it."""

    text: str
    seen: str


def check_warps(claim: NoWarpClaim, trace: Trace) -> Finding:
    """Whether none did. That they met at all is part of it: each has to have followed another once."""
    for number, event in enumerate(trace.events, 1):
        operation = event.operation
        if operation.label != claim.seen or not isinstance(operation, RunTogether) or event.error:
            continue
        met = True
        for place, vcpu in enumerate(operation.vcpus):
            _, handovers, warps, largest = event.values[4 * place : 4 * place + 4]
            if warps:
                times = f"{warps} of {handovers} times, by up to {largest} cycles"
                said = f"vCPU {vcpu} read a TSC less than another vCPU's before it: {times}"
                return Finding(claim, State.BROKEN, said, number)
            met = met and handovers > 0
        if met:
            return Finding(claim, State.KEPT)
        return Finding(claim, State.UNDECIDED, f"the vCPUs of {claim.seen} did not run at the same time")
    return Finding(claim, State.UNDECIDED, f"step {claim.seen!r} was not reached, or failed")
