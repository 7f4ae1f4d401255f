# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of a VM whose vCPUs have local APICs: deadlines of their timers, and the interrupts of those."""

from collections.abc import Callable

from kvmharness.explore import values
from kvmharness.explore.devices import Devices
from kvmharness.explore.draft import MS, SECOND
from kvmharness.script import (
    AwaitTimer,
    CreateIrqchip,
    GetLapic,
    GetMsrs,
    Read,
    SetLapic,
    SetMsrs,
    Time,
    Value,
)

# How far ahead of the guest's TSC a deadline lies, in ns: soon, gone by, as far as another vCPU is old.
_AHEAD_NS = (2 * MS, 2 * MS, 5 * MS, 20 * MS, -MS, -5 * MS, -SECOND, SECOND, 100 * SECOND)
# From so many cycles on KVM has no room for what is to go, which it multiplies by 10**6.
_WRAPS = 2**64 // 10**6
# A waiting guest spins, which an emulated CPU has to do step by step.
_AWAITED_NS = (3 * MS, 6 * MS, 6 * MS, 25 * MS)


class Timers(Devices):
    """Deadlines, the local APIC, and guests that wait for the interrupt."""

    guest = "timer-16"

    def begin(self) -> None:
        """The interrupt chip; now and then there is none."""
        if self.chance.random() < 0.97:
            self.chip()

    def created(self, number: int) -> None:
        """The timer of a new vCPU is put into TSC-deadline mode, most of the time."""
        if self.chance.random() < 0.7:
            self.lapic(number)

    def kinds(self) -> list[tuple[Callable[[], None], int]]:
        """Each kind of step, and how often it comes."""
        return [
            *((self.deadline, 6), (self.read_deadline, 2), (self.await_timer, 8), (self.lapic, 2)),
            *((self.read_lapic, 2), (self.restore, 4), (self.chip, 1)),
        ]

    def last_look(self, number: int) -> None:
        """What there is to see of a vCPU's timer."""
        self.read_deadline(number)
        if self._uses(number):
            self.draft.add(AwaitTimer(vcpu=number, label=self.draft.label("last-timer")))

    # One method for each kind of step

    def chip(self) -> None:
        """An interrupt chip."""
        self.draft.add(CreateIrqchip(label=self.draft.label("chip")))

    def lapic(self, number: int | None = None) -> None:
        """The local APIC is set; now and then with the interrupt waiting in it."""
        vcpu = self._one() if number is None else number
        requested = self.chance.choice((0, 0, 0, 1))
        self.draft.add(SetLapic(vcpu=vcpu, requested=requested, label=self.draft.label("lapic")))

    def read_lapic(self) -> None:
        """The local APIC, read."""
        self.draft.add(GetLapic(vcpu=self._one(), label=self.draft.label("read-lapic")))

    def deadline(self) -> None:
        """A deadline, from outside the guest."""
        vcpu = self._one()
        written = (("TSC_DEADLINE", self._deadline_of(vcpu)),)
        self.draft.add(SetMsrs(vcpu=vcpu, msrs=written, label=self.draft.label("deadline")))

    def read_deadline(self, number: int | None = None) -> None:
        """The deadline, read."""
        vcpu = self._one() if number is None else number
        indices = ("TSC", "TSC_DEADLINE")
        self.draft.add(GetMsrs(vcpu=vcpu, indices=indices, label=self.draft.label("read-deadline")))

    def await_timer(self) -> None:
        """The guest waits for its interrupt; half of the time for one of a deadline that it sets itself."""
        vcpu = self._one()
        deadline = self._deadline_of(vcpu) if self.chance.random() < 0.5 else None
        ns, label = self.chance.choice(_AWAITED_NS), self.draft.label("timer")
        self.draft.add(AwaitTimer(vcpu=vcpu, deadline=deadline, ns=ns, label=label))

    def restore(self) -> None:
        """TSC, deadline and local APIC of one vCPU are saved, and restored to one in any order."""
        saved, given = self._one(), self._one()
        tsc, chip = self.draft.label("saved"), self.draft.label("saved-lapic")
        self.draft.add(GetMsrs(vcpu=saved, indices=("TSC", "TSC_DEADLINE"), label=tsc))
        self.draft.add(GetLapic(vcpu=saved, label=chip))
        if self.chance.random() < 0.3:
            return
        plus = self.chance.choice((0, values.distance(self.draft)))
        label = self.draft.label
        steps = [
            SetMsrs(vcpu=given, msrs=(("TSC", Read(tsc, plus)),), label=label("write")),
            SetMsrs(vcpu=given, msrs=(("TSC_DEADLINE", Read(tsc, 0, 1)),), label=label("deadline")),
            SetLapic(vcpu=given, requested=Read(chip, 0, 1), label=label("lapic")),
        ]
        self.chance.shuffle(steps)
        for step in steps[: self.chance.choice((2, 3, 3))]:
            self.draft.add(step)

    def _deadline_of(self, number: int) -> Value:
        now = self.draft.tsc(number)
        khz = self.draft.vcpu(number).virtual_tsc_khz
        how = self.chance.choices(("ahead", "off", "far", "edge"), (10, 2, 1, 1))[0]
        if how == "ahead" and now is not None:
            ahead = self.chance.choice((*_AHEAD_NS, values.distance(self.draft).ns))
            return self.draft.expressed(max(1, now + ahead * khz // 1_000_000), number)
        if how == "far" and now is not None:
            return self.draft.expressed(now + _WRAPS * self.chance.choice((1, 1, 2)), number)
        return self.chance.choice((1, Time(SECOND), 2**63, 2**64 - 1)) if how == "edge" else 0
