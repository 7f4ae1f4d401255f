# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with a trace, and who says so.

impossible   no kernel with the expected policy can have left it
entitlement  userspace did not get what a script's shape entitles it to
differs      another kernel does something else
complaint    the kernel warned, oopsed or was lost meanwhile
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from kvmharness.contract.entitled import ENTITLEMENTS, Breach, breaches
from kvmharness.explore.coverage import kind
from kvmharness.explore.known_breaks import predicted_breaks
from kvmharness.explore.values import EDGE_NS
from kvmharness.judging.difference import first_difference, of_one_policy
from kvmharness.model.host_clocks import clocks_disagree
from kvmharness.model.judge import Judgement, Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.state import Host
from kvmharness.script import Operation, to_json
from kvmharness.trace import Trace

IMPOSSIBLE, ENTITLEMENT, DIFFERS, COMPLAINT = "impossible", "entitlement", "differs", "complaint"

_NUMBERS = re.compile(r"-?\d[\d.]*( (ns|us|ms|s|cycles|kHz))?")
_DURING = re.compile(r",? during [a-z]+-\d+")


@dataclass(frozen=True, slots=True)
class Symptom:
    """What one oracle has against a trace.

    `what` is the rule that is broken, `step` (from 1; 0: none) where that shows, `on` the kind of that step,
    `cause` what explains it without any number: symptoms with the same `key` have one cause. `lines` say it
    to a reader. `predicted` says that the expected policy does it, too: a break that is known.
    """

    oracle: str
    what: str
    step: int
    on: str
    cause: str
    lines: tuple[str, ...]
    predicted: bool = False

    @property
    def key(self) -> tuple[str, str, str, str, bool]:
        """The same for symptoms of one cause."""
        return self.oracle, self.what, self.on, self.cause, self.predicted


class Asked(NamedTuple):
    """What there is against a trace, and whether it is `doubtful`: the model can tell nothing of it."""

    symptoms: list[Symptom]
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Oracles:
    """What traces of one KVM are asked by: the policy that it should follow (None: not asked), its host."""

    policy: Policy | None
    host: Host

    def ask(self, trace: Trace) -> Asked:
        """What there is against a trace."""
        if clocks_disagree(trace, self.host):
            return Asked([])
        said = judge(trace, self.policy, self.host) if self.policy else None
        doubtful = said is not None and said.possibility is Possibility.UNDECIDED
        impossible, entitlements = self._impossible(trace, said), self._entitlements(trace)
        if not impossible:
            return Asked(entitlements, doubtful)
        # What is broken from there on, and the policy does not break, has the same cause.
        step = impossible[0].step
        also = [each for each in entitlements if not each.predicted and each.step >= step]
        lines = tuple(f"and so at step {each.step}: {each.lines[-1]}" for each in also)
        first = replace(impossible[0], lines=(*impossible[0].lines, *lines))
        return Asked([first, *(each for each in entitlements if each not in also)], doubtful)

    def _impossible(self, trace: Trace, said: Judgement | None) -> list[Symptom]:
        if self.policy is None or said is None or said.mismatch is None:
            return []
        on = _sort(trace.events[said.step - 1].operation)
        mismatch = said.mismatch
        cause = " / ".join(mismatch.rules) or without_numbers(mismatch.expected)
        lines = (
            f"{mismatch.done}: {mismatch.observed}",
            f"{self.policy.name} allows: {mismatch.expected}",
            *((f"because {mismatch.because}",) if mismatch.because else ()),
        )
        return [Symptom(IMPOSSIBLE, self.policy.name, said.step, on, without_numbers(cause), lines)]

    def _entitlements(self, trace: Trace) -> list[Symptom]:
        if not self.host.stable:
            return []
        broken = [each for each in breaches(trace) if self._applies(each)]
        rules = {each.rule for each in broken}
        predicted = predicted_breaks(trace, rules, self.policy, self.host) if self.policy and rules else set()
        return [
            Symptom(
                *(ENTITLEMENT, each.rule, each.step, "", ""),
                *((ENTITLEMENTS[each.rule], each.reason), each.rule in predicted),
            )
            for each in broken
        ]

    def _applies(self, breach: Breach) -> bool:
        return not (breach.rule == "stable" and self.host.tsc_clocksource is not True)


def _sort(operation: Operation) -> str:
    """What sort of step it is: of MSRs that were written the TSC says it all."""
    written = operation.sets_tsc and "TSC" in operation.value_names
    return f"{operation.name} TSC" if written else kind(operation)


def difference(first: Trace, second: Trace, hosts: tuple[Host, Host], names: Sequence[str]) -> list[Symptom]:
    """What a second kernel does otherwise; `hosts` are the machines, `names` the two kernels'."""
    found = first_difference(first, second, stable=hosts[0].stable)
    if found is None or _is_of_machines(first, second, hosts, found.step):
        return []
    on = _sort(first.events[found.step - 1].operation)
    lines = tuple(
        f"{found.operation} on {name}: {what}"
        for name, what in zip(names, (found.first, found.second), strict=True)
    )
    cause = without_numbers(f"{found.first} / {found.second}")
    return [Symptom(DIFFERS, " and ".join(names), found.step, on, cause, lines)]


def _is_of_machines(first: Trace, second: Trace, hosts: tuple[Host, Host], step: int) -> bool:
    """Whether a difference at a step may be that of two machines with one kernel.

    At another tsc_khz a time to write is another number of cycles, on the other side of the second maybe, and
    a rate in kHz is another part of the host's. And threads that write at once have their turns in another
    order. Neither explains an error.
    """
    both = [replace(each, events=each.events[:step]) for each in (first, second)]
    if both[0].events[-1].error != both[1].events[-1].error:
        return False
    operations = [each.operation for each in both[0].events]
    at_once = any(len(each.one_after_the_other) > 1 for each in operations)
    one, other = (host.khz or 0 for host in hosts)
    asked = [to_json(each) for each in operations]
    longest_ns = max((abs(ns) for each in asked for ns in _times(each)), default=0)
    in_khz = any(isinstance(each.get("khz"), int) for each in asked)
    apart = one != other and (in_khz or longest_ns * abs(one - other) >= EDGE_NS * one)
    policies = [each for each in POLICIES.values() if each.honours_writes]
    return (at_once or apart) and of_one_policy(policies, *zip(both, hosts, strict=True))


def _times(data: object) -> Iterator[int]:
    """The ns of the times in an operation as JSON."""
    if isinstance(data, dict):
        yield from (each for key, each in data.items() if key == "ns")
        data = list(data.values())
    for each in data if isinstance(data, list) else ():
        yield from _times(each)


def complaint(words: str) -> Symptom:
    """What the kernel said of itself, or how it was lost, while a script was played."""
    cause = without_numbers(_DURING.sub("", words))
    return Symptom(COMPLAINT, "the kernel", 0, "", cause, (words,))


def without_numbers(text: str) -> str:
    """A text of which only the words are left."""
    return " ".join(_NUMBERS.sub("N", text).split())
