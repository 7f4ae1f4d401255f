# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operations on the VM's clock lead to (see `operations`)."""

from kvmharness.model.interval import Interval
from kvmharness.model.line import OnLine
from kvmharness.model.masterclock import scale
from kvmharness.model.outcome import REFUSED, Action, Answer, Clock, Flag, Guess, Outcome, Version, Within
from kvmharness.model.rules import Rules
from kvmharness.model.state import Page, World
from kvmharness.script import HOST_TSC, PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE_BIT, REALTIME, TSC_STABLE

_ZERO = Within(Interval(0, 0))


def get_clock(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_GET_CLOCK. Its flags are those of the last time the masterclock was looked at."""
    if not rules.policy.honours_writes:
        return [Outcome(world, (None,) * (4 if action.realtime is None else 2))]
    outcomes = []
    if world.use_master_clock and world.tsc_clocksource is None:
        other = world.fork()
        other.tsc_clocksource = False
        outcomes.append(_clock_of(rules, other, action))
        world.tsc_clocksource = True
    return [*outcomes, _clock_of(rules, world, action)]


def _clock_of(rules: Rules, world: World, action: Action) -> Outcome:
    stable = world.use_master_clock and world.tsc_clocksource is not False
    clock = Clock(world.kvmclock_offset, rules.drift(world, action.moment))
    # What a kernel says whose masterclock does not need equal offsets is not known while they differ.
    is_open = rules.policy.stable_by == "khz" and not rules.all_match(world)
    flags = Flag(0 if is_open else TSC_STABLE, TSC_STABLE if stable else 0)
    answers: tuple[Answer, ...] = (clock, flags, None, Within(action.moment.tsc))
    if action.realtime is not None:
        with_realtime = (
            Guess(TSC_STABLE | REALTIME | HOST_TSC),
            Guess(action.realtime),
            Within(action.moment.tsc),
        )
        answers = (clock, *(with_realtime if stable and world.knows_realtime else (flags,)))
    if rules.has_line(world) and world.clock_khz and world.line_raw:
        drawn = world.line, world.clock_khz, world.kvmclock_offset, world.line_raw
        return Outcome(world, (None, *answers[1:]), on_line=OnLine(*drawn, clock=0, tsc=3))
    return Outcome(world, answers)


def set_clock(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_SET_CLOCK: kernels that do not know KVM_CLOCK_REALTIME refuse all flags."""
    clock, realtime = (*action.written, None)[:2]
    outcomes = []
    if realtime is not None and not world.knows_realtime:
        refused = world if world.knows_realtime is False else world.fork()
        refused.knows_realtime = False
        outcomes.append(Outcome(refused, (None, None), REFUSED))
        if refused is world:
            return outcomes
        world.knows_realtime = True
    assert clock is not None
    rules.set_clock(world, clock, realtime, action.realtime, action.moment)
    return [*outcomes, Outcome(world, (None, None))]


def kvmclock_ctrl(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_KVMCLOCK_CTRL: kvm_set_guest_paused()."""
    number = action.operation.vcpu
    rules.load_vcpu(world, number, action.moment)
    on = world.vcpus[number].pv_time
    refused = [] if on else [Outcome(world.fork(), (), REFUSED)]
    if on is False:
        return refused
    vcpu = world.vcpus[number]
    vcpu.stopped_request = vcpu.clock_request = True
    return [*refused, Outcome(world)]


def read_kvmclock(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """What lies in a vCPU's kvmclock page. Nothing does before it was first written."""
    number = action.operation.vcpu
    vcpu = world.vcpus[number]
    page = vcpu.page
    if not rules.policy.honours_writes or not world.pages_known:
        return [Outcome(world, (None,) * 6)]
    if page is None:
        return [Outcome(world, (_ZERO,) * 6)]
    may_be_empty = page.version == 0
    times: list[Answer] = [
        None if may_be_empty or each is None else Within(each) for each in (page.tsc, page.ns)
    ]
    rate = (None, None) if may_be_empty else _rate(page, exact=world.clock_khz is not None)
    answers = (Version(number, page.version), *times, *rate, _flags(world, page))
    if not vcpu.page_raw or not world.clock_khz or may_be_empty or vcpu.ratio_slack or vcpu.page_ratio == 0:
        return [Outcome(world, answers)]
    drawn = vcpu.page_line, world.clock_khz, vcpu.page_origin, vcpu.page_raw
    on_line = OnLine(*drawn, clock=2, tsc=1, offset=vcpu.page_offset, ratio=vcpu.page_ratio)
    return [Outcome(world, answers, on_line=on_line)]


def _rate(page: Page, *, exact: bool) -> tuple[Answer, Answer]:
    """Multiplier and shift. Before the host has corrected its rate, that may be 1 % off (Rates._slack)."""
    if not page.khz:
        return None, None
    if exact:
        multiplier, shift = scale(page.khz)
        return Within(Interval(multiplier, multiplier)), Within(Interval(shift, shift))
    (most, low_shift), (multiplier, shift), (least, high_shift) = (
        scale(page.khz * percent // 100) for percent in (99, 100, 101)
    )
    if not low_shift == shift == high_shift:
        # Near a power of two, to either side of which the two numbers are quite others.
        return Within(Interval(0, 2**32 - 1), multiplier), Within(Interval(0, 255), shift)
    return Within(Interval(least, most), multiplier), Within(Interval(shift, shift))


def _flags(world: World, page: Page) -> Flag:
    # No vCPU's clock is stable where the host's own does not run on the TSC.
    stable = page.stable and world.tsc_clocksource
    mask = bits = 0
    for known, bit in ((stable, PVCLOCK_TSC_STABLE_BIT), (page.stopped, PVCLOCK_GUEST_STOPPED)):
        mask |= bit if known is not None else 0
        bits |= bit if known else 0
    return Flag(mask, bits)
