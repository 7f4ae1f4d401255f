# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operations on a Hyper-V's reference time lead to (see `operations`)."""

from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.model.line import OnLine
from kvmharness.model.outcome import OK, REFUSED, UNKNOWN, Action, Answer, Outcome, Within
from kvmharness.model.quantity import Quantity
from kvmharness.model.reference_time import PAGE_WITHIN, UNIT_NS, lap, scale
from kvmharness.model.rules import Rules
from kvmharness.model.state import World
from kvmharness.model.vcpu_operations import samples

_NOTHING: tuple[Answer, ...] = (None,) * 3


def set_hv_cpuid(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_GET_SUPPORTED_HV_CPUID and KVM_SET_CPUID2, which a vCPU that has run may refuse."""
    number = action.operation.vcpu
    rules.load_vcpu(world, number, action.moment)
    outcomes = []
    if world.has_hyperv is not True:
        absent = world.fork()
        absent.has_hyperv = False
        outcomes.append(Outcome(absent, errors=UNKNOWN))
    if world.has_hyperv is False:
        return outcomes
    world.has_hyperv = True
    errors = OK | REFUSED if world.vcpus[number].has_run else OK
    return [Outcome(world, errors=errors), *outcomes]


def read_reference_time(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_RUN of a guest that reads its reference time. Nothing comes of it where KVM refuses the MSR."""
    number, outcomes = action.operation.vcpu, []
    if not PROGRAMS[world.vcpus[number].guest].reads_reference:
        return [Outcome(world, (), REFUSED)]
    rules.load_vcpu(world, number, action.moment)
    if not action.samples:
        outcomes.append(Outcome(world.fork()))
    for each in rules.enter_guest(world, number, action.moment):
        before, after = (*samples(rules, each, each.vcpus[number], action), None, None)[:2]
        counted = rules.reference_time(each, action.moment, rules.drift(each, action.moment))
        page, on_line = _page(rules, each, first=3)
        answers = (before, counted, after, *page) if action.samples else ()
        outcomes.append(Outcome(each, answers, on_line=on_line if action.samples else None))
        rules.leave_guest(each, number, certain=action.samples > 0)
    return outcomes


def read_tsc_page(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """What lies in the TSC page."""
    page, on_line = _page(rules, world, first=0)
    return [Outcome(world, page, on_line=on_line)]


def _page(rules: Rules, world: World, *, first: int) -> tuple[tuple[Answer, ...], OnLine | None]:
    """Sequence, scale and offset, the first of which is at the place `first`, and the line they are on."""
    if not rules.policy.honours_writes or world.ref_sequence is None or not world.has_hyperv:
        return _NOTHING, None
    sequence = Within(world.ref_sequence)
    if not world.ref_khz:
        return (sequence, None, None), None
    answers = sequence, Quantity(scale(world.ref_khz)), None
    if not world.ref_raw or not world.clock_khz or world.ref_tsc is None or lap(world.ref_tsc) is None:
        return answers, None
    drawn = world.ref_line, world.clock_khz, world.ref_origin, world.ref_raw
    return answers, OnLine(
        *drawn,
        clock=first + 2,
        offset=world.ref_offset,
        ratio=world.ref_ratio,
        unit=UNIT_NS,
        within=PAGE_WITHIN,
        scale=first + 1,
        at=world.ref_tsc.low,
    )
