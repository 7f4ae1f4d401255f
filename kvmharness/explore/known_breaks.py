# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the entitlements that a trace breaks a policy breaks, too, when the same steps are simulated."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, permutations, product
from typing import NamedTuple

from kvmharness.contract.entitled import breaches
from kvmharness.explore.draft import known
from kvmharness.model.ends import ENDS
from kvmharness.model.interval import TooWideError
from kvmharness.model.masterclock import ClockBehindError
from kvmharness.model.policy import Policy
from kvmharness.model.rates import UnknownRateError
from kvmharness.model.simulate import Pace, simulate
from kvmharness.model.state import DoubtError, Host
from kvmharness.script import Operation
from kvmharness.trace import Bracket, Event, Trace

# As many orders in which a script's vCPUs may have been written are simulated.
_MOST_ORDERS = 100

_Readings = dict[str, tuple[int, ...]]


class _Way(NamedTuple):
    """A trace's steps as they may have been played: the same trace, with `parts` events for each of its own;
    which end of what is open is chosen, and up to which step (None: all), from where on it is the other."""

    played: Trace
    parts: Sequence[int]
    end: int
    until: int | None = None


def predicted_breaks(trace: Trace, broken: set[str], policy: Policy, host: Host) -> set[str]:
    """Those of the `broken` entitlements that the policy breaks in this script at this trace's own pace.

    With what was read then and with what is simulated, on a host that was up as long: an offset is one of
    the host's TSC.
    """
    read = {each.operation.label: each.values for each in trace.events if each.values and not each.error}
    found: set[str] = set()
    for way in chain(_ways(trace), _switched(trace)):
        for readings in (None, read):
            if broken <= found:
                return broken
            simulated = _simulated(trace, way, readings, policy, host)
            found |= {each.rule for each in breaches(simulated, generous=True)} if simulated else set()
    return broken & found


def _simulated(
    trace: Trace, way: _Way, readings: _Readings | None, policy: Policy, host: Host
) -> Trace | None:
    """The trace as the policy's kernel may have left it; None where the model cannot tell."""
    step = 0
    paces = _paces_of(way.played)

    def pace(operation: Operation) -> Pace:
        nonlocal step
        step += 1
        return next(paces, Pace())

    def choose(count: int) -> int:
        return ENDS[way.end if way.until is None or step <= way.until else 1 - way.end](count)

    try:
        simulated = simulate(
            *("", way.played.script, policy, known(host)),
            pace=pace,
            choose=choose,
            debugfs=any(event.debugfs for event in trace.events),
            begin=trace.events[0].bracket.tsc_before,
            read=readings,
        )
    except (TooWideError, ClockBehindError, UnknownRateError, DoubtError):
        return None
    return _joined(simulated, trace, way.parts)


def _ways(trace: Trace) -> Iterator[_Way]:
    """The trace; and where vCPUs are written at once, also as if they were written one after the other.

    KVM does that in any order (kvm_synchronize_tsc() takes the VM's tsc_write_lock), and a made-up player
    does it at one moment.
    """
    plain = [1] * len(trace.events)
    yield from (_Way(trace, plain, end) for end in range(len(ENDS)))
    operations = [event.operation.one_after_the_other for event in trace.events]
    if any(len(each) > 1 for each in operations):
        for orders in islice(product(*map(_orders, operations)), _MOST_ORDERS):
            events = [_one_by_one(event, each) for event, each in zip(trace.events, orders, strict=True)]
            played = replace(trace, events=tuple(chain.from_iterable(events)))
            yield from (_Way(played, [len(each) for each in events], end) for end in range(len(ENDS)))


def _switched(trace: Trace) -> Iterator[_Way]:
    """The trace with one end of what is open up to a step, and the other end from there on.

    A page that is written at some time after a step is the old one at the first reading, maybe, and the new
    one at the next.
    """
    plain = [1] * len(trace.events)
    for until, end in product(range(1, len(trace.events)), range(len(ENDS))):
        yield _Way(trace, plain, end, until)


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


def _paces_of(trace: Trace) -> Iterator[Pace]:
    """How long each step took, and what passed until the next; for a simulation of the same steps."""
    for event, after in zip(trace.events, (*trace.events[1:], None), strict=True):
        bracket, khz = event.bracket, max(1, _khz(trace))
        # One that is refused waits for nothing, and a timer's interrupt ends a wait.
        waited = min(event.operation.waits_ns * khz // 1_000_000, bracket.width)
        width = bracket.width - waited
        pause = after.bracket.tsc_before - bracket.tsc_after if after else 0
        yield Pace(width // 2, 0, width - width // 2, max(0, pause), waited)


def _khz(trace: Trace) -> int:
    """The host's rate, as the trace shows it."""
    if not trace.events:
        return 0
    first, last = trace.events[0].bracket, trace.events[-1].bracket
    ns = last.ns_after - first.ns_before
    return (last.tsc_after - first.tsc_before) * 1_000_000 // ns if ns > 0 else 0
