# SPDX-License-Identifier: GPL-2.0-or-later
"""A KVM as its probe shows it, judged once: what is known of it whatever is then played on it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from kvmharness.contract import Finding, Status
from kvmharness.judging import capabilities
from kvmharness.judging.probe import HOST, Probe
from kvmharness.judging.verdict import MAINLINE, Expectation
from kvmharness.model.host_clocks import clocks_apart, clocks_disagree
from kvmharness.model.identify import consistent_policies
from kvmharness.model.judge import Judgement, Possibility, judge
from kvmharness.model.policy import Policy
from kvmharness.model.state import Host
from kvmharness.scenarios import Scenario
from kvmharness.trace import Trace

# Capabilities that are missing where a KVM ignores writes.
_OF_WRITES = frozenset({"tsc-write", "tsc-offset", "masterclock"})


@dataclass(frozen=True)
class Kvm:
    """What a probe says of a KVM, under an expectation.

    host          of the machine, for the model
    found         of each capability, by name
    policy        by which to judge here: the expected one, or one without writes where TSCs are protected;
                  None where the contracts alone decide
    divergences   what the policy has against the probe's scripts, by name: those that are impossible
    doubt         why nothing that is played here can be judged; "" if it can
    """

    probe: Probe
    expectation: Expectation
    host: Host
    found: Mapping[str, Finding]
    policy: Policy | None
    divergences: Mapping[str, Judgement]
    doubt: str

    # Takes longer than all the rest, and is asked for only where something failed.
    @cached_property
    def known(self) -> tuple[Policy, ...]:
        """The policies that leave no more of the probe unexplained than `policy` does."""
        left = [(trace, self.host) for trace in self.probe.traces if trace.scenario not in self.divergences]
        return tuple(consistent_policies(left, self.expectation.policies.values()))

    def unmet(self, scenario: Scenario) -> tuple[Status, str]:
        """Whether a scenario's contract means anything here, and what is missing (see capabilities.unmet)."""
        needs = capabilities.implied(scenario.needs)
        expected = self.expectation.policy
        if expected is not None and not expected.honours_writes:
            # What a policy without writes lacks is what it is.
            needs = [name for name in needs if name not in _OF_WRITES]
        status, lacking = capabilities.unmet(self.found, needs, scenario.lacks)
        if status is Status.KEPT and (lacking := capabilities.untolerated(self.host, scenario.script)):
            status = Status.BROKEN
        return status, lacking

    def explaining(self, trace: Trace) -> tuple[str, ...]:
        """The known policies, by name, under which a trace is possible."""
        return tuple(policy.name for policy in consistent_policies([(trace, self.host)], self.known))

    def may_protect(self, trace: Trace) -> str:
        """Why a trace that does not conform may be that of protected TSCs; "" where it cannot be.

        That is where the probe could not tell whether writes are honoured.
        """
        written = self.found["tsc-write"]
        if (
            written.status is Status.UNDECIDED
            and _may_be_protected(self.probe, self.expectation)
            and consistent_policies([(trace, self.host)], _without_writes(self.expectation))
        ):
            return f"the probe could not decide tsc-write: {written.reason}"
        return ""


def seen(probe: Probe, expectation: Expectation = MAINLINE) -> Kvm:
    """What a probe shows of its KVM."""
    found = capabilities.findings(probe)
    host = capabilities.host_facts(probe, found)
    if expectation.stable_tsc or _keeps_tsc_stable(probe):
        # What looks otherwise is not the host.
        host = replace(host, stable=True, tsc_clocksource=True)
    of_clocks, of_stability = _clocks_doubt(probe, host), _stability_doubt(found)
    policy = expectation.policy
    divergences: dict[str, Judgement] = {}
    if policy is not None and of_stability and not of_clocks:
        divergences = _impossible_anyhow(probe, policy, host)
    elif policy is not None and not of_clocks:
        divergences = _impossible(probe, policy, host)
        # Protected TSCs are a capability that is missing, and no fault: all there is goes by the policy that
        # explains more of the probe. What even that does not explain is a fault.
        for each in _without_writes(expectation) if _may_be_protected(probe, expectation) else ():
            left = _impossible(probe, each, host)
            if left.keys() < divergences.keys():
                policy, divergences = each, left
    return Kvm(probe, expectation, host, found, policy, divergences, of_clocks or of_stability)


def clocks_doubt(trace: Trace, kvm: Kvm) -> str:
    """Why the host's clocks keep anything from being said of a trace that was played on `kvm`, or ""."""
    apart = clocks_apart(kvm.probe.trace(HOST), trace, kvm.host.khz)
    return apart or clocks_disagree(trace, kvm.host)


def _keeps_tsc_stable(probe: Probe) -> bool:
    """Whether the probe says that where it was played no kernel has a reason to mistrust the TSC."""
    return bool(probe.traces) and all(each.place and each.place.keeps_tsc_stable for each in probe.traces)


def _may_be_protected(probe: Probe, expectation: Expectation) -> bool:
    """Whether TSCs may be protected where the probe was played, by what is expected and by what it says."""
    places = [trace.place for trace in probe.traces if trace.place]
    return expectation.may_be_protected and all(place.may_protect_tscs for place in places)


def _without_writes(expectation: Expectation) -> list[Policy]:
    return [each for each in expectation.policies.values() if not each.honours_writes]


def _clocks_doubt(probe: Probe, host: Host) -> str:
    if not probe.is_current:
        return "the probe is not that of this version"
    for trace in probe.traces:
        doubt = clocks_disagree(trace, host) or clocks_apart(probe.trace(HOST), trace, host.khz)
        if doubt:
            return f"the probe says nothing: in {trace.scenario} {doubt}"
    return ""


def _stability_doubt(found: Mapping[str, Finding]) -> str:
    stable = found["stable-tsc"]
    undecided = stable.status is Status.UNDECIDED
    return f"the probe could not decide stable-tsc: {stable.reason}" if undecided else ""


def _impossible_anyhow(probe: Probe, policy: Policy, host: Host) -> dict[str, Judgement]:
    """What the policy has against the probe's first script, be the host's TSC stable or not.

    A KVM_GET_MSRS that fails leaves that open, and is a fault all the same.
    """
    first = Probe(tuple(each for each in probe.traces if each.scenario == HOST))
    found, also = (_impossible(first, policy, replace(host, stable=stable)) for stable in (True, False))
    return found if also else {}


def _impossible(probe: Probe, policy: Policy, host: Host) -> dict[str, Judgement]:
    judged = {trace.scenario: judge(trace, policy, host) for trace in probe.traces}
    return {name: each for name, each in judged.items() if each.possibility is Possibility.IMPOSSIBLE}
