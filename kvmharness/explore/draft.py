# SPDX-License-Identifier: GPL-2.0-or-later
"""A script in the making: the model plays each step at once, so that the next can be chosen by what is
decided there and then."""

import random
from dataclasses import dataclass, replace
from itertools import pairwise

from kvmharness.explore.coverage import Feature, History, features, situation
from kvmharness.model.interval import signed
from kvmharness.model.policy import Policy
from kvmharness.model.quantity import bounds
from kvmharness.model.simulate import HOST, UNPREDICTABLE, Pace, Simulation, simulated_rules
from kvmharness.model.state import Host, Vcpu, World
from kvmharness.script import Operation, Read, Script, Time, Value
from kvmharness.trace import Event

MS = 1_000_000
SECOND = 1_000_000_000

_USUAL = Pace()
# How many scripts change the host's clocksource.
_LEAVES_TSC = 0.04


@dataclass(frozen=True, slots=True)
class Ground:
    """What scripts are made for: the expected policy, the machine, how long a step takes there, how long a
    script may wait at a time (ns), how many CPUs there are, the machine's TSC when a script begins (None: of
    one that was booted an hour ago), whether the host's own clock may leave the TSC, and the lowest rate of
    a vCPU's TSC (kHz)."""

    policy: Policy
    host: Host = HOST
    pace: Pace = _USUAL
    most_wait_ns: int = 100 * SECOND
    cpus: int = 1
    begin: int | None = None
    may_leave_tsc: bool = False
    least_khz: int = 0


def known(host: Host) -> Host:
    """A host of which the model can play: what is not known of it is as on most machines."""
    rate = host.khz or HOST.khz
    return Host(
        khz=rate,
        khz_exact=True,
        stable=host.stable,
        tsc_clocksource=bool(host.tsc_clocksource) and host.stable,
        has_attribute=host.has_attribute is not False,
        fraction_bits=48 if host.fraction_bits is None else host.fraction_bits,
        refuses_khz=bool(host.refuses_khz),
        knows_realtime=host.knows_realtime is not False,
        tolerance_ppm=host.tolerance_ppm,
        has_scale=bool(host.has_scale),
        has_clock_guest=bool(host.has_clock_guest),
        has_hyperv=host.has_hyperv is not False,
        has_xen=host.has_xen is not False,
        has_steal_time=host.has_steal_time is not False,
        has_nested=host.has_nested is not False,
        has_l2_scaling=host.has_l2_scaling is not False,
        keeps_runstate=host.keeps_runstate is not False,
        keeps_tsc_page=host.keeps_tsc_page is not False,
    )


class Draft:
    """A script, the state that the model says it leads to, and what of the model it reached."""

    def __init__(self, ground: Ground, chance: random.Random) -> None:
        self.ground = ground
        self.chance = chance
        self.operations: list[Operation] = []
        self.features: list[Feature] = []
        self.guests: dict[int, str] = {}
        self.tscs: list[str] = []  # labels of steps whose first value is a TSC
        self.offsets: list[str] = []  # of steps whose first value is an offset
        self.clocks: list[str] = []
        self.functions: list[str] = []  # of steps that read the clock as a function of a TSC
        # Whether the host's own clock leaves the TSC in it; such a script is played by itself.
        self.leaves_tsc = ground.may_leave_tsc and chance.random() < _LEAVES_TSC
        self.is_over = False  # the model can say nothing of what comes next
        rules = simulated_rules(ground.policy, known(ground.host))
        self._simulation = Simulation(rules, lambda count: 0, ground.begin)
        self._history = History()
        self._labels: set[str] = set()
        self._made = 0

    @property
    def script(self) -> Script:
        """What there is of it."""
        return tuple(self.operations)

    @property
    def world(self) -> World:
        """How things stand."""
        return self._simulation.world

    @property
    def vcpus(self) -> list[int]:
        """The vCPUs there are, in the order of their creation."""
        return list(self.guests)

    def vcpu(self, number: int) -> Vcpu:
        """What the model says of a vCPU."""
        return self.world.vcpus[number]

    def label(self, what: str) -> str:
        """A label that no step has."""
        while True:
            self._made += 1
            label = f"{what}-{self._made}"
            if label not in self._labels:
                return label

    def add(self, operation: Operation) -> Event | None:
        """Take a step; what the model makes of it, or None if that step cannot be taken."""
        if self.is_over:
            return None
        numbers = operation.vcpu_numbers
        before = situation(self.world, numbers[0] if numbers else None, self.now_ns)
        try:
            event = self._simulation.play(operation, self.ground.pace)
        except UNPREDICTABLE:
            self.is_over = True
            return None
        if event is None:
            return None
        if any(0 < each.virtual_tsc_khz < self.ground.least_khz for each in self.world.vcpus.values()):
            self.is_over = True
            return None
        self.operations.append(operation)
        self._labels.add(operation.label)
        self.features += features(before, event, self.world, self._history)
        if not event.error:
            self._note(operation, event)
        return event

    def _note(self, operation: Operation, event: Event) -> None:
        if operation.creates_vcpu:
            self.guests[operation.vcpu_numbers[0]] = operation.new_guest
        elif not event.values or not operation.label:
            return
        names = operation.value_names
        if names[:1] == ("TSC",) or operation.by_guest:
            self.tscs.append(operation.label)
        elif names[:1] == ("offset",):
            self.offsets.append(operation.label)
        elif names[:1] == ("clock",) and len(event.values) > 1:
            self.clocks.append(operation.label)
        elif names[:1] == ("page_version",):
            self.functions.append(operation.label)

    # What values stand for

    @property
    def now_ns(self) -> int:
        """The simulated machine's raw clock, at the next step's event."""
        tsc = self._simulation.tsc + self.ground.pace.before
        return tsc * 1_000_000 // self._simulation.host_khz

    def tsc(self, number: int) -> int | None:
        """The TSC that a vCPU has now, modulo 2**64; None if the model does not say."""
        vcpu, tsc = self.vcpu(number), self._simulation.tsc + self.ground.pace.before
        offset = bounds(vcpu.l1_tsc_offset, self.world.unknowns)
        if offset is None:
            return None
        scaled = tsc * vcpu.ratio >> (self.world.fraction_bits or 0) if vcpu.ratio else tsc
        return (offset.low + scaled) % 2**64

    def expressed(self, target: int, number: int) -> Value:
        """A value that stands for about `target` cycles of a vCPU when it is written next.

        As what an earlier step read and a time, where there is one: then it stands for that also on a real
        machine, whose clock was elsewhere.
        """
        khz = self.vcpu(number).virtual_tsc_khz
        labels = [each for each in self.tscs[-6:] if self._simulation.read.get(each)]
        if khz and labels and self.chance.random() < 0.8:
            label = self.chance.choice(labels)
            return Read(label, Time(_ns(signed(target - self._simulation.read[label][0]), khz)))
        if khz and abs(signed(target)) < 2**62:
            return Time(_ns(signed(target), khz))
        return target % 2**64


def _ns(cycles: int, khz: int) -> int:
    ns = cycles * 1_000_000 // khz
    return max(-(2**63), min(2**63, ns))


def paced(ground: Ground, events: tuple[Event, ...]) -> Ground:
    """The ground, where a step takes as long as the median of these, and scripts begin when these did."""
    widths = sorted(each.bracket.width for each in events if not each.operation.waits_ns)
    gaps = sorted(
        max(0, after.bracket.tsc_before - before.bracket.tsc_after) for before, after in pairwise(events)
    )
    if not widths or not gaps:
        return ground
    width, gap = widths[len(widths) // 2], gaps[len(gaps) // 2]
    pace = Pace(width // 2, 0, width - width // 2, gap)
    return replace(ground, pace=pace, begin=events[0].bracket.tsc_before)
