# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge's findings in words: what a step saw, and what it could have seen."""

from collections.abc import Sequence

from kvmharness.model.arithmetic import duration
from kvmharness.model.interval import Interval, TooWideError, signed
from kvmharness.model.outcome import Answer, Clock, Flag, Outcome, Tsc, Version, Within
from kvmharness.model.quantity import Quantity, bounds
from kvmharness.model.state import World
from kvmharness.script import (
    PVCLOCK_GUEST_STOPPED,
    PVCLOCK_TSC_STABLE_BIT,
    TSC_STABLE,
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    Operation,
    ReadKvmclock,
    Run,
    RunTogether,
    SetMsrs,
    WriteTogether,
)
from kvmharness.trace import Event

_PAGE_FIELDS = ("version", "tsc_timestamp", "system_time", "multiplier", "shift", "flags")
_PAGE_FLAGS = {
    PVCLOCK_TSC_STABLE_BIT: "PVCLOCK_TSC_STABLE_BIT",
    PVCLOCK_GUEST_STOPPED: "PVCLOCK_GUEST_STOPPED",
}
_CLOCK_FLAGS = {TSC_STABLE: "KVM_CLOCK_TSC_STABLE"}


def what_was_seen(event: Event) -> str:
    """A step and what came of it: "read the TSC of vCPU 0: 51203111"."""
    done = describe(event.operation)
    if event.error:
        return f"{done}: {event.error}"
    values = [_value_in_words(event, place) for place in range(len(event.values))]
    said = f"{done}: {', '.join(each for each in values if each) or 'nothing'}" if values else done
    return f"{said} ({shown})" if (shown := _shown(event)) else said


def what_was_possible(failed: Sequence[Outcome], event: Event) -> str:
    """What the worlds that were thrown out had predicted, each with the reason it had."""
    said: list[str] = []
    # A world in which the step ends otherwise is worth a word only if there is no other.
    nearer = [each for each in failed if ends_so(each, event)]
    for outcome in nearer or failed:
        try:
            text = _prediction(outcome, event)
        except TooWideError:
            text = "something that is known too little to be told"
        if text not in said:
            said.append(text)
    return "; or ".join(said[:4]) or "nothing"


def ends_so(outcome: Outcome, event: Event) -> bool:
    """Whether a step was to end with the error, or the success, that it ended with."""
    return event.error in outcome.errors if outcome.errors else bool(event.error)


def describe(operation: Operation) -> str:
    """An operation in words, in the imperative."""
    vcpu = getattr(operation, "vcpu", None)
    of_vcpu = "" if vcpu is None else f" of vCPU {vcpu}"
    if isinstance(operation, SetMsrs):
        return f"write {', '.join(name for name, _ in operation.msrs)}{of_vcpu}"
    if isinstance(operation, RunTogether):
        return f"run vCPUs {', '.join(map(str, operation.vcpus))} at once"
    if isinstance(operation, WriteTogether):
        return f"write TSC of vCPUs {', '.join(map(str, operation.vcpus))} at once"
    if isinstance(operation, GetMsrs):
        return f"read {', '.join(operation.indices)}{of_vcpu}"
    return _WORDS.get(operation.name, operation.name) + of_vcpu


_WORDS = {
    "create_vcpu": "creation",
    "set_tsc_offset": "set the TSC offset",
    "get_tsc_offset": "read the TSC offset",
    "run": "run the guest",
    "get_clock": "KVM_GET_CLOCK",
    "set_clock": "KVM_SET_CLOCK",
    "kvmclock_ctrl": "KVM_KVMCLOCK_CTRL",
    "read_kvmclock": "read the kvmclock page",
    "sleep": "wait",
    "set_tsc_khz": "KVM_SET_TSC_KHZ",
    "get_tsc_khz": "KVM_GET_TSC_KHZ",
    "set_vm_tsc_khz": "KVM_SET_TSC_KHZ of the VM",
    "move_thread": "move the thread",
    "guest_write": "let the guest execute WRMSR",
}


def _shown(event: Event) -> str:
    """What debugfs showed behind the step, if it did."""
    words = [f"an offset of {signed(each.offset)}" for each in event.windows]
    words += [f"a ratio of {each.ratio}" for each in event.windows if each.ratio is not None]
    return f"debugfs then shows {', '.join(words)}" if words else ""


def _value_in_words(event: Event, place: int) -> str:
    value, operation = event.values[place], event.operation
    if isinstance(operation, GetTscOffset):
        return str(signed(value))
    if isinstance(operation, GetClock):
        return f"flags {value:#x}" if place == 1 else f"{value} ns" if place == 0 else ""
    if isinstance(operation, ReadKvmclock):
        return f"{_PAGE_FIELDS[place]} {value:#x}" if place in (0, 5) else f"{_PAGE_FIELDS[place]} {value}"
    if isinstance(operation, Run):
        return str(value) if place in (0, len(event.values) - 1) else ""
    return str(value)


def _prediction(outcome: Outcome, event: Event) -> str:
    world = outcome.world
    vcpu = world.vcpus.get(getattr(event.operation, "vcpu", -1))
    because = f", as of step {vcpu.story.step} {vcpu.story.text}" if vcpu and vcpu.story.step else ""
    if not ends_so(outcome, event):
        return (
            f"it ends with {' or '.join(sorted(each or 'success' for each in outcome.errors)) or 'an error'}"
        )
    if isinstance(event.operation, CreateVcpu | GetTscKhz):
        (answer,) = outcome.answers
        low, high = (answer.interval.low, answer.interval.high) if isinstance(answer, Within) else (0, 0)
        return f"{f'{low} to {high}' if high else getattr(answer, 'constant', 'another')} kHz"
    khz = vcpu.virtual_tsc_khz if vcpu else 0
    for answer, value in zip(outcome.answers, event.values, strict=False):
        words = _of_the_clock(world, answer, value, event)
        if words:
            return words
        predicted = _predicted(world, answer, event)
        if predicted is not None and predicted.gap(Interval(value, value)):
            return f"{_range(predicted, event)} ({_distance(predicted, value, khz)}{because})"
    return _of_the_windows(world, event) or "something else: its values do not go together"


def _of_the_windows(world: World, event: Event) -> str:
    """What debugfs had to show, if it showed something else."""
    for number, window in zip(event.operation.vcpu_numbers, event.windows, strict=False):
        vcpu = world.vcpus[number]
        offset = bounds(vcpu.l1_tsc_offset, world.unknowns)
        if offset and offset.gap(Interval(window.offset, window.offset)):
            distance = _distance(offset, window.offset, vcpu.virtual_tsc_khz)
            because = f", as of step {vcpu.story.step} {vcpu.story.text}" if vcpu.story.step else ""
            low = signed(offset.low)
            known = f"from {low} to {low + offset.width}" if offset.width else f"of {low}"
            return f"an offset {known} of vCPU {number} ({distance}{because})"
        if window.ratio is not None and vcpu.ratio and window.ratio != vcpu.ratio:
            return f"a ratio of {vcpu.ratio}, give or take {vcpu.ratio_slack}, of vCPU {number}"
    return ""


def _of_the_clock(world: World, answer: Answer, value: int, event: Event) -> str:
    """What was predicted of the clock or a kvmclock page, if that was something else."""
    if isinstance(answer, Flag) and value & answer.mask != answer.bits:
        return _flags(answer, value, event) + _matched(world)
    if isinstance(answer, Version) and (value % 2 or value < answer.least):
        return f"an even version from {answer.least} up"
    if isinstance(answer, Clock):
        time = _predicted(world, answer, event)
        if time and time.gap(Interval(value, value)):
            return f"from {time.low % 2**64} to {time.high % 2**64} ns"
    return ""


def _flags(answer: Flag, value: int, event: Event) -> str:
    names = _PAGE_FLAGS if isinstance(event.operation, ReadKvmclock) else _CLOCK_FLAGS
    wrong = {bit: name for bit, name in names.items() if (value ^ answer.bits) & answer.mask & bit}
    return " and ".join(f"{name} is {'set' if answer.bits & bit else 'clear'}" for bit, name in wrong.items())


def _matched(world: World) -> str:
    return f" ({world.nr_vcpus_matched_tsc} of {len(world.vcpus)} vCPUs matched with the generation's first)"


def _predicted(world: World, answer: Answer, event: Event) -> Interval | None:
    """Where a value had to be; None where nothing is predicted."""
    if isinstance(answer, Within):
        return answer.interval
    if isinstance(answer, Quantity):
        return bounds(answer, world.unknowns)
    if isinstance(answer, Clock):
        offset, bracket = bounds(answer.offset, world.unknowns), event.bracket
        low, high = bracket.ns_before - answer.drift, bracket.ns_after + answer.drift
        return offset and Interval(low + offset.low, high + offset.high)
    if not isinstance(answer, Tsc):
        return None
    offset = bounds(answer.offset, world.unknowns)
    if offset is None:
        return None
    low, high = event.bracket.tsc_before, event.bracket.tsc_after
    if answer.ratio is not None:
        bits = world.fraction_bits or 0
        low, high = low * answer.ratio >> bits, high * answer.ratio >> bits
    return Interval(low + offset.low, high + offset.high)


def _range(predicted: Interval, event: Event) -> str:
    low = signed(predicted.low) if isinstance(event.operation, GetTscOffset) else predicted.low % 2**64
    return f"from {low} to {low + predicted.width}" if predicted.width else str(low)


def _distance(predicted: Interval, value: int, khz: int) -> str:
    gap = predicted.gap(Interval(value, value))
    time = duration(gap, khz)
    return f"{abs(gap)} cycles{f', {time},' if time else ''} {'below' if gap > 0 else 'above'} what was seen"
