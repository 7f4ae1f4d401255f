# SPDX-License-Identifier: GPL-2.0-or-later
"""What userspace is entitled to by what a script does, whoever wrote it.

No author says which steps have to agree: the rules find that out by themselves, from what was written to
whom, and when. They speak of vCPUs at the host's rate, on a host whose TSC is stable; of others they say
nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kvmharness.contract.entitled_line import Lines
from kvmharness.contract.finding import Claim, Finding
from kvmharness.contract.offset import read_offsets
from kvmharness.contract.promptly import TOGETHER_NS
from kvmharness.model.arithmetic import duration
from kvmharness.model.interval import Interval, TooWideError, signed
from kvmharness.model.outcome import UNKNOWN
from kvmharness.script import TSC_STABLE
from kvmharness.trace import Event, Trace

# Each with what it says.
ENTITLEMENTS = {
    "unwritten": "a TSC that nobody writes counts on",
    "timeline": "a vCPU whose VM was given one timeline counts on that timeline",
    "together": "vCPUs that were given one timeline count together",
    "new-vcpu": "a new vCPU counts together with the others, if these count together",
    "stable": "the clock is called stable once all vCPUs that count together have run",
    "not-stable": "the clock is not called stable while vCPUs count apart",
    "khz": "KVM_GET_TSC_KHZ answers what was set",
    "adjust": "TSC_ADJUST reads what was written",
    "attribute": "the offset attribute reads what was set",
    "line": "the kvmclock stays the same function of a vCPU's TSC",
}

# How far apart the TSCs of one timeline may be, for having been saved one after the other (QEMU's: 194 us).
_SKEW_NS = 500_000
_NO_ERRNO_KHZ = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitledClaim(Claim):
    """What `rule` (one of ENTITLEMENTS) says of the whole script."""

    rule: str

    def check(self, trace: Trace) -> Finding:
        """Check that the trace keeps the rule."""
        for breach in breaches(trace):
            if breach.rule == self.rule:
                return self.broken(breach.reason, breach.step)
        for number, event in enumerate(trace.events, 1):
            if event.error and (event.error not in UNKNOWN or event.operation.creates_vcpu):
                return self.undecided(f"step {number} failed with {event.error}", number)
        return self.kept()


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that a trace breaks: at which step (from 1), of which vCPU (None: of the VM), and how."""

    rule: str
    step: int
    vcpu: int | None
    reason: str


def breaches(trace: Trace, *, generous: bool = False) -> list[Breach]:
    """Where a trace breaks rules, each rule once for each vCPU.

    `generous` also where it breaks them by less than they tolerate, or would if steps were a little closer:
    what a trace breaks narrowly, another of the same script may keep.
    """
    reader, found = _Reader(generous), dict[tuple[str, int | None], Breach]()
    for step, event in enumerate(trace.events, 1):
        try:
            for breach in reader.take(step, event):
                found.setdefault((breach.rule, breach.vcpu), breach)
        except TooWideError:
            break
    return list(found.values())


@dataclass(slots=True)
class _Written:
    """A TSC that was written from outside the guest: the offset it stands for, and when (ns)."""

    offset: Interval
    begin: int
    end: int


@dataclass(slots=True)
class _Vcpu:
    """What is known of a vCPU: its offset since it was last set, what was written, whether it ran since any
    vCPU was set; its TSC_ADJUST and kHz as answered or set."""

    at_host_rate: bool = True
    offset: Interval | None = None
    written: _Written | None = None
    due: Interval | None = None
    ran: bool = False
    adjust: int | None = None
    khz: int | None = None


class _Reader:
    def __init__(self, generous: bool) -> None:
        # What is one timeline, how soon its writes follow each other, and how far off it a TSC may be.
        self._skew_ns = 2 * _SKEW_NS if generous else _SKEW_NS
        self._together_ns = 2 * TOGETHER_NS if generous else TOGETHER_NS
        self._tolerated_ns = 0 if generous else _SKEW_NS
        self._vcpus: dict[int, _Vcpu] = {}
        self._khz = 0
        self._vm_rate_set = False
        self._old_clock = False
        self._host_clock_left = False
        self._lines = Lines()

    def take(self, step: int, event: Event) -> Iterator[Breach]:
        """Take a step."""
        operation = event.operation
        if operation.creates_vcpu and not event.error:
            self._create(event)
        elif operation.new_khz(event.values or (0,)) is not None and not operation.creates_vcpu:
            self._set_khz(event)
        if not operation.vcpu_numbers and operation.value_names == ("khz",):
            self._vm_rate_set = True
        if "SYSTEM_TIME_OLD" in (*operation.value_names, getattr(operation, "msr", "")):
            self._old_clock = True
        self._host_clock_left = self._host_clock_left or operation.host_clock_on_tsc is False
        known = [number for number in operation.vcpu_numbers if number in self._vcpus]
        sets = _sets_tsc(event)
        for place, number in enumerate(operation.vcpu_numbers):
            if number in self._vcpus:
                yield from self._offset(step, event, place, sets=sets)
        if sets and known:
            for vcpu in self._vcpus.values():
                vcpu.ran = False
        if operation.enters_guest and event.values and not event.error:
            for number in known:
                self._vcpus[number].ran = not sets
        yield from self._timeline(step)
        yield from self._clock(step, event)
        yield from self._answers(step, event)
        for number, said in self._lines.take(event):
            if self._vcpus[number].at_host_rate:
                yield Breach("line", step, number, said)

    def _create(self, event: Event) -> None:
        (number,) = event.operation.vcpu_numbers
        khz = event.values[0] if event.values else 0
        self._khz = self._khz or khz
        others = list(self._vcpus.values())
        made = self._vcpus[number] = _Vcpu(at_host_rate=khz == self._khz and not self._vm_rate_set, khz=khz)
        offsets = [each.offset for each in others]
        exact = {each.low for each in offsets if each and not each.width}
        if others and len(exact) == 1 and all(offsets) and self._at_host_rate():
            made.due = offsets[0] if made.at_host_rate else None

    def _set_khz(self, event: Event) -> None:
        for number in event.operation.vcpu_numbers:
            vcpu = self._vcpus.get(number)
            if vcpu is not None:
                if not event.error and event.values and event.values[0] == vcpu.khz and vcpu.at_host_rate:
                    continue  # as QEMU does it before each write: nothing changes
                vcpu.at_host_rate, vcpu.due, vcpu.khz = False, None, None
                if not event.error and event.values and 0 < event.values[0] < _NO_ERRNO_KHZ:
                    vcpu.khz = event.values[0]

    def _at_host_rate(self) -> bool:
        return all(each.at_host_rate for each in self._vcpus.values())

    def _offset(self, step: int, event: Event, place: int, *, sets: bool) -> Iterator[Breach]:
        """What a step sets or shows of a vCPU's offset."""
        number = event.operation.vcpu_numbers[place]
        vcpu = self._vcpus[number]
        seen = _seen(event, place)
        if sets:
            created = event.operation.creates_vcpu
            vcpu.written = _written(event, place)
            vcpu.due, vcpu.offset = (vcpu.due if created else None), seen
        if not vcpu.at_host_rate or seen is None:
            return
        if vcpu.due is not None:
            if vcpu.due.gap(seen):
                why = f"the others' offset is {vcpu.due.low}"
                yield self._breach("new-vcpu", step, number, why, (seen, vcpu.due))
            vcpu.due = None
        if vcpu.offset is not None and not sets:
            both = vcpu.offset.intersection(seen)
            if both is None:
                yield self._breach("unwritten", step, number, "nobody wrote its TSC", (seen, vcpu.offset))
            seen = both or seen
        vcpu.offset = seen

    def _timeline(self, step: int) -> Iterator[Breach]:
        """Whether vCPUs are where they were put, once each was written and all to one timeline."""
        written = [each.written for each in self._vcpus.values() if each.written]
        if not written or len(written) < len(self._vcpus) or not self._at_host_rate():
            return
        if max(each.end for each in written) - min(each.begin for each in written) >= self._together_ns:
            return
        first, khz = written[0].offset, self._khz
        moved = [each.offset.near(first) for each in written]
        low, high = min(each.low for each in moved), max(each.high for each in moved)
        apart = max(each.low for each in moved) - min(each.high for each in moved)
        if apart > self._skew_ns * khz // 1_000_000:
            return
        tolerated = self._tolerated_ns * khz // 1_000_000
        line = Interval(low - tolerated, high + tolerated)
        known = {number: each.offset for number, each in self._vcpus.items() if each.offset}
        for number, offset in known.items():
            if line.gap(offset):
                why = "its VM was given another timeline"
                yield self._breach("timeline", step, number, why, (offset, line))
        numbers = list(known)
        for number in numbers[1:]:
            if known[numbers[0]].gap(known[number]):
                other = f"vCPU {numbers[0]} was given the same timeline"
                yield self._breach("together", step, number, other, (known[number], known[numbers[0]]))

    def _clock(self, step: int, event: Event) -> Iterator[Breach]:
        """Whether the clock is rightly called stable, or not stable."""
        flags = event.value("clock_flags")
        vcpus = self._vcpus.values()
        if flags is None or event.error or not vcpus or self._old_clock:
            return
        offsets = [each.offset for each in vcpus if each.offset and not each.offset.width and each.ran]
        if len(offsets) < len(vcpus) or not self._at_host_rate():
            return
        alike, stable = len({each.low for each in offsets}) == 1, bool(flags & TSC_STABLE)
        # Once the host's clock has left the TSC, KVM may take a while, or a KVM_SET_CLOCK, to trust it again.
        if alike and not stable and not self._host_clock_left:
            said = "all vCPUs have one offset and have run, and KVM_GET_CLOCK does not call the clock stable"
            yield Breach("stable", step, None, said)
        if stable and not alike:
            said = "vCPUs have different offsets and have run, and KVM_GET_CLOCK calls the clock stable"
            yield Breach("not-stable", step, None, said)

    def _answers(self, step: int, event: Event) -> Iterator[Breach]:
        """Whether an answer is what was set, or answered, before."""
        for place, number in enumerate(event.operation.vcpu_numbers):
            vcpu = self._vcpus.get(number)
            if vcpu is None:
                continue
            yield from self._khz_answer(step, event, number)
            yield from self._adjust_answer(step, event, number)
            offset = event.operation.tsc_offset(event.values)
            shown = event.debugfs[place].offset if len(event.debugfs) > place else offset
            if offset is not None and not event.error and offset != shown:
                said = f"vCPU {number}: the attribute says {signed(offset)}, debugfs {signed(shown or 0)}"
                yield Breach("attribute", step, number, said)

    def _khz_answer(self, step: int, event: Event, number: int) -> Iterator[Breach]:
        khz, vcpu, operation = event.value("khz"), self._vcpus[number], event.operation
        asks = operation.value_names == ("khz",) and operation.new_khz(event.values or (0,)) is None
        if asks and not event.error and khz is not None and vcpu.khz not in (None, khz):
            yield Breach("khz", step, number, f"vCPU {number} has {khz} kHz, not the {vcpu.khz} it was given")

    def _adjust_answer(self, step: int, event: Event, number: int) -> Iterator[Breach]:
        operation, vcpu, names = event.operation, self._vcpus[number], event.operation.value_names
        if operation.enters_guest and operation.sets_tsc:
            vcpu.adjust = None  # a guest that writes its TSC finds that there, too
        if "TSC_ADJUST" not in names or len(event.values) < len(names):
            return
        value = [each for name, each in zip(names, event.values, strict=False) if name == "TSC_ADJUST"][-1]
        if operation.sets_tsc:
            vcpu.adjust = None if event.error else value
        elif not event.error:
            if vcpu.adjust not in (None, value):
                said = f"TSC_ADJUST of vCPU {number} reads {signed(value)}, not {signed(vcpu.adjust or 0)}"
                yield Breach("adjust", step, number, said)
            vcpu.adjust = value

    def _breach(
        self, rule: str, step: int, number: int, why: str, offsets: tuple[Interval, Interval]
    ) -> Breach:
        seen, due = offsets
        gap = due.gap(seen)
        far = f"{abs(gap)} cycles ({duration(abs(gap), self._khz)}) {'ahead of' if gap > 0 else 'behind'}"
        return Breach(rule, step, number, f"the TSC of vCPU {number} is {far} what was due: {why}")


def _sets_tsc(event: Event) -> bool:
    """Whether a step gives its vCPUs a TSC, or may have done so before it failed."""
    operation = event.operation
    if not operation.sets_tsc:
        return False
    msrs = [name for name in operation.value_names if name.isupper()]
    return operation.enters_guest or not msrs or any(name.split("-")[0] == "TSC" for name in msrs)


def _seen(event: Event, place: int) -> Interval | None:
    """The offset that a vCPU has after a step: what debugfs shows, else what a TSC that was read implies."""
    if len(event.debugfs) > place:
        return Interval(*[signed(event.debugfs[place].offset)] * 2)
    readings = read_offsets(event) if event.operation.only_reads_tsc(event.values, event.error) else []
    return readings[-1] if readings else None


def _written(event: Event, place: int) -> _Written | None:
    """What was written to a vCPU, if that was one TSC other than 0 from outside the guest."""
    names, bracket = event.operation.value_names, event.bracket
    if event.error or event.operation.enters_guest or event.operation.creates_vcpu:
        return None
    wanted = "TSC" if "TSC" in names else f"TSC-{event.operation.vcpu_numbers[place]}"
    if names.count(wanted) != 1 or len(event.values) < len(names):
        return None
    value = event.values[names.index(wanted)]
    if not value:
        return None
    offset = Interval(value - bracket.tsc_after, value - bracket.tsc_before)
    return _Written(offset, bracket.ns_before, bracket.ns_after)
