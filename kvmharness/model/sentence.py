# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge's findings in words: what was observed at a step, and what a policy allows there."""

from collections.abc import Sequence

from kvmharness.model import line
from kvmharness.model.arithmetic import duration
from kvmharness.model.interval import Interval, TooWideError, signed
from kvmharness.model.mismatch import Allowed, Mismatch
from kvmharness.model.outcome import Answer, Clock, Flag, Outcome, Version, XenVersion
from kvmharness.model.quantity import bounds
from kvmharness.model.reference_time import UNIT_NS, Counted, CountedByHost
from kvmharness.model.runstate import STATE, RunstateValue
from kvmharness.model.state import Moment, Vcpu, World
from kvmharness.model.steal import StealVersion, Stolen
from kvmharness.script import PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE_BIT, RUNSTATES, TSC_STABLE
from kvmharness.trace import Event

# What the bits of a value are called, by its name.
_FLAGS = {
    "flags": {
        PVCLOCK_TSC_STABLE_BIT: "PVCLOCK_TSC_STABLE_BIT",
        PVCLOCK_GUEST_STOPPED: "PVCLOCK_GUEST_STOPPED",
    },
    "page_flags": {PVCLOCK_TSC_STABLE_BIT: "PVCLOCK_TSC_STABLE_BIT"},
    "clock_flags": {TSC_STABLE: "KVM_CLOCK_TSC_STABLE"},
}

_GUEST_EXITS = Allowed("KVM_RUN comes back with IO, or at its deadline", rule="this guest does nothing else")


def mismatch(failed: Sequence[Outcome], event: Event) -> Mismatch:
    """What was observed at a step, and what the worlds that it contradicts had predicted."""
    if event.death:
        return Mismatch(event.operation.describe(), observed(event), (_GUEST_EXITS,))
    # A world in which the step ends in another way is worth a word only if there is no other.
    nearer = [each for each in failed if ends_so(each, event)]
    allowed: list[Allowed] = []
    for outcome in nearer or failed:
        try:
            one = _prediction(outcome, event)
        except TooWideError:
            one = Allowed("a value in a range too wide to print")
        if one not in allowed:
            allowed.append(one)
    return Mismatch(event.operation.describe(), observed(event), tuple(allowed[:4]))


def observed(event: Event) -> str:
    """What was read or written at a step, and what debugfs showed after it; or the error."""
    if event.error:
        return event.error
    if event.death:
        return event.end
    return ", ".join([*event.operation.values_in_words(event.values), *_shown(event)]) or "success"


def ends_so(outcome: Outcome, event: Event) -> bool:
    """Whether a step was to end with the error, or the success, that it ended with."""
    return event.error in outcome.errors if outcome.errors else bool(event.error)


def _shown(event: Event) -> list[str]:
    """What debugfs showed after the step, if it did."""
    shown = [f"offset {signed(each.offset)} (debugfs)" for each in event.debugfs]
    return shown + [f"ratio {each.ratio} (debugfs)" for each in event.debugfs if each.ratio is not None]


def _prediction(outcome: Outcome, event: Event) -> Allowed:
    if not ends_so(outcome, event):
        return Allowed(" or ".join(sorted(each or "success" for each in outcome.errors)) or "an error")
    world, operation = outcome.world, event.operation
    vcpu = world.vcpus.get(operation.vcpu_numbers[0]) if len(operation.vcpu_numbers) == 1 else None
    khz = vcpu.virtual_tsc_khz if vcpu else 0
    names = operation.value_names or ("",) * len(event.values)
    for place, (name, answer, value) in enumerate(zip(names, outcome.answers, event.values, strict=False)):
        words = _of_the_clock(world, name, answer, value, event) or _of_steal_time(answer, value)
        words = words or _of_runstate(world, answer, value, event)
        if words:
            return words
        predicted = _predicted(world, answer, event)
        if predicted is not None and predicted.gap(Interval(value, value)):
            text = operation.form(place).format(_range(predicted, name))
            return Allowed(text, _difference(predicted, value, khz), *_story(vcpu))
    return (
        _of_the_line(outcome, event)
        or _of_debugfs(world, event)
        or Allowed("other values: these do not fit together")
    )


def _of_the_line(outcome: Outcome, event: Event) -> Allowed | None:
    """What a clock should have been at its TSC, if it was something else."""
    found = outcome.on_line
    if found is None:
        return None
    gap = line.off_by(outcome.world, found, event.values, _moment(event))
    if not gap:
        return None
    off = gap // found.unit
    time = event.operation.form(found.clock).format((event.values[found.clock] - off) % 2**64)
    because = "the masterclock, and all that was read of it, tell a clock for each of the host's TSCs"
    return Allowed(time, f"{abs(gap)} ns {'lower' if gap > 0 else 'higher'} than observed", because)


def _story(vcpu: Vcpu | None) -> tuple[str, int]:
    """The rule by which a vCPU has the offset that it has, and the step where it applied."""
    return (vcpu.story.text, vcpu.story.step) if vcpu else ("", 0)


def _of_debugfs(world: World, event: Event) -> Allowed | None:
    """What debugfs should have shown, if it showed something else."""
    numbers = event.operation.vcpu_numbers
    for number, shown in zip(numbers, event.debugfs, strict=False):
        vcpu = world.vcpus[number]
        of_vcpu = f" of vCPU {number}" if len(numbers) > 1 else ""
        offset = bounds(vcpu.l1_tsc_offset, world.unknowns)
        if offset and offset.gap(Interval(shown.offset, shown.offset)):
            low = signed(offset.low)
            known = f"{low} to {low + offset.width}" if offset.width else f"{low}"
            difference = _difference(offset, shown.offset, vcpu.virtual_tsc_khz)
            return Allowed(f"offset {known}{of_vcpu}", difference, *_story(vcpu))
        if shown.ratio is not None and vcpu.ratio and shown.ratio != vcpu.ratio:
            return Allowed(f"ratio {vcpu.ratio} (+- {vcpu.ratio_slack}){of_vcpu}")
    return None


def _of_the_clock(world: World, name: str, answer: Answer, value: int, event: Event) -> Allowed | None:
    """What was predicted of the clock or a kvmclock page, if that was something else."""
    if isinstance(answer, Flag) and (value ^ answer.bits) & answer.mask:
        flags = _flags(name, answer, value)
        return Allowed(flags, rule=_matched(world) if "TSC_STABLE" in flags else "")
    if isinstance(answer, Version | XenVersion) and (value % 2 or value < answer.least):
        return Allowed(f"version {answer.least} or higher, and even")
    if isinstance(answer, Counted | CountedByHost):
        due = _predicted(world, answer, event)
        gap = due.gap(Interval(value, value)) if due else 0
        if due and gap:
            off = f"{abs(gap) * UNIT_NS} ns {'lower' if gap > 0 else 'higher'} than observed"
            return Allowed(f"{_range(due, name)} units of 100 ns", off)
    if isinstance(answer, Clock):
        time = _predicted(world, answer, event)
        if time and time.gap(Interval(value, value)):
            return Allowed(f"{time.low % 2**64} to {time.high % 2**64} ns")
    return None


def _of_steal_time(answer: Answer, value: int) -> Allowed | None:
    """What was predicted of a steal time, if that was something else."""
    if isinstance(answer, StealVersion) and not answer.stands and (value % 2 or value < answer.least):
        return Allowed(f"version {answer.least} or higher, and even")
    if isinstance(answer, Stolen) and not answer.least <= value <= answer.most:
        gap = Interval(answer.least, answer.most).gap(Interval(value, value))
        off = f"{abs(gap)} ns {'lower' if gap > 0 else 'higher'} than observed"
        waited = "the thread that runs the vCPU had waited that long for a CPU"
        return Allowed(f"{_range(Interval(answer.least, answer.most), '')} ns stolen", off, waited)
    return None


def _of_runstate(world: World, answer: Answer, value: int, event: Event) -> Allowed | None:
    """What was predicted of a runstate, if that was something else."""
    due = _predicted(world, answer, event) if isinstance(answer, RunstateValue) else None
    gap = due.gap(Interval(value, value)) if due else 0
    if not due or not gap or not isinstance(answer, RunstateValue):
        return None
    if answer.place == STATE:
        return Allowed(" or ".join(RUNSTATES[due.low : due.high + 1]))
    text = event.operation.form(answer.place).format(_range(due, ""))
    because = "the times add up to the VM's clock at the last entry, and a thread that waits is runnable"
    return Allowed(text, f"{abs(gap)} ns {'lower' if gap > 0 else 'higher'} than observed", because)


def _flags(name: str, answer: Flag, value: int) -> str:
    wrong = {bit: called for bit, called in _FLAGS[name].items() if (value ^ answer.bits) & answer.mask & bit}
    return " and ".join(
        f"{called} {'set' if answer.bits & bit else 'clear'}" for bit, called in wrong.items()
    )


def _matched(world: World) -> str:
    matched = world.nr_vcpus_matched_tsc
    return f"{matched} of {len(world.vcpus)} vCPUs matched with the generation's first"


def _predicted(world: World, answer: Answer, event: Event) -> Interval | None:
    """Where a value had to be; None where nothing is predicted."""
    return None if answer is None else answer.bounds(world, _moment(event))


def _moment(event: Event) -> Moment:
    bracket = event.bracket
    tsc = Interval(bracket.tsc_before, bracket.tsc_after)
    return Moment(tsc, Interval(bracket.ns_before, bracket.ns_after))


def _range(predicted: Interval, name: str) -> str:
    low = signed(predicted.low) if name == "offset" else predicted.low % 2**64
    return f"{low} to {low + predicted.width}" if predicted.width else str(low)


def _difference(predicted: Interval, value: int, khz: int) -> str:
    """How far what was predicted is from what was observed: cycles, and time where the rate is known."""
    gap = predicted.gap(Interval(value, value))
    time = duration(gap, khz)
    cycles = f"{abs(gap)} cycle{'s' if abs(gap) != 1 else ''}"
    return f"{cycles}{f' ({time})' if time else ''} {'lower' if gap > 0 else 'higher'} than observed"
