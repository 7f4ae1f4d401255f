# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operations on the VM's clock lead to (see `operations`)."""

from kvmharness.model import real_time
from kvmharness.model.interval import Interval
from kvmharness.model.line import OnLine
from kvmharness.model.masterclock import LineOf, scale
from kvmharness.model.outcome import (
    REFUSED,
    UNKNOWN,
    Action,
    Answer,
    Clock,
    Flag,
    Guess,
    Outcome,
    Version,
    Within,
)
from kvmharness.model.pages import Page
from kvmharness.model.rules import Rules
from kvmharness.model.state import Vcpu, World
from kvmharness.model.time_function import TimeFunction
from kvmharness.script import HOST_TSC, PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE_BIT, REALTIME, TSC_STABLE

_ZERO = Within(Interval(0, 0))

# What KVM_GET_CLOCK_GUEST and KVM_SET_CLOCK_GUEST answer without a masterclock, and the second to a function
# of a TSC of another rate.
_NO_MASTERCLOCK, _OTHER_RATE = frozenset({"EINVAL", "ENODATA"}), frozenset({"ERANGE"})

# What the player answers where the host's clocksource is not to be changed, or no CPU.
_NOT_CHANGED = frozenset({"ENODEV"})


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
    stable = world.masterclock is not False
    clock = Clock(world.kvmclock_offset, rules.drift(world, action.moment))
    # What a kernel says whose masterclock does not need equal offsets is not known while they differ.
    is_open = rules.policy.stable_by == "khz" and not rules.all_match(world)
    # A kernel reports both, the host's real time and its TSC, or neither (get_kvmclock()). It may
    # be neither just after the host's clock was taken off the TSC.
    of_host = REALTIME | HOST_TSC
    reads_both = stable and world.knows_realtime and world.tsc_clocksource is not False
    bits = TSC_STABLE | (of_host if reads_both else 0)
    neither = 0 if world.knows_realtime is not False else of_host
    flags = Flag(neither if is_open else TSC_STABLE | neither, bits if stable else 0, of_host)
    realtime = real_time.read(rules, world, action.moment)
    answers: tuple[Answer, ...] = (clock, flags, realtime, Within(action.moment.tsc))
    if action.realtime is not None:
        with_realtime = flags, Guess(action.realtime), Within(action.moment.tsc)
        answers = (clock, *(with_realtime if reads_both else (flags,)))
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
    now = real_time.now(rules, world, action.moment)
    if action.realtime is not None:
        now = Interval(action.realtime, action.realtime)
    rules.set_clock(world, clock, realtime, now, action.moment)
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


def get_clock_guest(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_GET_CLOCK_GUEST: what kvm_guest_time_update() puts into a vCPU's page, from the masterclock.

    Where a look at the masterclock is pending, it may come first or not.
    """
    number = action.operation.vcpu
    rules.load_vcpu(world, number, action.moment)
    outcomes = _without_clock_guest(world)
    if world.has_clock_guest is False:
        return outcomes
    world.has_clock_guest = True
    if not rules.policy.honours_writes:
        refused = Outcome(world.fork(), (None,) * 6, _NO_MASTERCLOCK, elsewhere=True)
        return [*outcomes, refused, Outcome(world, (None,) * 6)]
    if world.master is None and world.tsc_clocksource is not False:
        # Whether a VM has a masterclock before a vCPU has run is not known of kernels that have this.
        outcomes.append(Outcome(world.fork(), (None,) * 6))
    renewed = [world.fork()] if world.vcpus[number].request is not False else []
    rules.look_again(world, number, action.moment)
    for each in renewed:
        outcomes += _each_guest(rules, rules.process_requests(each, number, action.moment), action)
    return [*_each_guest(rules, [world], action), *outcomes]


def _each_guest(rules: Rules, worlds: list[World], action: Action) -> list[Outcome]:
    found = []
    for world in worlds:
        if world.tsc_clocksource is None and world.use_master_clock:
            other = world.fork()
            other.tsc_clocksource, world.tsc_clocksource = False, True
            found.append(Outcome(other, (None,) * 6, _NO_MASTERCLOCK))
        found.append(_guest_clock(rules, world, action))
    return found


def _guest_clock(rules: Rules, world: World, action: Action) -> Outcome:
    if not world.masterclock:
        return Outcome(world, (None,) * 6, _NO_MASTERCLOCK)
    vcpu = world.vcpus[action.operation.vcpu]
    page = rules.page_now(world, action.operation.vcpu, action.moment)
    times = (None if each is None else Within(each) for each in (page.tsc, page.ns))
    rate = _rate(page, exact=world.clock_khz is not None)
    is_open = rules.policy.stable_by == "khz" and not rules.all_match(world)
    flags = Flag(0 if is_open else PVCLOCK_TSC_STABLE_BIT, PVCLOCK_TSC_STABLE_BIT)
    answers = (None, *times, *rate, flags)
    if not rules.has_line(world) or vcpu.ratio_slack or vcpu.ratio == 0:
        return Outcome(world, answers)
    assert world.clock_khz
    assert world.line_raw
    drawn = world.line, world.clock_khz, world.kvmclock_offset, world.line_raw
    on_line = OnLine(*drawn, clock=2, tsc=1, offset=vcpu.l1_tsc_offset, ratio=vcpu.ratio)
    return Outcome(world, answers, on_line=on_line)


def set_clock_guest(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_SET_CLOCK_GUEST: a new masterclock, on which the VM's clock is this function of the vCPU's TSC."""
    number = action.operation.vcpu
    rules.load_vcpu(world, number, action.moment)
    outcomes = _without_clock_guest(world)
    if world.has_clock_guest is False:
        return outcomes
    world.has_clock_guest = True
    nothing: tuple[Answer, ...] = (None,) * 4
    if not action.written:
        return [*outcomes, Outcome(world, nothing)]
    function = TimeFunction(*action.written)
    refused = Outcome(world.fork(), nothing, _NO_MASTERCLOCK | _OTHER_RATE)
    if not function.is_valid:
        return [*outcomes, refused]
    if not rules.policy.honours_writes:
        return [*outcomes, Outcome(world, nothing), refused]
    return outcomes + _with_function(rules, world, action, function)


def _with_function(rules: Rules, world: World, action: Action, function: TimeFunction) -> list[Outcome]:
    """The result of setting a clock to a function, on a kernel that knows how to."""
    nothing: tuple[Answer, ...] = (None,) * 4
    rules.renew_masterclock(world, action.moment)
    outcomes = []
    if not world.use_master_clock or world.tsc_clocksource is not True:
        outcomes.append(Outcome(world.fork(), nothing, _NO_MASTERCLOCK))
    if not world.use_master_clock or world.tsc_clocksource is False:
        return outcomes
    world.tsc_clocksource = True
    number = action.operation.vcpu
    same_rate = rules.counts_at_rate_of(world, number, function)
    if not same_rate:
        outcomes.append(Outcome(world.fork(), nothing, _OTHER_RATE))
    if same_rate is False:
        return outcomes
    rules.set_clock_guest(world, number, function, action.moment)
    return [Outcome(world, nothing), *outcomes]


def _without_clock_guest(world: World) -> list[Outcome]:
    """What a kernel that does not know the two ioctls answers, if this one may be such."""
    if world.has_clock_guest is True:
        return []
    absent = world.fork()
    absent.has_clock_guest = False
    return [Outcome(absent, errors=UNKNOWN)]


def set_clocksource(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """The host's own clock changes, if it can."""
    refused = Outcome(world.fork(), errors=_NOT_CHANGED, elsewhere=True)
    if action.refused:
        return [refused]
    rules.change_clocksource(world, action.moment, to_tsc=action.operation.tsc)
    return [Outcome(world), refused]


def set_cpu_online(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """A CPU goes offline or comes online: kvm_arch_hardware_enable() looks for a TSC that went backwards.

    No machine of the lab has one. With an unstable TSC it asks for the clocks of the vCPUs that were on the
    CPU.
    """
    refused = Outcome(world.fork(), errors=_NOT_CHANGED, elsewhere=True)
    if action.refused:
        return [refused]
    for vcpu in () if rules.host.stable else world.vcpus.values():
        vcpu.clock_request = vcpu.clock_request or None
    return [Outcome(world), refused]


def read_kvmclock(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """What lies in a vCPU's kvmclock page. Nothing does before it was first written."""
    number = action.operation.vcpu
    vcpu = world.vcpus[number]
    version = vcpu.page and Version(number, vcpu.page.version)
    drawn = vcpu.page_raw, vcpu.page_line, vcpu.page_origin, vcpu.page_offset, vcpu.page_ratio
    if not rules.policy.honours_writes:
        return [Outcome(world, (None,) * 6)]
    return [page_reading(world, vcpu, vcpu.page, version, drawn)]


def page_reading(world: World, vcpu: Vcpu, page: Page | None, version: Answer, drawn: LineOf) -> Outcome:
    """What lies in a page of a vCPU, which was `drawn` on a line (Vcpu.page_raw)."""
    if not world.pages_known:
        return Outcome(world, (None,) * 6)
    if page is None:
        return Outcome(world, (_ZERO,) * 6)
    may_be_empty = page.version == 0
    times: list[Answer] = [
        None if may_be_empty or each is None else Within(each) for each in (page.tsc, page.ns)
    ]
    rate = (None, None) if may_be_empty else _rate(page, exact=world.clock_khz is not None)
    answers = (version, *times, *rate, _flags(world, page))
    raw, line, origin, offset, ratio = drawn
    if not raw or not world.clock_khz or may_be_empty or vcpu.ratio_slack or ratio == 0:
        return Outcome(world, answers)
    on_line = OnLine(line, world.clock_khz, origin, raw, clock=2, tsc=1, offset=offset, ratio=ratio)
    return Outcome(world, answers, on_line=on_line)


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
    stable = world.is_stable(page)
    mask = bits = 0
    for known, bit in ((stable, PVCLOCK_TSC_STABLE_BIT), (page.stopped, PVCLOCK_GUEST_STOPPED)):
        mask |= bit if known is not None else 0
        bits |= bit if known else 0
    return Flag(mask, bits)
