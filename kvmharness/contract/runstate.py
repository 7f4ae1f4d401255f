# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on runstates: a Xen's vCPU's times add up to the VM's clock, and each is what the vCPU did.

KVM counts a vCPU whose thread is preempted while it has the vCPU loaded as runnable until that next enters
its guest (kvm_xen_runstate_set_preempted()), and as running from then on, whatever it was. The thread's
run_delay then grows, and how long the vCPU was in either state is known no better. A WaitForCpu makes the
thread wait while no vCPU is loaded: that wait excuses nothing.
"""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding, read_nothing
from kvmharness.contract.line import in_words
from kvmharness.model.interval import signed
from kvmharness.script import RUNSTATES
from kvmharness.trace import Event, Trace

# What a vCPU is whose thread is preempted: runnable, and running once it has entered its guest again.
_OF_PREEMPTED = _RUNNING, _RUNNABLE = 0, 1


class _Steps:
    """The labelled steps of a trace; `missing` says which of those that a claim names read nothing."""

    def __init__(self, trace: Trace, labels: tuple[str, ...]) -> None:
        self.events = {event.operation.label: event for event in trace.events}
        self.numbers = {event.operation.label: number for number, event in enumerate(trace.events, 1)}
        self.missing, self.step = "", 0
        for label in labels:
            event = self.events.get(label)
            if event is None:
                self.missing = self.missing or f"step {label!r} was not reached"
            elif not event.values or event.error:
                self.missing, self.step = self.missing or read_nothing(event), self.numbers[label]

    def value(self, label: str, name: str) -> int:
        """A value that the step of this label read."""
        return self.events[label].value(name) or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunstateClaim(Claim):
    """The runstate read at each of the steps `seen` is whole: it is `state`, and its times add up.

    With the KVM_GET_CLOCKs `after` and `before`, the vCPU entered the state between the two; or, where it
    `is_first` running, was offline until then.
    """

    seen: tuple[str, ...]
    state: int = _RUNNING
    is_first: bool = False
    after: str = ""
    before: str = ""

    def check(self, trace: Trace) -> Finding:
        """Check each of the steps."""
        steps = _Steps(trace, self.labels)
        if steps.missing:
            return self.undecided(steps.missing, steps.step)
        for label in self.seen:
            finding = self._of_page(trace, steps, label) or self._of_clocks(trace, steps, label)
            if finding:
                return finding
        return self.kept()

    def _of_page(self, trace: Trace, steps: _Steps, label: str) -> Finding | None:
        """What is wrong with a page by itself."""
        number, event = steps.numbers[label], steps.events[label]
        entered, times = event.value("state_entry_time") or 0, _times(event)
        if not entered:
            return self.broken(f"step {label!r} read a runstate that KVM never wrote", number)
        gap = signed(sum(times) - entered)
        if gap:
            said = f"the times that step {label!r} read are {in_words(abs(gap))}"
            said += f" {'more' if gap > 0 else 'less'} than the clock when the state was entered"
            return self.broken(said, number, in_words(abs(gap)))
        state = event.value("runstate") or 0
        if state == self.state:
            return None
        if state == _RUNNABLE and _may_be_preempted(trace, number):
            return self.undecided(f"step {label!r}: the thread may have been preempted", number)
        called = RUNSTATES[state] if state < len(RUNSTATES) else f"in state {state}"
        return self.broken(f"step {label!r} read that the vCPU is {called}", number)

    def _of_clocks(self, trace: Trace, steps: _Steps, label: str) -> Finding | None:
        """Whether the state was entered between the two readings of the clock."""
        number = steps.numbers[label]
        entered = steps.value(label, "time_offline" if self.is_first else "state_entry_time")
        for clock, sign, side in ((self.after, 1, "before"), (self.before, -1, "after")):
            gap = signed(steps.value(clock, "clock") - entered) * sign if clock else 0
            if gap > 0 and self.is_first and _had_entered(trace, number):
                return self.undecided(
                    f"step {label!r}: the thread was preempted before the first run", number
                )
            if gap > 0:
                said = f"step {label!r} read that the state was entered {in_words(gap)} {side} the clock"
                return self.broken(f"{said} of step {clock!r}", number, in_words(gap))
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunstateGrowthClaim(Claim):
    """From the step `expected` to each of `seen` none of the times runs back, and only those of the states
    `grows` have grown."""

    seen: tuple[str, ...]
    expected: str
    grows: tuple[int, ...] = ()

    def check(self, trace: Trace) -> Finding:
        """Check each of the steps."""
        steps = _Steps(trace, self.labels)
        if steps.missing:
            return self.undecided(steps.missing, steps.step)
        first = steps.events[self.expected]
        for label in self.seen:
            last, number = steps.events[label], steps.numbers[label]
            for state, (before, after) in enumerate(zip(_times(first), _times(last), strict=True)):
                grown, name = signed(after - before), RUNSTATES[state]
                if grown == 0 or (grown > 0 and state in self.grows):
                    continue
                if (
                    grown > 0
                    and state in _OF_PREEMPTED
                    and self._may_be_preempted(trace, steps, number, state)
                ):
                    return self.undecided(f"step {label!r}: the thread may have been preempted", number)
                how = "grew by" if grown > 0 else "ran back by"
                said = f"from step {self.expected!r} to step {label!r} the time in which the vCPU was {name} "
                return self.broken(f"{said}{how} {in_words(abs(grown))}", number, in_words(abs(grown)))
        return self.kept()

    def _may_be_preempted(self, trace: Trace, steps: _Steps, number: int, state: int) -> bool:
        """Whether its thread's preemption may have had the vCPU be in that state."""
        first = steps.numbers[self.expected]
        # What was preempted before `expected` goes on being runnable.
        was_runnable = steps.value(self.expected, "runstate") == state == _RUNNABLE
        return (was_runnable and _may_be_preempted(trace, first)) or _waited_elsewhere(trace, first, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnableClaim(Claim):
    """From the step `expected` to the step `seen` the vCPU was runnable for as long as its thread had to wait
    at the steps `by`.

    The step `first` read it before the vCPU ran for what `expected` then read.
    """

    seen: str
    expected: str
    first: str
    by: tuple[str, ...] = ()

    def check(self, trace: Trace) -> Finding:
        """Check the two steps."""
        steps = _Steps(trace, self.labels)
        if steps.missing:
            return self.undecided(steps.missing, steps.step)
        waits = [
            steps.value(label, "run_delay_after") - steps.value(label, "run_delay_before")
            for label in self.by
        ]
        if 0 in waits:
            return self.undecided("nothing competed for the CPU", steps.numbers[self.seen])
        grown = signed(steps.value(self.seen, "time_runnable") - steps.value(self.expected, "time_runnable"))
        least = sum(waits)
        most = steps.value(self.seen, "run_delay") - steps.value(self.first, "run_delay")
        if least <= grown <= most:
            return self.kept()
        if most > least:
            return self.undecided("the thread also waited elsewhere", steps.numbers[self.seen])
        said = f"from step {self.expected!r} to step {self.seen!r} the vCPU was runnable for {grown} ns, "
        said += f"while its thread waited {least} ns for a CPU"
        return self.broken(said, steps.numbers[self.seen], in_words(abs(grown - least)))


def _times(event: Event) -> list[int]:
    return [event.value(f"time_{name}") or 0 for name in RUNSTATES]


def _had_entered(trace: Trace, number: int) -> bool:
    """Whether the vCPU of the step `number` had entered a state when its runstate was read before."""
    vcpus = trace.events[number - 1].operation.vcpu_numbers
    before = (each for each in trace.events[: number - 1] if each.operation.vcpu_numbers == vcpus)
    return any(each.value("state_entry_time") for each in before)


def _waited_elsewhere(trace: Trace, first: int, last: int) -> bool:
    """Whether the thread waited for a CPU between two steps that read that, other than at a WaitForCpu."""
    then, now = (trace.events[number - 1].value("run_delay") or 0 for number in (first, last))
    waited = now - then
    for event in trace.events[first:last]:
        # Steps that load a vCPU read it, too: of those a part may have been waited with that loaded.
        if not event.operation.vcpu_numbers:
            waited -= (event.value("run_delay_after") or 0) - (event.value("run_delay_before") or 0)
    return waited != 0


def _may_be_preempted(trace: Trace, number: int) -> bool:
    """Whether the thread waited so since its run_delay was first read; or that is not known.

    Not since it was last read: what a preempted vCPU is, it is until it next enters its guest.
    """
    read = (place for place, each in enumerate(trace.events, 1) if each.value("run_delay") is not None)
    first = next(read, number)
    return first == number or _waited_elsewhere(trace, first, number)
