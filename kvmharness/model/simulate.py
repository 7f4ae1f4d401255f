# SPDX-License-Identifier: GPL-2.0-or-later
"""The model as a player: plays a script under a policy, on a clock that it simulates.

It plays by the rules the judge judges by, at moments that are known to the cycle, so every decision
falls one way.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.model import line
from kvmharness.model.arithmetic import TOLERANCE_PPM
from kvmharness.model.interval import Interval, TooWideError
from kvmharness.model.masterclock import ClockBehindError
from kvmharness.model.operations import perform
from kvmharness.model.outcome import (
    Action,
    Answer,
    Clock,
    Flag,
    Guess,
    Outcome,
    Tsc,
    Version,
    Within,
    XenVersion,
)
from kvmharness.model.pages import Page
from kvmharness.model.policy import Policy
from kvmharness.model.quantity import Quantity, bounds, narrow
from kvmharness.model.rates import UnknownRateError
from kvmharness.model.reference_time import UNIT_NS, Counted, CountedByHost
from kvmharness.model.rules import Rules
from kvmharness.model.runstate import RunstateValue
from kvmharness.model.state import DoubtError, Host, Moment, Vcpu, World
from kvmharness.model.steal import StealVersion, Stolen
from kvmharness.model.written_rule import WrittenRules
from kvmharness.player.host_state import TOLERANCE
from kvmharness.player.values import NothingReadError, resolve
from kvmharness.script import Khz, Operation, Ppm, Script, Value, value_to_json
from kvmharness.trace import Bracket, DebugfsReading, Event, GuestExit, Trace

# Where the model says nothing more.
UNPREDICTABLE = (TooWideError, ClockBehindError, UnknownRateError, DoubtError)

# A machine as many are: 2 GHz, an offset attribute, no TSC scaling, two CPUs.
HOST = Host(
    khz=2_000_000,
    khz_exact=True,
    tsc_clocksource=True,
    has_attribute=True,
    fraction_bits=0,
    refuses_khz=False,
    knows_realtime=True,
    one_tsc=True,
    tolerance_ppm=TOLERANCE_PPM,
    has_scale=False,
    has_clock_guest=False,
    has_hyperv=True,
    has_nested=True,
    has_l2_scaling=True,
    has_steal_time=True,
    has_xen=True,
    marks_xen=False,
    keeps_runstate=True,
    keeps_tsc_page=True,
)
CPUS = 2

_RELEASE = "the model"
_BOOTED_NS = 3_600 * 10**9  # the simulated machine has been up for an hour
_REFERENCE_TIMES = ("reference", "HV_TIME_REF_COUNT")
_REALTIME_NS = 1_700_000_000 * 10**9  # its CLOCK_REALTIME when it was booted


class Pace(NamedTuple):
    """How an operation goes, in cycles of the host's TSC: until the kernel reads the TSC, from there
    until it reads its clock, from there to the end, and from there to the next operation. `waited` is how
    long it waits in between, if that is not as long as it may."""

    before: int = 2_000
    between: int = 100
    after: int = 2_000
    pause: int = 10_000
    waited: int | None = None


USUAL = Pace()


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it was played: the event, and the world after it (of this step; do not keep)."""

    event: Event
    world: World


def simulate(
    scenario: str,
    operations: Script,
    policy: Policy,
    host: Host = HOST,
    *,
    pace: Callable[[Operation], Pace] = lambda operation: USUAL,
    choose: Callable[[int], int] = lambda count: 0,
    watch: Callable[[Step], None] = lambda step: None,
    debugfs: bool = False,
    begin: int | None = None,
    read: Mapping[str, tuple[int, ...]] | None = None,
) -> Trace:
    """The trace that a kernel with `policy` leaves of a script.

    `host` has to be known in all it says. `pace` says how long each operation takes; `choose` picks one of
    so many where kernels differ in what no policy speaks of, or a value within an interval where the
    rules leave one. `watch` gets every step. With `debugfs` the kernel shows what its vCPUs have, as
    debugfs does. `begin` is the host's TSC at the first step (None: of one that was booted an hour ago).
    Values that depend on a reading take what `read` has for its label, if anything, instead of what is
    simulated.
    The trace ends early where a player's would. TooWideError
    where a TSC is caught up with from halfway round the circle of 64 bits, of which the rules do not tell.
    """
    stage = Simulation(simulated_rules(policy, host), choose, begin)
    events = []
    for operation in operations:
        event = stage.next(operation, pace(operation), debugfs=debugfs)
        if event is None:
            break
        events.append(event)
        if read and operation.label in read:
            stage.read[operation.label] = read[operation.label]
        watch(Step(event, stage.world))
    return trace_of(scenario, events, host, stage.created)


def simulation(policy: Policy, host: Host, choose: Callable[[int], int]) -> "Simulation":
    """A player on which nothing was played yet; the arguments are simulate()'s."""
    return Simulation(simulated_rules(policy, host), choose)


def trace_of(scenario: str, events: Iterable[Event], host: Host, created: Bracket) -> Trace:
    """What was played on a player, whose VM was created within `created`, as a trace."""
    known = {} if host.tolerance_ppm is None else {TOLERANCE: str(host.tolerance_ppm)}
    return Trace(scenario, _RELEASE, tuple(events), host=known, created=created)


class SimulatedRules(Rules):
    """The rules at moments that are known to the cycle."""

    def snapshot(self, moment: Moment) -> Moment:
        """KVM works the clock out from the TSC that it has just read."""
        assert self.host.khz
        ns = moment.tsc.low * 1_000_000 // self.host.khz
        return Moment(moment.tsc, Interval(ns, ns))

    def request_tsc_page_update(self, world: World, *, certain: bool) -> None:
        """Of kernels that differ in when they look at the masterclock again, one that does."""
        super().request_tsc_page_update(world, certain=True)

    def setup_tsc_page(self, world: World, vcpu: Vcpu, page: Page, *, certain: bool) -> None:
        """And that then writes the page."""
        super().setup_tsc_page(world, vcpu, page, certain=True)


class _SimulatedWrittenRules(SimulatedRules, WrittenRules):
    """The same with a rule as code."""


def simulated_rules(policy: Policy, host: Host) -> SimulatedRules:
    """The rules of a policy at moments that are known to the cycle."""
    return (_SimulatedWrittenRules if policy.rule else SimulatedRules)(policy, host)


class Simulation:
    """A made-up player, operation by operation; `world` is how things stand after the last step."""

    def __init__(self, rules: Rules, choose: Callable[[int], int], begin: int | None = None) -> None:
        assert rules.host.khz is not None
        self.rules = rules
        self.choose = choose
        self.host_khz = rules.host.khz
        self.tsc = _BOOTED_NS * self.host_khz // 1_000_000 if begin is None else begin
        end = self.tsc - USUAL.pause
        event_tsc = end - USUAL.after - USUAL.between
        first = event_tsc - USUAL.before
        self.created = Bracket(first, self._ns(first), self._ns(end), end)
        ns = self._ns(event_tsc)
        self.world = rules.new_vm(Moment(Interval(event_tsc, event_tsc), Interval(ns, ns)))
        # The VM's clock counts from its creation.
        self.world.kvmclock_offset = Quantity(-ns)
        self.here = 0
        self.read: dict[str, tuple[int, ...]] = {}
        self.khz: dict[int, int] = {}
        self.created_khz: dict[int, int] = {}
        self.tsc_page = (0, 0)  # scale and offset of the TSC page that was read last
        self.step = 0

    def fork(self) -> "Simulation":
        """The same again, to go another way."""
        other = copy.copy(self)
        other.world = self.world.fork()
        other.read, other.khz = dict(self.read), dict(self.khz)
        other.created_khz = dict(self.created_khz)
        other.tsc_page = self.tsc_page
        return other

    def next(self, operation: Operation, pace: Pace = USUAL, *, debugfs: bool = False) -> Event | None:
        """The event, with what debugfs shows after it, or None where the script cannot go on."""
        event = self.play(operation, pace)
        return replace(event, debugfs=self.debugfs(operation, event)) if event and debugfs else event

    def play(self, operation: Operation, pace: Pace) -> Event | None:
        """The event, or None where the script cannot go on."""
        if not operation.creates_vcpu and not set(operation.vcpu_numbers) <= self.khz.keys():
            return None
        try:
            written = operation.to_write(self)
        except NothingReadError:
            return None
        self.step += 1
        begin, event_tsc = self.tsc, self.tsc + pace.before
        clock = event_tsc + pace.between
        waited = operation.waits_ns * self.host_khz // 1_000_000 if pace.waited is None else pace.waited
        end = clock + pace.after + waited
        self.tsc = end + pace.pause
        bracket = Bracket(begin, self._ns(begin), self._ns(end), end)
        if operation.refused({number: vcpu.guest for number, vcpu in self.world.vcpus.items()}, CPUS):
            return Event(operation, bracket, (), "EINVAL")
        ns = self._ns(clock)
        moment = Moment(Interval(event_tsc, event_tsc), Interval(ns, ns))
        samples = self._samples(operation)
        action = Action(operation, moment, written, samples, realtime=_REALTIME_NS + ns)
        return self._finish(operation, bracket, action)

    def debugfs(self, operation: Operation, event: Event) -> tuple[DebugfsReading, ...]:
        """What debugfs shows after a step."""
        vcpus = [self.world.vcpus[number] for number in operation.vcpu_numbers]
        if any(vcpu.l2_offset is not None for vcpu in vcpus):
            return ()  # the player looks at none whose L2 is current
        at = event.bracket.tsc_after
        moment = Moment(Interval(at, at), Interval(event.bracket.ns_after, event.bracket.ns_after))
        return tuple(
            DebugfsReading(self._value(self.world, vcpu.l1_tsc_offset, moment) % 2**64, vcpu.ratio or None)
            for vcpu in vcpus
        )

    def _finish(self, operation: Operation, bracket: Bracket, action: Action) -> Event:
        self.world.begin(self.step)
        possible = perform(self.rules, self.world, action)
        outcomes = [each for each in possible if each.errors and not each.elsewhere] or possible
        outcome = outcomes[self.choose(len(outcomes))] if len(outcomes) > 1 else outcomes[0]
        self.world = outcome.world
        error = "" if "" in outcome.errors else min(outcome.errors)
        values = self._values(outcome, action) if not error else action.written
        event = Event(operation, bracket, values, error, exits=() if error else self._exits(operation))
        if not error:
            self._remember(event)
        return event

    def _exits(self, operation: Operation) -> tuple[GuestExit, ...]:
        """How the guests exit that run in it: endless ones by their deadline."""
        if not operation.enters_guest:
            return ()
        programs = [PROGRAMS[self.world.vcpus[number].guest] for number in operation.vcpu_numbers]
        return tuple(GuestExit("INTR" if each.endless else "IO") for each in programs)

    def _ns(self, tsc: int) -> int:
        return tsc * 1_000_000 // self.host_khz

    # What values stand for (script.Resolver)

    @property
    def run_delay(self) -> int:
        """How long the playing thread has waited for a CPU."""
        return self.world.run_delay

    def cpu(self, number: int) -> int:
        """The number of a CPU that a script counts."""
        return number % CPUS

    def cycles(self, vcpu: int, value: Value) -> int:
        """The cycles that a value stands for."""
        return resolve(value_to_json(value), self.khz[vcpu], self.read)

    def ns(self, value: Value) -> int:
        """The ns that a value stands for; they are counted like cycles of 1 GHz."""
        return resolve(value_to_json(value), 1_000_000, self.read)

    def vcpu_khz(self, vcpu: int, khz: Khz) -> int:
        """The kHz that a frequency stands for, of a vCPU."""
        return _khz(khz, self.created_khz[vcpu])

    def vm_khz(self, khz: Khz) -> int:
        """The kHz that a frequency stands for, of the VM."""
        return _khz(khz, self.world.default_tsc_khz or self.host_khz)

    def _samples(self, operation: Operation) -> int:
        """How many TSCs a guest reads; an endless one leaves one here."""
        if not operation.enters_guest:
            return 1
        return PROGRAMS[self.world.vcpus[operation.vcpu_numbers[0]].guest].takes or 1

    def _values(self, outcome: Outcome, action: Action) -> tuple[int, ...]:
        read = [self._value(outcome.world, answer, action.moment) % 2**64 for answer in outcome.answers]
        self._put_on_line(read, outcome, action.moment)
        operation: Operation = action.operation
        self._count_by_page(read, outcome, operation.value_names)
        return operation.recorded(action.written, read)

    def _put_on_line(self, values: list[int], outcome: Outcome, moment: Moment) -> None:
        """Has a clock be what its line makes of the host's TSC.

        The line is one that the VM's clock allows, and that clock then is what the line says of it: otherwise
        the next line would not follow from this one.
        """
        found = outcome.on_line
        tsc = found and line.host_tsc(outcome.world, found, values, moment)
        if found and tsc:
            line.follow_origin(outcome.world, found)
            at_zero = self._value(outcome.world, found.line, moment)
            clock = (at_zero + line.ns_at(tsc.low, found.khz)) % 2**64
            if found.scale is not None:
                clock = clock // found.unit - line.scaled(found.at, values[found.scale])
            values[found.clock] = clock % 2**64
            line.note_origin(outcome.world, found)

    def _count_by_page(self, values: list[int], outcome: Outcome, names: tuple[str, ...]) -> None:
        """Has a reference time that the rules do not predict be the TSC page's for the TSC read before it, as
        get_time_ref_counter() has it: that of a vCPU with a rate of its own."""
        if "hv_scale" in names and len(values) == len(names):
            self.tsc_page = values[names.index("hv_scale")], values[names.index("hv_offset")]
        scale, offset = self.tsc_page
        for place, (name, answer) in enumerate(zip(names, outcome.answers, strict=False)):
            if answer is None and name in _REFERENCE_TIMES and scale and place:
                values[place] = ((values[place - 1] * scale >> 64) + offset) % 2**64

    def _value(self, world: World, answer: Answer, moment: Moment) -> int:
        """A value as predicted; where that is an interval, one of it, which then is the one it had."""
        if answer is None:
            return 0
        if isinstance(answer, Within):
            return self._pick(answer.interval) if answer.exact is None else answer.exact
        if isinstance(answer, Flag):
            return answer.bits
        if isinstance(answer, Version | XenVersion | Guess | Stolen | StealVersion):
            return answer[-1]
        if isinstance(answer, Counted | CountedByHost | RunstateValue):
            return self._noted(world, answer, moment)
        quantity = answer.offset if isinstance(answer, Tsc | Clock) else answer
        known = bounds(quantity, world.unknowns)
        value = 0 if known is None else self._pick(known)
        if known is None or known.width:
            narrow(quantity, Interval(value, value), world.unknowns)
        if isinstance(answer, Tsc):
            tsc = moment.tsc.low
            value += tsc if answer.ratio is None else tsc * answer.ratio >> (world.fraction_bits or 0)
        return value + moment.ns.low if isinstance(answer, Clock) else value

    def _noted(self, world: World, answer: Counted | CountedByHost | RunstateValue, moment: Moment) -> int:
        """A value of which the world takes note by itself."""
        if not isinstance(answer, RunstateValue):
            return self._count(world, answer, moment)
        known = answer.bounds(world, moment)
        value = self._pick(known) if known else 0
        answer.agrees(world, value, moment)
        return value

    def _count(self, world: World, answer: Counted | CountedByHost, moment: Moment) -> int:
        """A reference time as predicted: that of the clock, rounded down."""
        if isinstance(answer, CountedByHost):
            return (self._value(world, answer.offset, moment) + moment.ns.low) // UNIT_NS
        found = answer.on_line
        line.follow_origin(world, found)
        at_zero = self._value(world, found.line, moment)
        line.note_origin(world, found)
        return (at_zero + line.ns_at(moment.tsc.low, found.khz)) % 2**64 // UNIT_NS

    def _pick(self, interval: Interval) -> int:
        return interval.high - self.choose(interval.width + 1)

    def _remember(self, event: Event) -> None:
        operation, values = event.operation, event.values
        if values:
            self.read[operation.label] = values
        if (khz := operation.new_khz(values)) is not None:
            (number,) = operation.vcpu_numbers
            self.khz[number] = khz or self.host_khz
            if operation.creates_vcpu:
                self.created_khz[number] = khz
        if (cpu := event.value("cpu_after")) is not None:
            self.here = cpu


def _khz(khz: int | Ppm, base: int) -> int:
    return base * (1_000_000 + khz.ppm) // 1_000_000 if isinstance(khz, Ppm) else khz
