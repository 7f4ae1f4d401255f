# SPDX-License-Identifier: GPL-2.0-or-later
"""Reaches verdicts: what a trace says about the kernel it was played on.

Two questions are asked of it. Can a kernel with the expected policy have left this trace (the model)?
Did userspace get what it is entitled to (the scenario's contract)? The first is asked of every trace. A
capability that is missing takes away the second alone.
"""

from collections.abc import Sequence
from dataclasses import replace

from kvmharness.contract import Finding, Status
from kvmharness.judging.capabilities import CAPABILITIES
from kvmharness.judging.cut import why_cut
from kvmharness.judging.kvm import Kvm
from kvmharness.judging.predicted import only_if, predicts_break
from kvmharness.judging.probe import HOST
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.model.host_clocks import clocks_apart, clocks_disagree
from kvmharness.model.judge import Judgement, Possibility, judge
from kvmharness.model.policy import Policy
from kvmharness.scenarios import Scenario
from kvmharness.trace import Trace


def judge_scenario(scenario: Scenario, trace: Trace, kvm: Kvm) -> Result:
    """The verdict on a scenario that was played on `kvm`."""
    bare = Result(scenario.name, Verdict.INCONCLUSIVE, scenario.contract)
    if trace.script != scenario.script[: len(trace.script)]:
        return replace(bare, reason="the trace is not of this scenario's script")
    doubt = kvm.doubt or clocks_apart(kvm.probe.trace(HOST), trace, kvm.host.khz)
    if doubt:
        return replace(bare, reason=doubt)
    asked, lacking = kvm.unmet(scenario)
    if asked is Status.KEPT:
        bare = _with_contract(bare, scenario, trace)
    else:
        bare = replace(bare, finding=f"not asked: {lacking}")
    if kvm.policy is None:
        judged = _by_contract(bare, clocks_disagree(trace, kvm.host))
    else:
        judged = _by_policy(bare, scenario, trace, kvm, kvm.policy)
        # The model looks no further than the step that it does not allow.
        if judged.verdict is Verdict.FAIL and (doubt := clocks_disagree(trace, kvm.host)):
            return replace(bare, reason=doubt)
    if asked is Status.KEPT or judged.verdict is Verdict.FAIL or judged.is_doubted:
        return _with_kind(_if_whole(judged, scenario, trace), trace)
    verdict = Verdict.SKIP if asked is Status.BROKEN else Verdict.INCONCLUSIVE
    return replace(judged, verdict=verdict, reason=lacking, step=0, finding="")


def _if_whole(judged: Result, scenario: Scenario, trace: Trace) -> Result:
    """The verdict; none where the trace was cut off: what is missing might say more."""
    cut = why_cut(trace, scenario.script)
    if not cut or judged.verdict is Verdict.FAIL:
        return judged
    return replace(judged, verdict=Verdict.INCONCLUSIVE, reason=cut, step=0)


def judge_probe(kvm: Kvm) -> list[Result]:
    """A FAIL for each of the probe's scripts that the policy rules out; one for those that fail alike."""
    found: list[Result] = []
    alike: dict[str, list[str]] = {}
    for name, judgement in kvm.divergences.items():
        trace = kvm.probe.trace(name)
        failed = _impossible(_of_capabilities(name), judgement, kvm.explaining(trace))
        failed = _with_kind(failed, trace)
        same = next((each for each in found if each.is_same_failure(failed)), None)
        if same:
            alike[same.scenario].append(name)
        else:
            found.append(failed)
            alike[name] = []
    return [_with_others(each, alike[each.scenario]) for each in found]


def _with_others(failed: Result, names: Sequence[str]) -> Result:
    """The result, with the names of the probe's other scripts that fail in the same way."""
    also = f"; the same in {', '.join(names)}" if names else ""
    return replace(failed, reason=failed.reason + also)


def _with_kind(result: Result, trace: Trace) -> Result:
    """The result with the kind of the step that it rests on."""
    return replace(result, kind=trace.events[result.step - 1].operation.name) if result.step else result


def _of_capabilities(name: str) -> Result:
    """What the capabilities say of one of the probe's scripts, for its verdict."""
    claims = [capability.claim.text for capability in CAPABILITIES.values() if capability.probe == name]
    text = "; ".join(claims)
    return Result(name, Verdict.FAIL, f"{text[:1].upper()}{text[1:]}.")


def _with_contract(bare: Result, scenario: Scenario, trace: Trace) -> Result:
    """The result with the contract's status."""
    finding = _contract(scenario, trace)
    if finding is None:
        return replace(bare, kept=True)
    kept = False if finding.status is Status.BROKEN else None
    return replace(bare, kept=kept, finding=_words(finding), by=finding.by, step=finding.step)


def _contract(scenario: Scenario, trace: Trace) -> Finding | None:
    """The finding that keeps the contract from being kept, a broken one first; None when it is kept."""
    found = [_excused(each, trace) for each in scenario.findings(trace)]
    for status in (Status.BROKEN, Status.UNDECIDED):
        for finding in found:
            if finding.status is status:
                return finding
    return None


def _excused(finding: Finding, trace: Trace) -> Finding:
    """The finding; undecided where a claim was broken after a step that failed for a reason that says nothing
    about the kernel."""
    for number, event in enumerate(trace.events[: finding.step], 1):
        if event.error in trace.excuses and finding.status is Status.BROKEN:
            reason = f"step {number} failed with {event.error}, which says nothing about the kernel"
            return Finding(finding.claim, Status.UNDECIDED, reason, number)
    return finding


def _words(finding: Finding) -> str:
    """What was found. The claim comes second: it says what should have been."""
    return f"{finding.reason} (required: {finding.claim.text})"


def _by_contract(bare: Result, doubt: str) -> Result:
    """The verdict where the contract alone decides."""
    if doubt:
        return Result(bare.scenario, Verdict.INCONCLUSIVE, bare.contract, doubt)
    verdicts = {True: Verdict.PASS, False: Verdict.FAIL, None: Verdict.INCONCLUSIVE}
    return replace(bare, verdict=verdicts[bare.kept], reason=bare.finding)


def _by_policy(bare: Result, scenario: Scenario, trace: Trace, kvm: Kvm, policy: Policy) -> Result:
    """The verdict where the model has a say."""
    judgement = judge(trace, policy, kvm.host)
    if judgement.possibility is Possibility.UNDECIDED:
        return replace(bare, reason=f"the model cannot tell: {judgement.doubt}", step=judgement.step)
    if judgement.possibility is Possibility.IMPOSSIBLE:
        doubt = kvm.may_protect(trace)
        if doubt:
            return replace(bare, reason=doubt, step=judgement.step, conforms=False)
        return _impossible(bare, judgement, kvm.explaining(trace))
    bare = replace(bare, conforms=True, reason=bare.finding)
    if bare.kept is not False:
        return replace(bare, verdict=Verdict.PASS if bare.kept else Verdict.INCONCLUSIVE)
    if not predicts_break(scenario, policy, kvm.host):
        return replace(bare, verdict=Verdict.XFAIL, predicted=False)
    return replace(bare, verdict=Verdict.XFAIL, only_if=only_if(scenario, policy, kvm.host))


def _impossible(bare: Result, judgement: Judgement, explained: Sequence[str]) -> Result:
    """A FAIL: what the model has against a trace, in one line."""
    mismatch = judgement.mismatch
    assert mismatch is not None
    because = f", because {mismatch.because}" if mismatch.because else ""
    reason = (
        f"{mismatch.done}: observed {mismatch.observed}; "
        f"expected ({judgement.policy.name}) {mismatch.expected}{because}; "
        f"consistent with {', '.join(explained) or 'no known policy'}"
    )
    failed = replace(bare, verdict=Verdict.FAIL, reason=reason, step=judgement.step)
    return replace(failed, conforms=False, consistent_with=tuple(explained), mismatch=mismatch)
