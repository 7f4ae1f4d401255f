# SPDX-License-Identifier: GPL-2.0-or-later
"""Contracts: what userspace is entitled to, checked on a trace with its brackets as the only tolerance.

offset    a vCPU goes on from some TSC, or counts together with another: TSC offsets agree
rate      a TSC counts at a rate, and never backwards; at other rates than the host's too
answer    how an operation ends, and what it answers
finding   what becomes of a claim; reading: what a step tells of a guest's TSC
"""

from kvmharness.contract.answer import ClockClaim, EndClaim, SameClaim, check_clock, check_end, check_same
from kvmharness.contract.finding import Finding, State
from kvmharness.contract.offset import TOGETHER_NS, Claim, implied_offset
from kvmharness.contract.offset import check as check_offset
from kvmharness.contract.rate import ForwardClaim, RateClaim, check_forward, check_rate
from kvmharness.contract.reading import guest_tsc
from kvmharness.trace import Trace

AnyClaim = Claim | RateClaim | ForwardClaim | ClockClaim | EndClaim | SameClaim


def check(claim: AnyClaim, trace: Trace) -> Finding:
    """Whether the claim holds in this trace."""
    if isinstance(claim, Claim):
        return check_offset(claim, trace)
    if isinstance(claim, RateClaim):
        return check_rate(claim, trace)
    if isinstance(claim, ForwardClaim):
        return check_forward(claim, trace)
    if isinstance(claim, ClockClaim):
        return check_clock(claim, trace)
    return check_end(claim, trace) if isinstance(claim, EndClaim) else check_same(claim, trace)


__all__ = [
    "TOGETHER_NS",
    "AnyClaim",
    "Claim",
    "ClockClaim",
    "EndClaim",
    "Finding",
    "ForwardClaim",
    "RateClaim",
    "SameClaim",
    "State",
    "check",
    "guest_tsc",
    "implied_offset",
]
