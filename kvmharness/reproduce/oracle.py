# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims for a script that has none: what a policy predicts, or what the script's shape entitles to.

Explored scripts are small, so that what is wrong often shows in debugfs alone. A test in C reads each vCPU's
TSC at the end instead.
"""

from collections.abc import Callable
from dataclasses import fields, replace

from kvmharness.contract import (
    Claim,
    ClockClaim,
    EntitledClaim,
    LineClaim,
    OffsetClaim,
    SameClaim,
    implied_offset,
)
from kvmharness.contract.entitled import ENTITLEMENTS
from kvmharness.model.interval import Interval, signed
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import simulate
from kvmharness.reproduce.calls import READ_FOR_CLAIMS
from kvmharness.reproduce.checks import NearlyClaim
from kvmharness.reproduce.names import CannotExpressError
from kvmharness.scenarios import Scenario
from kvmharness.scenarios.steps import READ_ONE
from kvmharness.script import Operation, Read, Script
from kvmharness.trace import Event, Trace

# By how much the TSCs of one timeline may be apart, and a vCPU's off it (contract/entitled.py).
_SLACK_NS = 1_000_000


def with_claims(scenario: Scenario, policy: Policy) -> Scenario:
    """The scenario itself if it has claims of its own; otherwise with readings at its end, and claims."""
    entitled = [claim for claim in scenario.claims if isinstance(claim, EntitledClaim)]
    if scenario.claims and not entitled:
        return scenario
    script = _labelled(scenario.script)
    unclaimed = [step.phrase for step in script if step.name in READ_FOR_CLAIMS and not entitled]
    if unclaimed:
        raise CannotExpressError(f"it has no claims, and a test in C predicts nothing of '{unclaimed[0]}'")
    vcpus = sorted({vcpu for step in script if step.creates_vcpu for vcpu in step.vcpu_numbers})
    ends = tuple(_named(step, vcpu) for vcpu in vcpus for step in READ_ONE)
    trace = simulate(scenario.name, (*script, *ends), policy, scenario.host, debugfs=True)
    if len(trace.events) < len(script) + len(ends):
        raise CannotExpressError("the script comes to no end: a step needs what an earlier one did not read")
    if not entitled and _depends_on_uptime(script):
        raise CannotExpressError("its result depends on how long the host was up: it sets a plain offset")
    of_rules = [claim for each in entitled for claim in _ENTITLED[each.rule](each.rule, trace, vcpus)]
    claims = of_rules if entitled else _predicted(trace, policy, vcpus)
    if not claims:
        raise CannotExpressError("nothing that this script reads shows what is claimed")
    claims = [*(claim for claim in scenario.claims if claim not in entitled), *claims]
    named = {label for claim in claims for label in claim.labels}
    ends = tuple(step for step in ends if step.label in named)
    return replace(scenario, script=(*script, *ends), claims=tuple(claims), needs=_needs(scenario))


def _needs(scenario: Scenario) -> tuple[str, ...]:
    """What it needs, and what its writes need: on a KVM that ignores these it says nothing."""
    sets = [step for step in scenario.script if step.sets_tsc and not step.creates_vcpu]
    by_attribute = [step for step in sets if step.value_names == ("offset",)]
    also = [*(["tsc-offset"] if by_attribute else []), *(["tsc-write"] if sets != by_attribute else [])]
    return tuple(dict.fromkeys((*scenario.needs, *also)))


def _labelled(script: Script) -> Script:
    """The script with a label for each step."""
    labels = {step.label for step in script}
    names = (f"step-{number}" for number in range(1, 10_000) if f"step-{number}" not in labels)
    return tuple(step if step.label else replace(step, label=next(names)) for step in script)


def _named(step: Operation, vcpu: int) -> Operation:
    data = {"vcpu": vcpu, "label": f"end-{step.label}-{vcpu}"}
    return replace(step, **data)  # type: ignore[arg-type]


def _ends(vcpu: int) -> tuple[str, ...]:
    return tuple(f"end-{step.label}-{vcpu}" for step in READ_ONE)


def _end(trace: Trace, vcpu: int) -> Event:
    """The step at the end that reads the offset of a vCPU."""
    return next(each for each in trace.events if each.operation.label == _ends(vcpu)[0])


# What a policy predicts


def _depends_on_uptime(script: Script) -> bool:
    """Whether a TSC is written after an offset that no step read: how near the two are is the host's TSC's
    to say."""
    plain = False
    for step in script:
        if step.sets_tsc and step.value_names == ("offset",):
            plain = plain or not any(isinstance(getattr(step, each.name), Read) for each in fields(step))
        elif plain and step.sets_tsc and not step.creates_vcpu:
            return True
    return False


def _predicted(trace: Trace, policy: Policy, vcpus: list[int]) -> list[Claim]:
    """From which step each vCPU goes on, and how each KVM_GET_CLOCK calls the clock."""
    found: list[Claim] = []
    for vcpu in vcpus:
        origin = _origin(trace, _end(trace, vcpu))
        if origin:
            text = f"vCPU {vcpu} goes on from step {origin}, as {policy.name} says"
            found.append(OffsetClaim(text=text, seen=_ends(vcpu), expected=(origin,)))
    for event in trace.events:
        flags = event.value("clock_flags")
        if flags is not None and not event.error:
            stable = bool(flags & 2)
            text = f"the clock is {'' if stable else 'not '}stable at step {event.operation.label}"
            found.append(ClockClaim(text=text, seen=event.operation.label, stable=stable))
    return found


def _origin(trace: Trace, end: Event) -> str:
    """The first step whose offset a vCPU has at the end; "" if none implies it."""
    offset = signed(end.values[0])
    for event in trace.events:
        implied = None if event.error or event is end else implied_offset(event)
        if implied and event.operation.sets_tsc and not implied.gap(Interval(offset, offset)):
            return event.operation.label
    return ""


# What a script's shape entitles to


def _together(rule: str, trace: Trace, vcpus: list[int]) -> list[Claim]:
    """All have the offset of the first."""
    first, *others = vcpus
    return [
        OffsetClaim(text=f"{ENTITLEMENTS[rule]}: vCPU {vcpu}", seen=_ends(vcpu), expected=_ends(first))
        for vcpu in others
    ]


def _timeline(rule: str, trace: Trace, vcpus: list[int]) -> list[Claim]:
    """Each goes on from what was written to it last, give or take what the writes may be apart."""
    found: list[Claim] = []
    for vcpu in vcpus:
        written = [each for each in _own(trace, vcpu) if each.operation.sets_tsc and not each.error]
        if written and not written[-1].operation.creates_vcpu:
            label = written[-1].operation.label
            text = f"{ENTITLEMENTS[rule]}: vCPU {vcpu}, to 1 ms"
            found.append(NearlyClaim(text=text, seen=_ends(vcpu), expected=(label,), slack_ns=_SLACK_NS))
    return found


def _unwritten(rule: str, trace: Trace, vcpus: list[int]) -> list[Claim]:
    """What was read after the last write still holds at the end."""
    found: list[Claim] = []
    for vcpu in vcpus:
        since: list[Event] = []
        for event in _own(trace, vcpu):
            since = [] if event.operation.sets_tsc else [*since, event]
        read = [each.operation.label for each in since if not each.error and implied_offset(each)]
        if read and read[0] not in _ends(vcpu):
            text = f"{ENTITLEMENTS[rule]}: vCPU {vcpu}"
            found.append(OffsetClaim(text=text, seen=(*read[1:], *_ends(vcpu)), expected=(read[0],)))
    return found


def _stable(rule: str, trace: Trace, vcpus: list[int]) -> list[Claim]:
    """The last KVM_GET_CLOCK of the script says so."""
    asked = [each.operation.label for each in trace.events if each.value("clock_flags") is not None]
    return [ClockClaim(text=ENTITLEMENTS[rule], seen=asked[-1], stable=rule == "stable")] if asked else []


def _line(rule: str, trace: Trace, vcpus: list[int]) -> list[Claim]:
    """The last page of a vCPU is on the line of the first one that nothing has moved since.

    A page stays as it is until its vCPU next enters its guest.
    """
    found: list[Claim] = []
    for vcpu in vcpus:
        pages: list[str] = []
        entered = False
        for event in trace.events:
            names = event.operation.value_names
            sets_clock = names[:1] == ("clock",) and event.value("clock_flags") is None
            if sets_clock or (event.operation.sets_tsc and vcpu in event.operation.vcpu_numbers):
                pages, entered = [], False
            elif event.operation.enters_guest and vcpu in event.operation.vcpu_numbers:
                entered = True
            elif entered and event.value("version") and event.operation.vcpu_numbers == (vcpu,):
                pages.append(event.operation.label)
        if len(pages) > 1:
            text = f"{ENTITLEMENTS[rule]}: vCPU {vcpu}"
            found.append(LineClaim(text=text, seen=tuple(pages[1:]), expected=pages[0]))
    return found


def _answer(rule: str, trace: Trace, vcpus: list[int]) -> list[Claim]:
    """What is read is what was set last."""
    name = {"khz": "khz", "adjust": "TSC_ADJUST", "attribute": "offset"}[rule]
    found: list[Claim] = []
    for vcpu in vcpus:
        steps = [each.operation for each in _own(trace, vcpu) if each.operation.value_names[:1] == (name,)]
        set_by = [each.label for each in steps if each.sets_tsc or each.new_khz((1,)) is not None]
        asked = [each.label for each in steps if each.label not in set_by]
        if set_by and asked:
            text = f"{ENTITLEMENTS[rule]}: vCPU {vcpu}"
            found.append(SameClaim(text=text, seen=asked[-1], expected=set_by[-1]))
    return found


def _own(trace: Trace, vcpu: int) -> list[Event]:
    return [each for each in trace.events if vcpu in each.operation.vcpu_numbers]


_ENTITLED: dict[str, Callable[[str, Trace, list[int]], list[Claim]]] = {
    "together": _together,
    "new-vcpu": _together,
    "timeline": _timeline,
    "unwritten": _unwritten,
    "stable": _stable,
    "not-stable": _stable,
    "khz": _answer,
    "adjust": _answer,
    "attribute": _answer,
    "line": _line,
}
