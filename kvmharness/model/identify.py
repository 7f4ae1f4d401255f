# SPDX-License-Identifier: GPL-2.0-or-later
"""Which policies a kernel's traces are consistent with, and what would distinguish those."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from kvmharness.model.ends import ENDS, Chooser
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import HOST, simulate
from kvmharness.model.state import Host
from kvmharness.script import Script
from kvmharness.trace import Trace


def consistent_policies(traces: Iterable[tuple[Trace, Host]], policies: Iterable[Policy]) -> list[Policy]:
    """The policies under which none of the traces is impossible, in the order given."""
    left = list(policies)
    for trace, host in traces:
        left = [
            policy for policy in left if judge(trace, policy, host).possibility is not Possibility.IMPOSSIBLE
        ]
    return left


def says_something(trace: Trace, host: Host) -> bool:
    """Whether a trace says anything: whether it is long enough that a rule can be applied to it."""
    return judge(trace, POLICIES[EXPECTED], host).possibility is not Possibility.UNDECIDED


# The catalogue does not change while a file is judged, and most kernels have one of a few sets of policies.
@lru_cache(maxsize=16384)
def distinguishes(
    script: Script, one: Policy, other: Policy, host: Host = HOST, *, debugfs: bool = False
) -> bool:
    """Whether the judge can distinguish the two policies by this script, played on `host`.

    With `debugfs` it also has what debugfs shows. Where the rules leave a value open, it must be able to
    whatever that value is.
    """
    mine, others = (_simulated(script, policy, host, debugfs) for policy in (one, other))
    if mine == others:
        return False
    return any(
        all(judge(trace, policy, host).possibility is Possibility.IMPOSSIBLE for trace in traces)
        for traces, policy in ((mine, other), (others, one))
    )


@lru_cache(maxsize=64)
def _simulated(script: Script, policy: Policy, host: Host, debugfs: bool) -> list[Trace]:
    found: list[Trace] = []
    for choose in map(Chooser, ENDS):
        trace = simulate("", script, policy, host, choose=choose, debugfs=debugfs)
        if trace not in found:
            found.append(trace)
        if not choose.had_choice:
            break
    return found


def distinguishing(one: Policy, other: Policy, plays: Mapping[str, tuple[Script, Host]]) -> list[str]:
    """The names of the scripts that distinguish two policies, each played on its host."""
    return [name for name, (script, host) in plays.items() if distinguishes(script, one, other, host)]
