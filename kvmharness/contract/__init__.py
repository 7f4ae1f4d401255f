# SPDX-License-Identifier: GPL-2.0-or-later
"""Contracts: what userspace is entitled to, checked on a trace with its brackets as the only tolerance.

offset    a vCPU continues from a TSC, or counts together with another vCPU: TSC offsets agree
rate      a TSC counts at a rate, and never backwards; also at other rates than the host's
nested    the TSC of a guest's own guest is its own by a ratio
runstate  what a Xen's vCPU did with its time adds up to the VM's clock
scale     a vCPU's TSC is what its scaling ratio makes of the host's
clock     the VM's clock continues, and its kvmclock pages agree with it
line      the VM's clock stays the same function of the TSC, to the ns
reference a Hyper-V's reference time is the VM's clock
steal     steal time grows by what the thread waits for a CPU
timer     a guest takes its deadline timer's interrupt, and not too early
xen       a Xen's wall clock is the real time at the VM's clock of 0
warp      vCPUs that run at the same time never see each other's TSC run backwards
answer    how an operation ends, and what it returns
entitled  what the shape of a script entitles to, whoever wrote it
promptly  steps that must follow each other soon; if they do not, the claim is undecided
finding   the result of checking a claim
"""

from collections.abc import Sequence

from kvmharness.contract.answer import ClockClaim, EndClaim, ReadsClaim, SameClaim
from kvmharness.contract.clock import HostTimeClaim, PageClaim, RealtimeClaim, TimeClaim
from kvmharness.contract.entitled import EntitledClaim
from kvmharness.contract.finding import Claim, Finding, Status
from kvmharness.contract.line import LineClaim
from kvmharness.contract.nested import L2RateClaim
from kvmharness.contract.offset import OffsetClaim, implied_offset
from kvmharness.contract.promptly import TOGETHER_NS, Promptly, held_up
from kvmharness.contract.rate import ForwardClaim, RateClaim
from kvmharness.contract.reference import EmptyPageClaim, ReferenceClaim, RenewedClaim
from kvmharness.contract.runstate import RunnableClaim, RunstateClaim, RunstateGrowthClaim
from kvmharness.contract.scale import ScaleClaim
from kvmharness.contract.steal import NoStealClaim, StealClaim
from kvmharness.contract.timer import TimerClaim
from kvmharness.contract.warp import NoWarpClaim
from kvmharness.contract.xen import WallClockClaim
from kvmharness.trace import Trace


def check_all(claims: Sequence[Claim], trace: Trace, promptly: Promptly | None = None) -> list[Finding]:
    """Check each claim on a trace; all are undecided if the trace does not meet `promptly`.

    All are broken if a guest did not survive: whoever runs it is entitled to that before anything else.
    """
    for number, event in enumerate(trace.events, 1):
        if event.death:
            reason = f"the guest of step {number} did not survive: {event.end}"
            return [claim.broken(reason, number) for claim in claims]
    events = trace.labelled
    if promptly and (reason := held_up(promptly, events)):
        return [claim.undecided(reason) for claim in claims]
    return [claim.check(trace) for claim in claims]


__all__ = [
    "TOGETHER_NS",
    "Claim",
    "ClockClaim",
    "EmptyPageClaim",
    "EndClaim",
    "EntitledClaim",
    "Finding",
    "ForwardClaim",
    "HostTimeClaim",
    "L2RateClaim",
    "LineClaim",
    "NoStealClaim",
    "NoWarpClaim",
    "OffsetClaim",
    "PageClaim",
    "Promptly",
    "RateClaim",
    "ReadsClaim",
    "RealtimeClaim",
    "ReferenceClaim",
    "RenewedClaim",
    "RunnableClaim",
    "RunstateClaim",
    "RunstateGrowthClaim",
    "SameClaim",
    "ScaleClaim",
    "Status",
    "StealClaim",
    "TimeClaim",
    "TimerClaim",
    "WallClockClaim",
    "check_all",
    "implied_offset",
]
