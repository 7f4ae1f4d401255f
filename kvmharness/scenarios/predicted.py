# SPDX-License-Identifier: GPL-2.0-or-later
"""The status of a scenario's contract under a policy, on a made-up machine."""

from functools import lru_cache

from kvmharness.contract import LineClaim, Status
from kvmharness.model.ends import ENDS, Chooser
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import UNPREDICTABLE, simulate
from kvmharness.model.state import Host
from kvmharness.scenarios.scenario import Scenario
from kvmharness.trace import Trace


def contract_status(scenario: Scenario, trace: Trace) -> Status:
    """BROKEN if one of the claims is, else UNDECIDED if one of them is, else KEPT."""
    states = {finding.status for finding in scenario.findings(trace)}
    return next((status for status in (Status.BROKEN, Status.UNDECIDED) if status in states), Status.KEPT)


@lru_cache(maxsize=4096)
def predicted_contract(scenario: Scenario, policy: Policy, host: Host | None = None) -> frozenset[Status]:
    """The states that the contract may end in; two where the rules leave it open.

    On `host`, all of which has to be known, or on a machine that has what the scenario needs. UNDECIDED where
    the model does not predict the whole script.
    """
    found = set()
    for end in ENDS:
        choose = Chooser(end)
        try:
            trace = simulate(
                *(scenario.name, scenario.script, policy, host or scenario.host),
                choose=choose,
                debugfs=shows_debugfs(scenario),
            )
        except UNPREDICTABLE:
            return frozenset({Status.UNDECIDED})
        found.add(contract_status(scenario, trace))
        if not choose.had_choice:
            break
    return frozenset(found)


def shows_debugfs(scenario: Scenario) -> bool:
    """Whether a clock is held against a page: that is by the offset and the ratio that the kernel shows."""
    return any(isinstance(claim, LineClaim) for claim in scenario.claims)
