# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer to `git bisect run` for a step, from the verdicts reached there. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kvmharness.contract import Status
from kvmharness.judging import capabilities
from kvmharness.judging.probe import PROBES, Probe
from kvmharness.judging.verdict import JUDGED, Expectation, Result, Verdict

# What git takes an exit status for. Any other up to 127 would be bad, too; from 128 on git bisect gives up.
GOOD, BAD, SKIP, GIVE_UP = 0, 1, 125, 128
ANSWERS = (GOOD, BAD, SKIP)
_CALLED = {GOOD: "good", BAD: "bad", SKIP: "skip"}
# How many scenarios a line names, beside the first.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class BisectAnswer:
    """The exit status for git, and the reason in words."""

    status: int
    reason: str

    @property
    def line(self) -> str:
        """Both, as the line for the reader of a log."""
        return f"{_CALLED[self.status]}: {' '.join(self.reason.split())}"


def answer(results: Sequence[Result], by_name: bool, ignores: str = "") -> BisectAnswer:
    """Bad if anything failed; good only if everything was judged.

    A scenario that a machine lacks something for says nothing against a kernel, unless it was asked for
    by its name, or almost all do: `ignores` is what ignored_writes() says. Where scenarios were asked for by
    name, what the probe diverges in is another fault than the one that is looked for.
    """
    if by_name:
        results = [each for each in results if each.scenario not in PROBES]
    failed = [each for each in results if each.verdict is Verdict.FAIL]
    if failed:
        first, others = failed[0], [each.scenario for each in failed[1:]]
        also = f" {_and_more(others)}" if others else ""
        return BisectAnswer(BAD, f"{first.scenario} FAIL, step {first.step}: {first.reason}{also}")
    left_open = _left_open(results, by_name)
    if left_open or (ignores and not by_name):
        return BisectAnswer(SKIP, left_open or ignores)
    if len(results) == 1:
        return BisectAnswer(GOOD, f"{results[0].scenario} {results[0].verdict.value}")
    counted = Counter(each.verdict for each in results)
    return BisectAnswer(GOOD, ", ".join(f"{counted[each]} {each.value}" for each in Verdict if counted[each]))


def _left_open(results: Sequence[Result], by_name: bool) -> str:
    """What was not judged, and why; "" if nothing is."""
    accepted = {Verdict.PASS, Verdict.XFAIL} | (set() if by_name else {Verdict.SKIP})
    for each in results:
        if each.verdict is Verdict.LOST:
            return f"the machine was lost: {each.reason}"
        if each.verdict not in accepted:
            return f"{each.scenario} {each.verdict.value}: {each.reason}"
    return "" if any(each.verdict in JUDGED for each in results) else "nothing could be judged"


def ignored_writes(probe: Probe, expectation: Expectation) -> str:
    """That a KVM ignores writes of the TSC though the rule does not, in words; "" where it is not so."""
    if expectation.policy is not None and not expectation.policy.honours_writes:
        return ""
    state, reason = capabilities.unmet(capabilities.findings(probe), ["tsc-write"])
    return reason if state is Status.BROKEN else ""


def _and_more(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return f"And {len(names)} more FAIL: {', '.join(names[:_NAMED])}{more}"
