# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer to `git bisect run` for a step, from the verdicts reached there. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Failure:
    """A FAIL as far as another kernel can have the same: the scenario, the kind of the step and its number,
    and the policies that explain it."""

    scenario: str
    kind: str
    step: int
    consistent_with: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: Result) -> "Failure":
        """What a FAIL is known by."""
        return cls(result.scenario, result.kind, result.step, result.consistent_with)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Failure":
        """What to_json() was made of. KeyError, TypeError or ValueError for anything else."""
        explained = tuple(map(str, data["consistent_with"]))
        return cls(str(data["scenario"]), str(data["kind"]), int(data["step"]), explained)

    def to_json(self) -> dict[str, Any]:
        """It as JSON data."""
        explained = list(self.consistent_with)
        return {"scenario": self.scenario, "kind": self.kind, "step": self.step, "consistent_with": explained}

    def is_of(self, result: Result) -> bool:
        """Whether a result is the same failure: the scenario, the kind of step and the explanation."""
        mine = Result(
            self.scenario,
            Verdict.FAIL,
            "",
            step=self.step,
            kind=self.kind,
            consistent_with=self.consistent_with,
        )
        return result.scenario == self.scenario and result.is_same_failure(mine)


def failures(results: Sequence[Result], *, by_name: bool) -> list[Failure]:
    """What failed, as answer() sees it."""
    return [Failure.of(each) for each in _asked(results, by_name) if each.verdict is Verdict.FAIL]


def unless_another(found: BisectAnswer, results: Sequence[Result], known: Sequence[Failure]) -> BisectAnswer:
    """The answer; to skip where it is bad for another failure than those `known` from the bad end.

    It is the same fault if at least half of what failed there fails here in the same way.
    """
    same = [each for each in known if any(each.is_of(result) for result in results)]
    if found.status != BAD or not known or 2 * len(same) >= len(known):
        return found
    there = f"{known[0].scenario}, step {known[0].step}"
    return BisectAnswer(SKIP, f"another failure than at the bad end ({there}): {found.reason}")


def _asked(results: Sequence[Result], by_name: bool) -> Sequence[Result]:
    return [each for each in results if each.scenario not in PROBES] if by_name else results


def answer(results: Sequence[Result], by_name: bool, ignores: str = "") -> BisectAnswer:
    """Bad if anything failed; good only if everything was judged.

    A scenario that a machine lacks something for says nothing against a kernel, unless it was asked for
    by its name, or almost all do: `ignores` is what ignored_writes() says. Where scenarios were asked for by
    name, what the probe diverges in is another fault than the one that is looked for.
    """
    results = _asked(results, by_name)
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
