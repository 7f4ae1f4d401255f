# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim that a guest gets its deadline timer's interrupt: when its TSC is at the deadline, not before."""

from dataclasses import dataclass

from kvmharness.contract.finding import Claim, Finding, read_nothing
from kvmharness.contract.host_rate import CORRECTED_PPB
from kvmharness.model.arithmetic import duration
from kvmharness.trace import Event, Trace

# The host's timer by which KVM wakes up goes by CLOCK_MONOTONIC, which NTP may slew (MAXFREQ, linux/timex.h).
# Where instructions are counted nobody does: what is left is the clock's multiplier of 24 bits or more.
SLEWED_PPB, RAW_PPB = 500_000, 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerClaim(Claim):
    """The guest of the step labelled `seen` takes its timer's interrupt once its TSC is at the deadline.

    `expected` is the label of the step that wrote the deadline, 0 for none. `after` is the label of a later
    step that reads the TSC: an interrupt that has not come by then is lost ("" where none has to come).
    """

    seen: str
    expected: str
    after: str

    def check(self, trace: Trace) -> Finding:
        """Check that the interrupt came, and not before its time."""
        steps, events = trace.numbers, trace.labelled
        for label in (self.expected, self.seen):
            if label not in events:
                return self.undecided(f"step {label!r} was not reached")
        step, event = steps[self.seen], events[self.seen]
        deadline, fired = events[self.expected].value("TSC_DEADLINE"), event.value("fired")
        if deadline is None or fired is None:
            return self.undecided(read_nothing(event), step)
        if not fired and deadline and self.after:
            return self._lost(trace, events, step, deadline)
        if fired and not deadline:
            return self.broken(f"step {self.seen!r}: an interrupt came, though there was no deadline", step)
        early = deadline - fired
        return self._early(trace, events, early) if fired and early > 0 else self.kept()

    def _early(self, trace: Trace, events: dict[str, Event], early: int) -> Finding:
        """What it means that the interrupt came so many cycles before its time."""
        step = next(n for n, event in enumerate(trace.events, 1) if event.operation.label == self.seen)
        if early <= self._slewed(trace, events):
            said = "the interrupt came so little before its time that the host's clock may have been slewed"
            return self.undecided(said, step)
        khz = _khz(trace)
        said = f"step {self.seen!r}: the interrupt came {early} cycles ({duration(early, khz)}) before the "
        said += f"guest's TSC was at the deadline of step {self.expected!r}"
        return self.broken(said, step, duration(early, khz))

    def _lost(self, trace: Trace, events: dict[str, Event], step: int, deadline: int) -> Finding:
        """What it means that no interrupt came."""
        tsc = events[self.after].guest_tsc if self.after in events else None
        if tsc is None:
            return self.undecided(f"step {self.after!r} read no TSC", step)
        event = events[self.seen]
        if event.value("armed") == 0:
            return self.undecided(f"the guest of step {self.seen!r} did not come to write its deadline", step)
        # What the TSC was when the guest had waited: less than what is read after that.
        waited = event.bracket.ns_before + event.operation.waits_ns
        since_then = max(0, events[self.after].bracket.ns_after - waited)
        if tsc - since_then * _khz(trace) // 1_000_000 <= deadline + self._slewed(trace, events):
            said = f"the deadline of step {self.expected!r} did not come, or only after the guest had waited"
            return self.undecided(said, step)
        said = f"step {self.seen!r}: no interrupt came in {event.operation.waits_ns // 1_000_000} ms, "
        return self.broken(f"{said}though the TSC was {tsc} then, beyond the deadline {deadline}", step)

    def _slewed(self, trace: Trace, events: dict[str, Event]) -> int:
        """By how many cycles the host's clock may be off."""
        began, ended = events[self.expected].bracket, events[self.seen].bracket
        off = RAW_PPB if trace.is_undisturbed else SLEWED_PPB + CORRECTED_PPB
        return (ended.tsc_after - began.tsc_before) * off // 10**9


def _khz(trace: Trace) -> int:
    """The kHz with which the first vCPU was created; 0 where none was."""
    created = (each for each in trace.events if each.operation.creates_vcpu)
    return next((each.values[0] for each in created if each.values), 0)
