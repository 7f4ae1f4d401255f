# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts: what a trace of a scenario says about the kernel it was played on.

Two questions are asked of it. Can a kernel with the expected policy have left this trace (the model)?
Did userspace get what it is entitled to (the scenario's contract)?
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from kvmharness.contract import Finding, Status
from kvmharness.judging import capabilities
from kvmharness.model.host_clocks import clocks_disagree
from kvmharness.model.identify import standing
from kvmharness.model.judge import Judgement, Possibility
from kvmharness.model.judge import judge as judge_by
from kvmharness.model.mismatch import Mismatch
from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.model.policy import Policy
from kvmharness.scenarios import Scenario
from kvmharness.scenarios.outlook import outlook
from kvmharness.trace import Trace


class Verdict(Enum):
    """What a scenario came to. PASS, XFAIL and FAIL are judgements of the kernel, the others are none."""

    PASS = "PASS"
    XFAIL = "XFAIL"
    FAIL = "FAIL"
    SKIP = "SKIP"
    INCONCLUSIVE = "INCONCLUSIVE"
    LOST = "LOST"


# Capabilities that are missing where a KVM ignores writes.
_OF_WRITES = frozenset({"tsc-write", "tsc-offset", "masterclock"})

JUDGED = frozenset({Verdict.PASS, Verdict.XFAIL, Verdict.FAIL})


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a kernel is judged by: `policy`, or the contracts alone where that is None.

    `policies` are all that are known, by name: those that may explain what `policy` does not. Where TSCs
    `may_be_protected` a KVM that ignores writes has a reason to; elsewhere it is at fault.
    """

    policy: Policy | None = POLICIES[EXPECTED]
    policies: Mapping[str, Policy] = field(default_factory=lambda: POLICIES)
    may_be_protected: bool = True

    @property
    def name(self) -> str:
        """How reports call it."""
        return self.policy.name if self.policy else "the contracts alone"


MAINLINE = Expectation()
BY_CONTRACTS = Expectation(None)


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario's verdict, the reason in one line ("" for PASS), and the step it rests on (from 1; 0: none).

    `contract` is the scenario's, in words. `kept` says whether the trace keeps it, and `finding` what
    broke it or left it open. `conforms` says whether a kernel with the expected policy can have left the
    trace; if it cannot, `mismatch` is the step that shows this, and `explained_by` names the policies under
    which the trace is possible. `kept` and `conforms` are None where that is not known, or not asked.
    `foretold` is False for an XFAIL that the expected policy allows but does not predict.
    """

    scenario: str
    verdict: Verdict
    contract: str
    reason: str = ""
    step: int = 0
    kept: bool | None = None
    conforms: bool | None = None
    finding: str = ""
    explained_by: tuple[str, ...] = ()
    foretold: bool = True
    mismatch: Mismatch | None = None

    @property
    def is_unexplained(self) -> bool:
        """Whether it is a FAIL that no known policy explains."""
        return self.verdict is Verdict.FAIL and not self.explained_by


def judge(scenario: Scenario, trace: Trace, probe: Trace, expectation: Expectation = MAINLINE) -> Result:
    """Judge the trace of a scenario, with the probe of the same KVM."""

    def unjudged(verdict: Verdict, reason: str) -> Result:
        return Result(scenario.name, verdict, scenario.contract, reason)

    if trace.script != scenario.script[: len(trace.script)]:
        return unjudged(Verdict.INCONCLUSIVE, "the trace is not of this scenario's script")
    policy = expectation.policy
    needs = capabilities.implied(scenario.needs)
    if policy is not None and not policy.honours_writes:
        # What a policy without writes lacks is what it is.
        needs = [name for name in needs if name not in _OF_WRITES]
    status, lacking = capabilities.unmet(probe, needs, scenario.lacks)
    if policy is not None and status is not Status.UNDECIDED:
        here = _rule_here(probe, policy, expectation)
        if not isinstance(here, Policy):
            explained = _explained([probe], expectation)
            reason = f"already in the probe: {_impossible(here, explained)}"
            return Result(
                *(scenario.name, Verdict.FAIL, scenario.contract, reason, here.step),
                conforms=False,
                explained_by=explained,
                mismatch=here.mismatch,
            )
        policy = here
    if lacking:
        return unjudged(Verdict.SKIP if status is Status.BROKEN else Verdict.INCONCLUSIVE, lacking)
    finding = _contract(scenario, trace)
    kept = {Status.KEPT: True, Status.BROKEN: False}.get(finding.status) if finding else True
    host = capabilities.host_facts(probe)
    if policy is None:
        doubt = clocks_disagree(trace, host.khz)
        if doubt:
            return unjudged(Verdict.INCONCLUSIVE, doubt)
        return _by_contract(scenario, finding, kept)
    judgement = judge_by(trace, policy, host)
    impossible = judgement.possibility is Possibility.IMPOSSIBLE
    conforms = None if judgement.possibility is Possibility.UNDECIDED else not impossible
    words = _words(finding) if finding else ""
    explained = _explained([probe, trace], expectation) if impossible else ()
    if impossible:
        verdict, reason, step = Verdict.FAIL, _impossible(judgement, explained), judgement.step
    elif conforms is None:
        verdict, reason = Verdict.INCONCLUSIVE, f"the model cannot tell: {judgement.doubt}"
        step = judgement.step
    elif finding:
        verdict = Verdict.INCONCLUSIVE if kept is None else Verdict.XFAIL
        reason, step = words, finding.step
    else:
        verdict, reason, step = Verdict.PASS, "", 0
    foretold = verdict is not Verdict.XFAIL or Status.BROKEN in outlook(scenario, policy)
    return Result(
        *(scenario.name, verdict, scenario.contract, reason, step, kept, conforms, words),
        *(explained, foretold, judgement.mismatch),
    )


def _rule_here(probe: Trace, policy: Policy, expectation: Expectation) -> Policy | Judgement:
    """The policy to judge by on this KVM; what there is against the probe where already that is impossible.

    It is not where TSCs may be protected and a policy without writes explains it: then those are a capability
    that is missing, no fault, and what there is goes by that policy.
    """
    host = capabilities.host_facts(probe)
    judgement = judge_by(probe, policy, host)
    if judgement.possibility is not Possibility.IMPOSSIBLE:
        return policy
    if not expectation.may_be_protected:
        return judgement
    for without in (each for each in expectation.policies.values() if not each.honours_writes):
        if standing([(probe, host)], [without]):
            return without
    return judgement


def _contract(scenario: Scenario, trace: Trace) -> Finding | None:
    """The finding that keeps the contract from being kept, a broken one first; None when it is kept."""
    found = scenario.findings(trace)
    for status in (Status.BROKEN, Status.UNDECIDED):
        for finding in found:
            if finding.status is status:
                return finding
    return None


def _words(finding: Finding) -> str:
    """What was found. The claim comes second: it says what should have been."""
    return f"{finding.reason} (required: {finding.claim.text})"


def _by_contract(scenario: Scenario, finding: Finding | None, kept: bool | None) -> Result:
    if finding is None:
        return Result(scenario.name, Verdict.PASS, scenario.contract, kept=kept)
    verdict, words = Verdict.INCONCLUSIVE if kept is None else Verdict.FAIL, _words(finding)
    return Result(scenario.name, verdict, scenario.contract, words, finding.step, kept, finding=words)


def _explained(traces: Sequence[Trace], expectation: Expectation) -> tuple[str, ...]:
    """The known policies, by name, under which all of these are possible, the first of them the probe."""
    host = capabilities.host_facts(traces[0])
    left = standing([(trace, host) for trace in traces], expectation.policies.values())
    return tuple(policy.name for policy in left)


def _impossible(judgement: Judgement, explained: Sequence[str]) -> str:
    """What the model has against a trace, in one line."""
    mismatch = judgement.mismatch
    assert mismatch is not None
    because = f", because {mismatch.because}" if mismatch.because else ""
    return (
        f"{mismatch.done}: observed {mismatch.observed}; "
        f"expected ({judgement.policy.name}) {mismatch.expected}{because}; "
        f"consistent with {', '.join(explained) or 'no known policy'}"
    )


def exit_status(results: Iterable[Result]) -> int:
    """What a run with these results exits with.

    1 when something failed, else 3 when a machine was lost, else 0 when something was judged, else 4.
    """
    verdicts = {result.verdict for result in results}
    if Verdict.FAIL in verdicts:
        return 1
    if Verdict.LOST in verdicts:
        return 3
    return 0 if verdicts & JUDGED else 4
