# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with a trace, and who says so.

impossible   no kernel with the expected policy can have left it
entitlement  userspace did not get what a script's shape entitles it to
differs      another kernel does something else
complaint    the kernel warned, oopsed or was lost meanwhile
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, permutations, product
from typing import NamedTuple

from kvmharness.contract.entitled import ENTITLEMENTS, Breach, breaches
from kvmharness.explore.coverage import kind
from kvmharness.explore.draft import known
from kvmharness.explore.values import EDGE_NS
from kvmharness.judging.difference import first_difference, of_one_policy
from kvmharness.model.ends import ENDS
from kvmharness.model.host_clocks import clocks_disagree
from kvmharness.model.interval import TooWideError
from kvmharness.model.judge import Judgement, Possibility, judge
from kvmharness.model.masterclock import ClockBehindError
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.rates import UnknownRateError
from kvmharness.model.simulate import Pace, simulate
from kvmharness.model.state import DoubtError, Host
from kvmharness.script import Operation, to_json
from kvmharness.trace import Bracket, Event, Trace

IMPOSSIBLE, ENTITLEMENT, DIFFERS, COMPLAINT = "impossible", "entitlement", "differs", "complaint"

# As many orders in which a script's vCPUs may have been written are simulated.
_MOST_ORDERS = 100
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
        predicted = self._predicted(trace, {each.rule for each in broken})
        return [
            Symptom(
                *(ENTITLEMENT, each.rule, each.step, "", ""),
                *((ENTITLEMENTS[each.rule], each.reason), each.rule in predicted),
            )
            for each in broken
        ]

    def _applies(self, breach: Breach) -> bool:
        return not (breach.rule == "stable" and self.host.tsc_clocksource is not True)

    def _predicted(self, trace: Trace, broken: set[str]) -> set[str]:
        """Those of the entitlements that the policy breaks in this script at this trace's own pace.

        With what was read then and with what is simulated, on a host that was up as long: an offset is one of
        the host's TSC.
        """
        if self.policy is None or not trace.events:
            return set()
        shows = any(event.debugfs for event in trace.events)
        read = {each.operation.label: each.values for each in trace.events if each.values and not each.error}
        found: set[str] = set()
        for (played, parts), (choose, known_readings) in product(
            _ways(trace), [*product(ENDS, (None, read))]
        ):
            if broken <= found:
                break
            try:
                simulated = simulate(
                    *("", played.script, self.policy, known(self.host)),
                    pace=_pace_of(played),
                    choose=choose,
                    debugfs=shows,
                    begin=trace.events[0].bracket.tsc_before,
                    read=known_readings,
                )
            except (TooWideError, ClockBehindError, UnknownRateError, DoubtError):
                continue
            joined = _joined(simulated, trace, parts)
            found |= {each.rule for each in breaches(joined, generous=True)}
        return broken & found


def _sort(operation: Operation) -> str:
    """What sort of step it is: of MSRs that were written the TSC says it all."""
    written = operation.sets_tsc and "TSC" in operation.value_names
    return f"{operation.name} TSC" if written else kind(operation)


def _ways(trace: Trace) -> Iterator[tuple[Trace, list[int]]]:
    """The trace; and where vCPUs are written at once, also as if they were written one after the other. With
    the number of events that each of the trace's is.

    KVM does that in any order (kvm_synchronize_tsc() takes the VM's tsc_write_lock), and a made-up player
    does it at one moment.
    """
    yield trace, [1] * len(trace.events)
    operations = [event.operation.one_after_the_other for event in trace.events]
    if any(len(each) > 1 for each in operations):
        for orders in islice(product(*map(_orders, operations)), _MOST_ORDERS):
            events = [_one_by_one(event, each) for event, each in zip(trace.events, orders, strict=True)]
            yield replace(trace, events=tuple(chain.from_iterable(events))), [len(each) for each in events]


def _joined(simulated: Trace, trace: Trace, parts: Sequence[int]) -> Trace:
    """A simulation with one event again for each of the trace's: what was written at once, however slowly,
    stands for one timeline."""
    ahead = iter(simulated.events)
    of_each = [[*islice(ahead, count)] for count in parts]
    events = [
        some[0] if count == 1 else _as_one(event.operation, some)
        for event, some, count in zip(trace.events, of_each, parts, strict=True)
        if len(some) == count
    ]
    return replace(simulated, events=tuple(events))


def _as_one(operation: Operation, some: Sequence[Event]) -> Event:
    """What vCPUs were written one after the other as the operation that writes them at once."""
    by_vcpu = {each.operation.vcpu_numbers[0]: each for each in some}
    in_order = [by_vcpu[vcpu] for vcpu in operation.vcpu_numbers if vcpu in by_vcpu]
    first, last = some[0].bracket, some[-1].bracket
    bracket = Bracket(first.tsc_before, first.ns_before, last.ns_after, last.tsc_after)
    values = tuple(value for each in in_order for value in (0, *each.values))
    return Event(
        *(operation, bracket, values, next((each.error for each in some if each.error), "")),
        debugfs=tuple(chain.from_iterable(each.debugfs for each in in_order)),
    )


def _orders(operations: Sequence[Operation]) -> list[tuple[Operation, ...]]:
    """The operations with each of them as the first, and each other one as the last."""
    if len(operations) < 2:
        return [tuple(operations)]
    return [
        (first, *(each for each in operations if each not in (first, last)), last)
        for first, last in permutations(operations, 2)
    ]


def _one_by_one(event: Event, operations: Sequence[Operation]) -> list[Event]:
    """The event; of several operations each as one that took an equal part of the time."""
    if len(operations) < 2:
        return [event]
    (tsc, ns, ns_after, tsc_after), count = event.bracket, len(operations)
    width, width_ns = (tsc_after - tsc) // count, (ns_after - ns) // count
    found = []
    for place, operation in enumerate(operations):
        begin, begin_ns = tsc + place * width, ns + place * width_ns
        bracket = Bracket(begin, begin_ns, begin_ns + width_ns, begin + width)
        found.append(Event(operation, bracket))
    return found


def _pace_of(trace: Trace) -> Callable[[Operation], Pace]:
    """How long each step took, and what passed until the next; for a simulation of the same steps."""
    paces = []
    for event, after in zip(trace.events, (*trace.events[1:], None), strict=True):
        bracket, khz = event.bracket, max(1, _khz(trace))
        # One that is refused waits for nothing, and a timer's interrupt ends a wait.
        waited = min(event.operation.waits_ns * khz // 1_000_000, bracket.width)
        width = bracket.width - waited
        pause = after.bracket.tsc_before - bracket.tsc_after if after else 0
        paces.append(Pace(width // 2, 0, width - width // 2, max(0, pause), waited))
    ahead = iter(paces)
    return lambda operation: next(ahead, Pace())


def _khz(trace: Trace) -> int:
    """The host's rate, as the trace shows it."""
    if not trace.events:
        return 0
    first, last = trace.events[0].bracket, trace.events[-1].bracket
    ns = last.ns_after - first.ns_before
    return (last.tsc_after - first.tsc_before) * 1_000_000 // ns if ns > 0 else 0


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
