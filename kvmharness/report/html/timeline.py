# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the TSC of each vCPU went in a trace, over the host's time, and where policies would have taken it.

Times are in ns since the first step, TSCs in ns of the host's rate: a TSC that counts like the host's rises
by one in one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from kvmharness.model.interval import signed
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import HOST, UNPREDICTABLE, Pace, simulate
from kvmharness.model.state import Host
from kvmharness.script import Operation
from kvmharness.trace import Event, Trace

# How far from what KVM expects a written TSC may be for KVM to take it as a request to synchronize.
SECOND_NS = 10**9
# How far two TSCs may be apart that are drawn as one.
_SAME_NS = 2_000


@dataclass(frozen=True, slots=True)
class TscLine:
    """The TSC of a vCPU: points (host ns, guest ns), with two at a moment at which it jumps."""

    vcpu: int
    points: tuple[tuple[float, float], ...]

    def at(self, moment: float) -> float | None:
        """The TSC at a moment, after a jump that is there; None before the vCPU was created."""
        last_x, last_y = self.points[-1]
        found = last_y + moment - last_x if moment >= last_x else None
        for (x, y), (next_x, next_y) in zip(self.points, self.points[1:], strict=False):
            if x <= moment <= next_x and next_x > x:
                found = y + (next_y - y) * (moment - x) / (next_x - x)
        return found


@dataclass(frozen=True, slots=True)
class Write:
    """A TSC that userspace wrote at step `step`, and what KVM expected there of the last write (None: nothing
    was written before)."""

    step: int
    vcpu: int
    moment: float
    value: float
    expected: float | None

    @property
    def is_within_second(self) -> bool:
        """Whether KVM may take it as a request to synchronize."""
        return self.expected is not None and abs(self.value - self.expected) < SECOND_NS


@dataclass(frozen=True, slots=True)
class Timeline:
    """A trace: a line for each vCPU, what was written, and the moment at which each step ended.

    A step took up to `step_ns`: no line is known better than that.
    """

    lines: tuple[TscLine, ...]
    writes: tuple[Write, ...]
    moments: tuple[float, ...]
    step_ns: float

    def line(self, vcpu: int) -> TscLine | None:
        """The line of a vCPU, where anything is known of it."""
        return next((each for each in self.lines if each.vcpu == vcpu), None)

    def is_like(self, other: "Timeline") -> bool:
        """Whether the other's lines are where these are, as far as one can see."""
        within = _SAME_NS + max(self.step_ns, other.step_ns)
        return all(
            _near(line.at(moment), same.at(moment) if (same := other.line(line.vcpu)) else None, within)
            for line in self.lines
            for moment in self.moments
        )


@dataclass(frozen=True, slots=True)
class Predicted:
    """Policies under which the TSCs go the same way, and which way."""

    policies: tuple[str, ...]
    timeline: Timeline


def _near(one: float | None, other: float | None, within: float) -> bool:
    return one is None or other is None or abs(one - other) <= within


def of(trace: Trace, host: Host) -> Timeline:
    """The timeline of a trace; `host` is what is known of the machine."""
    khz = _khz(trace, host)
    start = trace.events[0].bracket.tsc_before if trace.events else 0
    reader = _Reader(host.fraction_bits or 0)
    for event in trace.events:
        reader.read(event)

    def ns(cycles: float) -> float:
        return cycles * 1e6 / khz

    end = trace.events[-1].bracket.tsc_after if trace.events else 0
    lines = tuple(
        TscLine(vcpu, tuple((ns(at - start), ns(tsc)) for at, tsc in _points(samples, end, reader.bits)))
        for vcpu, samples in reader.samples.items()
    )
    writes = tuple(
        Write(step, vcpu, ns(at - start), ns(value), None if expected is None else ns(expected))
        for step, vcpu, at, value, expected in _writes(trace.events)
    )
    widths = [each.bracket.width for each in trace.events if not each.operation.waits_ns]
    moments = tuple(ns(each.bracket.tsc_after - start) for each in trace.events)
    return Timeline(lines, writes, moments, ns(max(widths, default=0)))


def predicted(trace: Trace, policies: Iterable[Policy], host: Host) -> list[Predicted]:
    """Where the TSCs would have gone under each policy, had all steps come when they came in the trace."""
    khz = _khz(trace, host)
    known = {each.name: getattr(host, each.name) for each in fields(host)}
    known |= {"khz": khz, "khz_exact": True}
    machine = replace(HOST, **{name: value for name, value in known.items() if value is not None})
    found: list[Predicted] = []
    for policy in policies:
        paces = _paces(trace.events, khz)

        def pace(operation: Operation, paces: Iterator[Pace] = paces) -> Pace:
            return next(paces, Pace())

        try:
            simulated = simulate(trace.scenario, trace.script, policy, machine, pace=pace, debugfs=True)
        except UNPREDICTABLE:
            continue
        way = of(simulated, machine)
        for place, each in enumerate(found):
            if each.timeline.is_like(way):
                found[place] = replace(each, policies=(*each.policies, policy.name))
                break
        else:
            found.append(Predicted((policy.name,), way))
    return found


def _khz(trace: Trace, host: Host) -> int:
    """The host's rate, by its two clocks where nothing else is known."""
    if host.khz:
        return host.khz
    first, last = trace.events[0].bracket, trace.events[-1].bracket
    ns = last.ns_after - first.ns_before
    return max(1, (last.tsc_after - first.tsc_before) * 1_000_000 // ns) if ns > 0 else 1_000_000


def _paces(events: Sequence[Event], khz: int) -> Iterator[Pace]:
    """How long each step took, and how long it was until the next one."""
    for event, after in zip(events, [*events[1:], None], strict=True):
        width = event.bracket.width
        waits = event.operation.waits_ns * khz // 1_000_000
        before = 0 if waits else width // 2
        pause = after.bracket.tsc_before - event.bracket.tsc_after if after else 0
        yield Pace(before, 0, max(0, width - before - waits), max(0, pause))


def _middle(event: Event) -> int:
    return (event.bracket.tsc_before + event.bracket.tsc_after) // 2


class _Reader:
    """Reads of each vCPU when its TSC became which function of the host's: (host TSC, offset, ratio)."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.samples: dict[int, list[tuple[int, int, int | None]]] = {}
        self._set_at: dict[int, int] = {}
        # A vCPU is created at a TSC of 0 at some moment within the step: how far off its offset may be.
        self._guessed: dict[int, int] = {}

    def read(self, event: Event) -> None:
        """Take note of what a step shows."""
        operation, at = event.operation, _middle(event)
        for place, vcpu in enumerate(operation.vcpu_numbers):
            if operation.sets_tsc:
                self._set_at[vcpu] = at
            if event.debugfs:
                self._note(vcpu, at, event.debugfs[place].offset, event.debugfs[place].ratio)
            elif (offset := operation.tsc_offset(event.values)) is not None and not event.error:
                self._note(vcpu, at, offset, None)
            elif operation.creates_vcpu and not event.error:
                self._note(vcpu, at, -at, None)
                self._guessed[vcpu] = event.bracket.width
            elif (tsc := _tsc_read(event)) is not None and len(operation.vcpu_numbers) == 1:
                self._note_read(vcpu, event, tsc)

    def _note_read(self, vcpu: int, event: Event, tsc: int) -> None:
        """A TSC that was read: another offset only where the one known does not explain it."""
        samples = self.samples.get(vcpu)
        if samples:
            _at, offset, ratio = samples[-1]
            expected = _tsc(event.bracket.tsc_after, offset, ratio, self.bits)
            if abs(signed(tsc - expected)) <= 2 * event.bracket.width:
                return
        self._note(vcpu, _middle(event), tsc - _middle(event), None)

    def _note(self, vcpu: int, at: int, offset: int, ratio: int | None) -> None:
        samples = self.samples.setdefault(vcpu, [])
        offset = signed(offset % 2**64)
        if len(samples) == 1 and vcpu in self._guessed and abs(offset - samples[0][1]) <= self._guessed[vcpu]:
            samples[0] = (samples[0][0], offset, ratio)
        if not samples or samples[-1][1:] != (offset, ratio):
            samples.append((self._set_at.get(vcpu, at), offset, ratio))
        self._set_at.pop(vcpu, None)


def _tsc_read(event: Event) -> int | None:
    if event.error or not (event.operation.by_guest or event.operation.only_reads_tsc(event.values, "")):
        return None
    return event.guest_tsc


def _tsc(host_tsc: int, offset: int, ratio: int | None, bits: int) -> int:
    scaled = host_tsc * ratio >> bits if ratio and bits else host_tsc
    return signed((scaled + offset) % 2**64)


def _points(samples: Sequence[tuple[int, int, int | None]], end: int, bits: int) -> Iterator[tuple[int, int]]:
    """Points of the host's TSC and the guest's: of each stretch its ends."""
    for sample, after in zip(samples, [*samples[1:], None], strict=True):
        at, offset, ratio = sample
        yield at, _tsc(at, offset, ratio, bits)
        until = after[0] if after else end
        yield until, _tsc(until, offset, ratio, bits)


def _writes(events: Sequence[Event]) -> Iterator[tuple[int, int, int, int, int | None]]:
    """Each TSC that userspace wrote: step, vCPU, the host's TSC, the value, and what KVM expected there."""
    last: tuple[int, int] | None = None
    for step, event in enumerate(events, 1):
        operation, at = event.operation, _middle(event)
        if not operation.sets_tsc or event.error:
            continue
        (vcpu, *others) = operation.vcpu_numbers
        value, offset = event.guest_tsc, operation.tsc_offset(event.values)
        if offset is not None:
            value = at + offset
        if value is None or operation.by_guest:
            continue
        expected = last[0] + at - last[1] if last and offset is None else None
        if not operation.creates_vcpu and not others:
            yield step, vcpu, at, signed(value % 2**64), expected
        last = signed(value % 2**64), at
