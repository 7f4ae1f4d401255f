# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on vCPUs that run at the same time and compare their TSCs."""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding
from kvmharness.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class NoWarpClaim(Claim):
    """No vCPU of the step labelled `seen` read a TSC less than one that another vCPU had read before."""

    seen: str

    def check(self, trace: Trace) -> Finding:
        """Check that there was no warp. The vCPUs must have met: each followed another at least once."""
        for number, event in enumerate(trace.events, 1):
            vcpus = event.operation.vcpu_numbers
            handovers = {vcpu: event.value(f"handovers-{vcpu}") for vcpu in vcpus}
            if event.operation.label != self.seen or None in handovers.values() or event.error:
                continue
            for vcpu in vcpus:
                if warps := event.value(f"warps-{vcpu}"):
                    largest = event.value(f"largest_warp-{vcpu}")
                    times = f"{warps} of {handovers[vcpu]} times, by up to {largest} cycles"
                    said = f"vCPU {vcpu} read a TSC less than one that another vCPU had read before: {times}"
                    return self.broken(said, number)
            if all(handovers.values()):
                return self.kept()
            return self.undecided(f"the vCPUs of step {self.seen!r} did not run at the same time")
        return self.undecided(f"step {self.seen!r} was not reached, or failed")
