# SPDX-License-Identifier: GPL-2.0-or-later
"""What the model says that a kernel's scenarios will come to, before they are played on it."""

import dataclasses

from kvmharness.contract import Status
from kvmharness.judging import capabilities
from kvmharness.judging.probe import Probe
from kvmharness.judging.session import SessionResult
from kvmharness.judging.verdict import Verdict
from kvmharness.model.identify import distinguishes
from kvmharness.model.policies import POLICIES
from kvmharness.model.state import Host
from kvmharness.report.catalogue import judged_on
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.scenarios.predicted import predicted_contract

_VERDICTS = {Status.KEPT: Verdict.PASS, Status.BROKEN: Verdict.XFAIL, Status.UNDECIDED: Verdict.INCONCLUSIVE}


# Capabilities of a kernel that one of the same version may be built without.
_BUILT_IN = {"xen-time", "xen-runstate"}


def foretold(probe: Probe, policy: str, judged_by: str = "") -> dict[str, set[Verdict]]:
    """By scenario, what it may come to on the machine of that probe, on a kernel with `policy`.

    `judged_by` is the policy it is judged by, if that is another: then what parts the two fails.
    """
    host = _machine(probe)
    return {name: _verdicts(scenario, probe, host, policy, judged_by) for name, scenario in SCENARIOS.items()}


def not_foretold(outcome: SessionResult, policy: str, judged_by: str = "") -> dict[str, tuple[str, str]]:
    """By scenario, the verdicts that were not foretold, each with its reason."""
    expected = foretold(next(iter(outcome.sessions.values())).probe, policy, judged_by)
    return {
        each.scenario: (each.verdict.value, each.reason)
        for each in outcome.results
        if each.verdict not in expected[each.scenario]
    }


def oddly_skipped(outcome: SessionResult, place: str) -> set[str]:
    """What is skipped there though the catalogue's page says that it is judged, or the other way round.

    A kernel may have been built without what a scenario needs: that is no matter of the place.
    """
    found = capabilities.findings(next(iter(outcome.sessions.values())).probe)
    without = {name for name in _BUILT_IN if found[name].status is Status.BROKEN}
    judged = {
        name
        for name, scenario in SCENARIOS.items()
        if place in judged_on(scenario) and not without & {*capabilities.implied(scenario.needs)}
    }
    skipped = {each.scenario for each in outcome.results if each.verdict is Verdict.SKIP}
    return skipped ^ ({*SCENARIOS} - judged)


def _verdicts(scenario: Scenario, probe: Probe, host: Host, policy: str, judged_by: str) -> set[Verdict]:
    debugfs = any(event.debugfs for trace in probe.traces for event in trace.events)
    played_by, judging = POLICIES[policy], POLICIES[judged_by or policy]
    found = capabilities.findings(probe)
    if capabilities.unmet(found, scenario.needs, scenario.lacks)[0] is not Status.KEPT:
        if not distinguishes(scenario.script, played_by, judging, host, debugfs=debugfs):
            return {Verdict.SKIP}
        # The model's own machines have two CPUs; on one the policies may do the same.
        alone = found["two-cpus"].status is Status.BROKEN and "two-cpus" in scenario.needs
        return {Verdict.FAIL, Verdict.SKIP} if alone else {Verdict.FAIL}
    if distinguishes(scenario.script, played_by, judging, scenario.host, debugfs=debugfs):
        return {Verdict.FAIL}
    return {_VERDICTS[status] for status in predicted_contract(scenario, POLICIES[policy], host)}


def _machine(probe: Probe) -> Host:
    """What the probe says of the machine, and a guess where it leaves something open."""
    host = capabilities.host_facts(probe)
    scaling = capabilities.findings(probe)["tsc-scaling"].status is Status.KEPT
    return dataclasses.replace(
        host,
        khz_exact=True,
        tsc_clocksource=host.stable and host.tsc_clocksource is not False,
        has_attribute=host.has_attribute is not False,
        fraction_bits=48 if scaling else 0,
        refuses_khz=False,
    )
