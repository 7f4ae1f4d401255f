# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on vCPUs that run at the same time and compare their TSCs."""

from dataclasses import dataclass

from kvmharness.contract.finding import Finding, Status
from kvmharness.trace import Trace


@dataclass(frozen=True, slots=True)
class NoWarpClaim:
    """No vCPU of the step labelled `seen` read a TSC less than one that another vCPU had read before."""

    text: str
    seen: str


def check_warps(claim: NoWarpClaim, trace: Trace) -> Finding:
    """Check that there was no warp. The vCPUs must have met: each followed another at least once."""
    for number, event in enumerate(trace.events, 1):
        vcpus = event.operation.vcpu_numbers
        handovers = {vcpu: event.value(f"handovers-{vcpu}") for vcpu in vcpus}
        if event.operation.label != claim.seen or None in handovers.values() or event.error:
            continue
        for vcpu in vcpus:
            if warps := event.value(f"warps-{vcpu}"):
                largest = event.value(f"largest_warp-{vcpu}")
                times = f"{warps} of {handovers[vcpu]} times, by up to {largest} cycles"
                said = f"vCPU {vcpu} read a TSC less than one that another vCPU had read before: {times}"
                return Finding(claim, Status.BROKEN, said, number)
        if all(handovers.values()):
            return Finding(claim, Status.KEPT)
        return Finding(
            claim, Status.UNDECIDED, f"the vCPUs of step {claim.seen!r} did not run at the same time"
        )
    return Finding(claim, Status.UNDECIDED, f"step {claim.seen!r} was not reached, or failed")
