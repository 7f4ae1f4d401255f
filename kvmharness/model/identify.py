# SPDX-License-Identifier: GPL-2.0-or-later
"""Which policies a kernel's traces leave standing, and what would tell those apart."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import HOST, simulate
from kvmharness.model.state import Host
from kvmharness.script import Script
from kvmharness.trace import Trace


def standing(traces: Iterable[tuple[Trace, Host]], policies: Iterable[Policy]) -> list[Policy]:
    """The policies under which none of the traces is impossible, in the order given."""
    left = list(policies)
    for trace, host in traces:
        left = [
            policy for policy in left if judge(trace, policy, host).possibility is not Possibility.IMPOSSIBLE
        ]
    return left


def is_told(trace: Trace, host: Host) -> bool:
    """Whether a trace says anything at all, or is so broken off that no rule can be applied to it."""
    return judge(trace, POLICIES[EXPECTED], host).possibility is not Possibility.UNDECIDED


# The catalogue does not change while a file is judged, and most kernels leave the same policies standing.
@lru_cache(maxsize=4096)
def parts(script: Script, one: Policy, other: Policy, host: Host = HOST) -> bool:
    """Whether the two policies play this script on `host` so differently that the judge tells them apart."""
    traces = [_simulated(script, policy, host) for policy in (one, other)]
    if traces[0] == traces[1]:
        return False
    return any(
        judge(trace, policy, host).possibility is Possibility.IMPOSSIBLE
        for trace, policy in zip(traces, (other, one), strict=True)
    )


@lru_cache(maxsize=64)
def _simulated(script: Script, policy: Policy, host: Host) -> Trace:
    return simulate("", script, policy, host)


def parting(one: Policy, other: Policy, plays: Mapping[str, tuple[Script, Host]]) -> list[str]:
    """The names of the scripts that, each on its host, tell two policies apart."""
    return [name for name, (script, host) in plays.items() if parts(script, one, other, host)]
