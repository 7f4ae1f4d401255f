# SPDX-License-Identifier: GPL-2.0-or-later
"""Runstates: what a Xen's vCPU has done with its time, as KVM tells its guest.

The four times of a vCPU add up to the VM's clock at the moment when it last entered a state. How long it was
runnable, without a CPU, KVM takes from the thread that runs it: its run_delay, as for steal time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kvmharness.script.codec import Runstate, SeveralToWrite
from kvmharness.script.operations.base import OfVcpu, Resolver, unknown_write
from kvmharness.script.value import Read, value_in_words

__all__ = [
    "RUNSTATES",
    "EnterXenRunstate",
    "ReadXenRunstate",
    "SetXenRunstate",
    "SetXenRunstateTimes",
]

# By their numbers, RUNSTATE_running to RUNSTATE_offline.
RUNSTATES = ("running", "runnable", "blocked", "offline")


@dataclass(frozen=True, kw_only=True)
class SetXenRunstate(OfVcpu):
    """KVM_XEN_VCPU_SET_ATTR of `vcpu`: its runstate, where `layout.xen_runstate_address` has it.

    KVM writes it there at once, in the layout of 32 bits: the VM's guest has not asked for another one.
    EINVAL where the kernel has no Xen, EOPNOTSUPP where it does not count run_delay.
    """

    name = "set_xen_runstate"
    phrase = "switch on Xen's runstate"


@dataclass(frozen=True, kw_only=True)
class ReadXenRunstate(OfVcpu):
    """Read the runstate of `vcpu` out of the guest's memory, and the playing thread's run_delay (ns).

    Reads the state, the VM's clock (ns) when the vCPU entered it, and for how long (ns) it was running,
    runnable, blocked and offline until then. All of them are 0 before SetXenRunstate.
    """

    name = "read_xen_runstate"
    phrase = "read Xen's runstate"
    value_names = ("runstate", "state_entry_time", *(f"time_{name}" for name in RUNSTATES), "run_delay")

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """The thread's run_delay."""
        return values[6:]

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The thread does not wait."""
        return (resolver.run_delay,)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What lies in the memory is predicted."""
        return (*read[:6], *written)

    def form(self, place: int) -> str:
        """With the value's name."""
        return f"{self.value_names[place].removeprefix('time_').replace('_', ' ')} {{}}"

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """Each with its name; the state by its own."""
        if not values:
            return []
        state = RUNSTATES[values[0]] if values[0] < len(RUNSTATES) else f"state {values[0]}"
        return [state, *(self.form(place).format(values[place]) for place in range(1, len(values)))]

    def effect(self, values: tuple[int, ...]) -> str:
        """The state, if the page was ever written."""
        if not values or not values[1]:
            return "empty"
        return RUNSTATES[values[0]] if values[0] < len(RUNSTATES) else "no state"


@dataclass(frozen=True, kw_only=True)
class EnterXenRunstate(OfVcpu):
    """KVM_XEN_VCPU_SET_ATTR of `vcpu`: it is in runstate `state` from now on, until it next runs.

    0 stands for running, 1 for runnable, 2 for blocked, 3 for offline. Records the playing thread's run_delay
    (ns) before and after.
    """

    name = "enter_xen_runstate"
    phrase = "change Xen's runstate"
    value_names = ("run_delay_before", "run_delay_after")
    state: Runstate

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The thread does not wait."""
        return (resolver.run_delay, resolver.run_delay)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """Both."""
        return written

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """What the thread had waited."""
        return [f"run delay {values[0]} to {values[1]}"] if values else []

    def in_words(self) -> str:
        """With the state."""
        return f"{self.describe()} to {RUNSTATES[self.state]}"


@dataclass(frozen=True, kw_only=True)
class SetXenRunstateTimes(OfVcpu):
    """KVM_XEN_VCPU_SET_ATTR of `vcpu`: a runstate that was saved, `state` and its four `times` (ns).

    When the state was entered is the sum of the times; EINVAL where the VM's clock is not so far. KVM does
    not write it to the guest's memory yet.
    """

    name = "set_xen_runstate_times"
    phrase = "set the times of Xen's runstate"
    value_names = tuple(f"set_{name}" for name in RUNSTATES)
    state: Runstate
    times: SeveralToWrite

    def complaint(self) -> str:
        """There are four of them."""
        count = len(RUNSTATES)
        return "" if len(self.times) == count else f"{count} times are needed, not {len(self.times)}"

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """What it was to write has to be known."""
        return unknown_write(values, error)

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The times."""
        return tuple(resolver.ns(time) for time in self.times)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What it wrote."""
        return written

    def in_words(self) -> str:
        """With the state, and the times or the step that read them."""
        labels = {each.label if isinstance(each, Read) else "" for each in self.times}
        (label,) = labels if len(labels) == 1 else ("",)
        times = f"what {label} read" if label else ", ".join(map(value_in_words, self.times))
        return f"{self.describe()} to {times}, {RUNSTATES[self.state]}"

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """Each with its name."""
        return [f"{name} {value}" for name, value in zip(RUNSTATES, values, strict=False)]
