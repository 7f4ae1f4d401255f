# SPDX-License-Identifier: GPL-2.0-or-later
"""Contracts: what userspace is entitled to, checked on a trace with its brackets as the only tolerance.

offset    a vCPU continues from a TSC, or counts together with another vCPU: TSC offsets agree
rate      a TSC counts at a rate, and never backwards; also at other rates than the host's
clock     the VM's clock continues, and its kvmclock pages agree with it
warp      vCPUs that run at the same time never see each other's TSC run backwards
answer    how an operation ends, and what it returns
promptly  steps that must follow each other soon; if they do not, the claim is undecided
finding   the result of checking a claim
"""

from collections.abc import Callable, Sequence
from typing import Any

from kvmharness.contract.answer import (
    ClockClaim,
    EndClaim,
    ReadsClaim,
    SameClaim,
    check_clock,
    check_end,
    check_reads,
    check_same,
)
from kvmharness.contract.clock import (
    HostTimeClaim,
    PageClaim,
    RealtimeClaim,
    TimeClaim,
    check_host_time,
    check_page,
    check_realtime,
    check_time,
)
from kvmharness.contract.finding import Finding, Status
from kvmharness.contract.offset import Claim, implied_offset
from kvmharness.contract.offset import check as check_offset
from kvmharness.contract.promptly import TOGETHER_NS, Promptly, held_up
from kvmharness.contract.rate import ForwardClaim, RateClaim, check_forward, check_rate
from kvmharness.contract.warp import NoWarpClaim, check_warps
from kvmharness.trace import Trace

AnyClaim = (
    Claim
    | RateClaim
    | ForwardClaim
    | ClockClaim
    | EndClaim
    | SameClaim
    | ReadsClaim
    | PageClaim
    | TimeClaim
    | RealtimeClaim
    | HostTimeClaim
    | NoWarpClaim
)

_CHECKS: dict[type[Any], Callable[[Any, Trace], Finding]] = {
    Claim: check_offset,
    RateClaim: check_rate,
    ForwardClaim: check_forward,
    ClockClaim: check_clock,
    EndClaim: check_end,
    SameClaim: check_same,
    ReadsClaim: check_reads,
    PageClaim: check_page,
    TimeClaim: check_time,
    RealtimeClaim: check_realtime,
    HostTimeClaim: check_host_time,
    NoWarpClaim: check_warps,
}


def check(claim: AnyClaim, trace: Trace) -> Finding:
    """Check one claim on a trace."""
    return _CHECKS[type(claim)](claim, trace)


def check_all(claims: Sequence[AnyClaim], trace: Trace, promptly: Promptly | None = None) -> list[Finding]:
    """Check each claim on a trace; all are undecided if the trace does not meet `promptly`.

    All are broken if a guest did not survive: whoever runs it is entitled to that before anything else.
    """
    for number, event in enumerate(trace.events, 1):
        if event.death:
            reason = f"the guest of step {number} did not survive: {event.end}"
            return [Finding(claim, Status.BROKEN, reason, number) for claim in claims]
    events = {event.operation.label: event for event in trace.events}
    if promptly and (reason := held_up(promptly, events)):
        return [Finding(claim, Status.UNDECIDED, reason) for claim in claims]
    return [check(claim, trace) for claim in claims]


__all__ = [
    "TOGETHER_NS",
    "AnyClaim",
    "Claim",
    "ClockClaim",
    "EndClaim",
    "Finding",
    "ForwardClaim",
    "HostTimeClaim",
    "NoWarpClaim",
    "PageClaim",
    "Promptly",
    "RateClaim",
    "ReadsClaim",
    "RealtimeClaim",
    "SameClaim",
    "Status",
    "TimeClaim",
    "check",
    "check_all",
    "implied_offset",
]
