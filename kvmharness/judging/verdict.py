# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts: the result of a scenario, and the exit status of a run. `judge` reaches them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from kvmharness.model.mismatch import Mismatch
from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.model.policy import Policy


class Verdict(Enum):
    """The result of a scenario. PASS, XFAIL and FAIL judge the kernel, the others do not."""

    PASS = "PASS"
    XFAIL = "XFAIL"
    FAIL = "FAIL"
    SKIP = "SKIP"
    INCONCLUSIVE = "INCONCLUSIVE"
    LOST = "LOST"


JUDGED = frozenset({Verdict.PASS, Verdict.XFAIL, Verdict.FAIL})
# What should have been judged, and was not.
OPEN = frozenset({Verdict.INCONCLUSIVE, Verdict.LOST})


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a kernel is judged by: `policy`, or the contracts alone where that is None.

    `policies` are all that are known, by name: those that may explain what `policy` does not. Where TSCs
    `may_be_protected` a KVM that ignores writes has a reason to; elsewhere it is at fault. Where the host is
    known to have a `stable_tsc`, and its clock to run on that, a KVM that does otherwise is at fault.
    """

    policy: Policy | None = POLICIES[EXPECTED]
    policies: Mapping[str, Policy] = field(default_factory=lambda: POLICIES)
    may_be_protected: bool = True
    stable_tsc: bool = False

    @property
    def name(self) -> str:
        """How reports call it."""
        return self.policy.name if self.policy else "the contracts alone"


MAINLINE = Expectation()
BY_CONTRACTS = Expectation(None)


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario's verdict, the reason in one line ("" for PASS), and the step it rests on (from 1; 0: none).

    `scenario` may also name one of the probe's scripts, whose only verdicts are FAIL and, where that was not
    confirmed, INCONCLUSIVE. `kind` is the name of the step's operation.

    `contract` is the scenario's, in words. `kept` says whether the trace keeps it, and `finding` what
    broke it or left it open; `by` is how far what was seen is from it, with its unit. `conforms` says whether
    a kernel with the expected policy can have left the trace; if it cannot, `mismatch` is the step that shows
    this, and `consistent_with` names the policies under which the trace is possible. `kept` and `conforms`
    are None where that is not known, or not asked.
    `predicted` is False for an XFAIL that the expected policy allows but does not predict. `only_if` says of
    one that it predicts what it depends on beside the policy, in words that follow "if its KVM"; it
    is "" where every kernel with the policy breaks the contract.
    """

    scenario: str
    verdict: Verdict
    contract: str
    reason: str = ""
    step: int = 0
    kept: bool | None = None
    conforms: bool | None = None
    finding: str = ""
    by: str = ""
    consistent_with: tuple[str, ...] = ()
    predicted: bool = True
    only_if: str = ""
    mismatch: Mismatch | None = None
    kind: str = ""

    def is_same_failure(self, other: "Result") -> bool:
        """Whether both failed, in a step of one kind, and one policy explains both, or none does either."""
        explained = {*self.consistent_with}, {*other.consistent_with}
        return (
            self.verdict is other.verdict is Verdict.FAIL
            and self.kind == other.kind
            and (bool(explained[0] & explained[1]) or not (explained[0] or explained[1]))
        )

    @property
    def is_doubted(self) -> bool:
        """Whether its trace does not conform, but that is not held against the kernel."""
        return self.conforms is False and self.verdict is not Verdict.FAIL


def exit_status(results: Iterable[Result], *, strict: bool = False) -> int:
    """What a run with these results exits with.

    1 when something failed, else 3 when a machine was lost, else 0 when something was judged, else 4. If
    `strict`, 4 also when something that should have been judged was not.
    """
    verdicts = {result.verdict for result in results}
    if Verdict.FAIL in verdicts:
        return 1
    if Verdict.LOST in verdicts:
        return 3
    return 0 if verdicts & JUDGED and not (strict and verdicts & OPEN) else 4
