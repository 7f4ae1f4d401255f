# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on how a guest's TSC counts: at which rate, and that it never runs backwards.

They hold for vCPUs at any rate and on any host, and do not use offsets. The cycles that a TSC advanced from
one step to another are compared with the time that passed between them, which is known to the width of their
brackets.
"""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding, read_nothing
from kvmharness.contract.host_rate import Passed, kvm_khz
from kvmharness.model.arithmetic import duration
from kvmharness.model.interval import signed
from kvmharness.trace import Event, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class RateClaim(Claim):
    """A TSC counts at a rate from the step labelled `first` to the step labelled `last`.

    Both write or read a TSC, of one vCPU or of two that should count together. `khz` is the label of the
    step whose `khz` is the rate. `instead` is the label of the step whose rate the TSC would
    have if the claim were broken ("" if there is none). The TSC that `first` read may have stood still
    since the step `stands_since`; KVM then makes up for the time since that step.
    """

    first: str
    last: str
    khz: str
    instead: str = ""
    stands_since: str = ""

    def check(self, trace: Trace) -> Finding:
        """Check that the TSC advanced as its rate and the time that passed require."""
        steps, events = trace.numbers, trace.labelled
        since = self.stands_since or self.first
        wanted = (self.first, self.last, self.khz, self.instead, since)
        missing = _missing(events, tuple(filter(None, wanted)))
        missing = missing or _without_rate(events, (self.khz, self.instead))
        if missing:
            return self.undecided(missing)
        first, last = events[self.first], events[self.last]
        passed = Passed.between(events[since], first, last, kvm_khz(trace))
        begin, end = first.guest_tsc, last.guest_tsc
        if begin is None or end is None:
            return self.undecided(f"step {self.first!r} or {self.last!r} read no TSC")
        counted = signed(end - begin)
        khz = events[self.khz].value("khz") or 0
        least, most = passed.due(khz)
        entries = trace.events[steps[self.first] - 1 : steps[self.last]]
        held_up_ns = sum(_entry_ns(event, last) for event in entries)
        if most < counted <= most + held_up_ns * khz // 1_000_000:
            said = (
                f"KVM may have been interrupted while it advanced the TSC of step {self.last!r} to catch up"
            )
            return self.undecided(said, steps[self.last])
        if not least <= counted <= most:
            gap = counted - most if counted > most else least - counted
            more = "more" if counted > most else "less"
            said = f"the TSC advanced {counted} cycles from step {self.first!r} to {self.last!r}, "
            said += f"{gap} cycles ({duration(gap, khz)}) {more} than at {khz} kHz"
            return self.broken(said, steps[self.last], duration(gap, khz))
        if self.instead:
            least, most = passed.due(events[self.instead].value("khz") or 0)
            if least <= counted <= most:
                return self.undecided("too little time passed to tell the rates apart")
        return self.kept()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardClaim(Claim):
    """The TSC never runs backwards from one of the steps labelled `seen` to the next."""

    seen: tuple[str, ...]

    def check(self, trace: Trace) -> Finding:
        """Check that no reading is less than the one before it. There is no tolerance."""
        steps, events = trace.numbers, trace.labelled
        missing = _missing(events, self.seen)
        if missing:
            return self.undecided(missing)
        last, where = None, ""
        for label in self.seen:
            event = events[label]
            tsc = event.guest_tsc
            if tsc is None:
                return self.undecided(f"step {label!r} read no TSC")
            for value in event.values if event.operation.by_guest else (tsc,):
                if last is not None and signed(value - last) < 0:
                    by = f"{-signed(value - last)} cycles behind the {last} of step {where!r}"
                    return self.broken(f"step {label!r} read TSC {value}, {by}", steps[label])
                last, where = value, label
        return self.kept()


def _entry_ns(event: Event, last: Event) -> int:
    """How many ns a step may put the TSC that `last` reads ahead.

    To catch up, KVM reads the TSC and then the clock (kvm_guest_time_update). The time that passes between
    the two is added to the guest's TSC, and stays there, because KVM does not set a TSC back.
    """
    same = {*event.operation.vcpu_numbers} & {*last.operation.vcpu_numbers}
    return event.bracket.ns_after - event.bracket.ns_before if event.operation.enters_guest and same else 0


def _missing(events: dict[str, Event], labels: tuple[str, ...]) -> str:
    """Why one of the steps has no values, or ""."""
    for label in labels:
        if label not in events:
            return f"step {label!r} was not reached"
        if events[label].error:
            return f"step {label!r} failed with {events[label].error}"
        if not events[label].values:
            return read_nothing(events[label])
    return ""


def _without_rate(events: dict[str, Event], labels: tuple[str, ...]) -> str:
    """Why one of the steps tells no rate, or ""; a file may give a label to any step."""
    odd = (label for label in labels if label and events[label].value("khz") is None)
    return next((f"step {label!r} has no rate" for label in odd), "")
