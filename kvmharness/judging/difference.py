# SPDX-License-Identifier: GPL-2.0-or-later
"""Two kernels held against each other, without any policy: the first step at which they do something else.

The two ran at different moments, so no number of one can be compared with a number of the other. What can be
compared is how each number is related to others of the same trace: a vCPU's TSC offset is the one that was
written, or the one the vCPU had before, or another vCPU's; a clock is stable or not; a kvmclock page is the
same function of the TSC as the page before it, or another. Two kernels differ where no relation that holds in
one holds in the other, and what separates them is larger than what their brackets leave open. So a slow or
noisy machine makes no difference. Nor does a player that was held up, where one policy leaves both traces: a
write that comes later may fall on the other side of the second.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from kvmharness.contract import TOGETHER_NS, Status
from kvmharness.judging import capabilities
from kvmharness.judging.relations import Reading, Relations
from kvmharness.judging.session import Session
from kvmharness.model.interval import TooWideError
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.outcome import UNKNOWN
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.state import Host
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.trace import Event, Trace

# How much later than the other a player may come to a step without having been held up. An ioctl takes
# microseconds; a player that the scheduler takes from its CPU waits for ms.
_HELD_UP_NS = 1_000_000

# By their first value, the readings that no release knows. Kernels before 5.16 refuse every attribute of a
# vCPU with EINVAL, later ones those that they do not know with ENXIO.
_PROPOSED = (("ratio",), ("page_version",))


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two kernels first differ in a scenario.

    At `step` (from 1), which does `operation`, the first kernel does `first` and the second `second`, each in
    words; `distance` is how far one is from the other, in cycles and as a duration ("" where unknown).
    """

    scenario: str
    step: int
    operation: str
    first: str
    second: str
    distance: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs between two kernels that played the same scenarios.

    `kept_by_first` and `kept_by_second` name the scenarios whose contract that kernel alone keeps, the other
    breaking it. `compared` counts the scenarios that could be compared, `left_open` those played by both that
    could not be compared to their end. `only_first` and `only_second` say what that kernel's KVM can do
    and the other's cannot, as the probe found by effect.
    """

    compared: int
    differences: tuple[Difference, ...]
    kept_by_first: tuple[str, ...] = ()
    kept_by_second: tuple[str, ...] = ()
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    left_open: int = 0


def compare_sessions(played_first: Sequence[Session], played_second: Sequence[Session]) -> Comparison:
    """Compare what was played on two kernels, the sessions of each in their order.

    Of a scenario that was played several times the last trace counts: what came once, and was played again
    for that, is no difference of two kernels.
    """
    first, second = _by_scenario(played_first), _by_scenario(played_second)
    sessions = {id(each): each for each in (*first.values(), *second.values())}
    hosts = {key: capabilities.host_facts(each.probe) for key, each in sessions.items()}
    # One that ignores writes would explain whatever comes of them.
    honoured = any(_honours_writes(each) for each in sessions.values())
    policies = [each for each in POLICIES.values() if each.honours_writes or not honoured]
    can_be_told = {
        name: scenario
        for name, scenario in SCENARIOS.items()
        if all(_applies(scenario, of[name]) for of in (first, second) if name in of)
    }
    found = compare(
        {name: session.traces[name] for name, session in first.items()},
        {name: session.traces[name] for name, session in second.items()},
        can_be_told,
        stable=all(host.stable for host in hosts.values()),
        explained=lambda one, other: of_one_policy(
            policies, (one, hosts[id(first[one.scenario])]), (other, hosts[id(second[other.scenario])])
        ),
    )
    one, other = _can_do(first), _can_do(second)
    return replace(
        found,
        only_first=_only(one, other),
        only_second=_only(other, one),
    )


def _honours_writes(session: Session) -> bool:
    """Whether its KVM does, or has no reason not to: an emulated machine protects no TSC."""
    places = [each.place for each in session.probe.traces]
    if places and all(each and not each.may_protect_tscs for each in places):
        return True
    return capabilities.findings(session.probe)["tsc-write"].status is Status.KEPT


def of_one_policy(policies: Sequence[Policy], *played: tuple[Trace, Host]) -> bool:
    """Whether a kernel with one of the policies can have left all of these traces, each of a host, on one
    machine.

    A kernel that has a masterclock and one that never has are not one kernel: what the probe of each showed
    of the machine has to be the same for both. So has what a policy leaves open of which a kernel has one or
    the other.
    """
    policies = [each for policy in policies for each in _kernels_with(policy)]
    machines = _machines([host for _, host in played])
    last = played[0][0].events[-1].operation
    if last.enters_guest and last.waits_ns:
        # Of timers nothing is known where a load may move the TSC: that would explain whatever they do.
        policies = [each for each in policies if each.reloads == "unstable"]
    return any(
        all(
            judge(trace, policy, replace(host, **machine)).possibility is Possibility.POSSIBLE
            for trace, host in played
        )
        for policy in policies
        for machine in machines
    )


def _kernels_with(policy: Policy) -> list[Policy]:
    """The policy, as each kernel has it that has it."""
    if policy.renews_masterclock != "either":
        return [policy]
    return [replace(policy, renews_masterclock=each) for each in ("write", "generation")]


def _machines(hosts: Sequence[Host]) -> list[dict[str, Any]]:
    """The machines that these may all be, with the KVM that one of them may have."""
    names = (
        *("stable", "tsc_clocksource", "fraction_bits", "keeps_tsc_page"),
        *("marks_xen", "keeps_runstate"),
    )
    known = [{getattr(host, name) for host in hosts} - {None} or {None} for name in names]
    return [dict(zip((*names, "xen_renews"), each, strict=True)) for each in product(*known, (True, False))]


def _by_scenario(sessions: Sequence[Session]) -> dict[str, Session]:
    """The last session in which each scenario was played, in the order of the catalogue."""
    found = {name: session for session in sessions for name in session.traces}
    order = [*(name for name in SCENARIOS if name in found), *sorted(found.keys() - SCENARIOS.keys())]
    return {name: found[name] for name in order}


def _can_do(sessions: Mapping[str, Session]) -> dict[str, Status]:
    """What the probes of a kernel found of each capability; undecided where they do not agree."""
    found: dict[str, Status] = {}
    for probe in {id(each.probe): each.probe for each in sessions.values()}.values():
        for name, finding in capabilities.findings(probe).items():
            agrees = found.get(name, finding.status) is finding.status
            found[name] = finding.status if agrees else Status.UNDECIDED
    return found


def _only(one: Mapping[str, Status], other: Mapping[str, Status]) -> tuple[str, ...]:
    """What one can do and the other cannot, in words."""
    names = [name for name in one if (one[name], other.get(name)) == (Status.KEPT, Status.BROKEN)]
    return tuple(capabilities.CAPABILITIES[name].there for name in names)


def _applies(scenario: Scenario, session: Session) -> bool:
    """Whether the scenario's contract can be judged on this KVM."""
    needs = capabilities.implied(scenario.needs)
    status, _ = capabilities.unmet(capabilities.findings(session.probe), needs, scenario.lacks)
    return status is Status.KEPT


def compare(
    first: Mapping[str, Trace],
    second: Mapping[str, Trace],
    scenarios: Mapping[str, Scenario],
    *,
    stable: bool,
    explained: Callable[[Trace, Trace], bool] = lambda *_: False,
) -> Comparison:
    """Compare two kernels' traces by scenario, and the contracts of `scenarios`.

    With `stable` both hosts' TSCs are stable, so that offsets mean something. Where one of the players was
    held up, what they did up to a difference is left open if `explained` says that one kernel can do both.
    """
    both = [name for name in first if name in second]
    found = [
        _unless_held_up(
            _compared(first[name], second[name], stable=stable), first[name], second[name], explained
        )
        for name in both
    ]
    left_open = found.count(False)
    states = [
        (name, _contract(scenarios[name], first[name]), _contract(scenarios[name], second[name]))
        for name in both
        if name in scenarios
    ]
    return Comparison(
        len(both) - left_open,
        tuple(each for each in found if isinstance(each, Difference)),
        tuple(name for name, one, other in states if (one, other) == (Status.KEPT, Status.BROKEN)),
        tuple(name for name, one, other in states if (one, other) == (Status.BROKEN, Status.KEPT)),
        left_open=left_open,
    )


def _contract(scenario: Scenario, trace: Trace) -> Status:
    """Broken if any claim is, else undecided if any claim is."""
    states = {finding.status for finding in scenario.findings(trace)}
    return next((each for each in (Status.BROKEN, Status.UNDECIDED) if each in states), Status.KEPT)


def first_difference(first: Trace, second: Trace, *, stable: bool = True) -> Difference | None:
    """The first step of a script at which two kernels differ; None if they do not, or it is not known."""
    found = _compared(first, second, stable=stable)
    return found if isinstance(found, Difference) else None


def _compared(first: Trace, second: Trace, *, stable: bool) -> Difference | bool:
    """The first difference; else whether the two could be compared to their end."""
    if not all(any(event.debugfs for event in each.events) for each in (first, second)):
        first, second = _without_debugfs(first), _without_debugfs(second)
    both_say = first.created and second.created
    undisturbed = first.is_undisturbed and second.is_undisturbed
    one, other = (
        Reading(each, stable, each.created if both_say else None, undisturbed=undisturbed)
        for each in (first, second)
    )
    excuses = first.excuses | second.excuses
    for number, (mine, others) in enumerate(zip(first.events, second.events, strict=False), 1):
        if mine.operation != others.operation or {mine.error, others.error} & excuses:
            return False
        if abs(_passed(first, mine) - _passed(second, others)) >= TOGETHER_NS:
            return False  # one of the players was held up
        if _is_unknown(mine, others):
            continue  # one of the capabilities that are compared apart
        if mine.error != others.error:
            words = [f"fails with {each.error}" if each.error else "succeeds" for each in (mine, others)]
            return Difference(first.scenario, number, mine.operation.describe(), *words)
        try:
            found = _differs(one.relations(mine), other.relations(others))
        except TooWideError:
            return False
        if found:
            return Difference(first.scenario, number, mine.operation.describe(), *found)
    return len(first.events) == len(second.events)


def _without_debugfs(trace: Trace) -> Trace:
    """What a kernel that shows nothing there can be compared with."""
    return replace(trace, events=tuple(replace(event, debugfs=()) for event in trace.events))


def _unless_held_up(
    found: Difference | bool, first: Trace, second: Trace, explained: Callable[[Trace, Trace], bool]
) -> Difference | bool:
    """What was found; False where a player was held up before the difference and that explains it.

    It explains no error: no call succeeds or fails for coming late.
    """
    if not isinstance(found, Difference):
        return found
    both = [replace(each, events=each.events[: found.step]) for each in (first, second)]
    if both[0].events[-1].error != both[1].events[-1].error:
        return found
    times = [
        [*(_passed(trace, event) for event in trace.events[:-1]), _come_to(trace, trace.events[-1])]
        for trace in both
    ]
    later = (abs(one - other) for one, other in zip(*times, strict=True))
    return False if max(later) >= _HELD_UP_NS and explained(*both) else found


def _passed(trace: Trace, event: Event) -> int:
    """How many ns passed from the beginning of a trace to the end of a step."""
    return event.bracket.ns_after - trace.events[0].bracket.ns_before


def _come_to(trace: Trace, event: Event) -> int:
    """How many ns passed until a step was done, or begun where the step waits for what differs."""
    end = event.bracket.ns_before if event.operation.waits_ns else event.bracket.ns_after
    return end - trace.events[0].bracket.ns_before


def _is_unknown(one: Event, other: Event) -> bool:
    """Whether a kernel does not know a reading that the other knows: what both do later can be compared.

    Nor is it a difference how two kernels refuse what no release knows.
    """
    errors = {one.error, other.error}
    if len(errors) > 1 and one.operation.value_names[:1] in _PROPOSED:
        return errors <= UNKNOWN | {""}
    reads = one.operation.only_reads_tsc(one.values, "") and one.operation.tsc_offset((0,)) is not None
    return reads and bool(one.error) != bool(other.error) and (one.error or other.error) in UNKNOWN


def _differs(first: Relations, second: Relations) -> tuple[str, str, str] | None:
    """What the two do otherwise, in words; None if nothing that was observed contradicts."""
    for what in (each for each in first if each in second):
        one, other = first[what], second[what]
        if one.contradicts(other):
            return one.text(other), other.text(one), one.distance(other) or other.distance(one)
    return None
