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
def parts(script: Script, one: Policy, other: Policy) -> bool:
    """Whether the two policies play this script so differently that the judge tells them apart."""
    return any(
        judge(simulate("", script, mine), others, HOST).possibility is Possibility.IMPOSSIBLE
        for mine, others in ((one, other), (other, one))
    )


def parting(one: Policy, other: Policy, scripts: Mapping[str, Script]) -> list[str]:
    """The names of the scripts that tell two policies apart."""
    return [name for name, script in scripts.items() if parts(script, one, other)]
