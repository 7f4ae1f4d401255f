# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of a VM whose guests (L1) have guests of their own (L2): entered, written while current, left."""

from collections.abc import Callable

from kvmharness.explore import values
from kvmharness.explore.devices import Devices
from kvmharness.explore.draft import SECOND
from kvmharness.script import NestedWrite, RunL2, Time, Value

# What L1 adds: nothing, as for a guest that starts at 0, what wraps around, what changes the sign.
_OFFSETS: tuple[Value, ...] = (0, 0, Time(-86_400 * SECOND), Time(1000 * SECOND), 1, 2**64 - 1, 2**63, 2**32)
_RATES = (500_000, 2_000_000, 1_234_567, 1_000_000, 1, 10_000_000)


class Nested(Devices):
    """L2 entered, and TSCs written by L1 and L2."""

    guest = "nested-64"

    def created(self, number: int) -> None:
        """A new vCPU's L2 is entered now and then."""
        if self.chance.random() < 0.4:
            self.enter(number)

    def kinds(self) -> list[tuple[Callable[[], None], int]]:
        """Each kind of step, and how often it comes."""
        return [(self.enter, 6), (self.go_on, 6), (self.write, 5)]

    def last_look(self, number: int) -> None:
        """What L2 reads: one that is current, and one that is entered then."""
        if self._uses(number):
            self.go_on(number)
            self.enter(number)

    # One method for each kind of step

    def enter(self, number: int | None = None) -> None:
        """L1 enters L2, with another offset and, where it may, another rate."""
        vcpu = self._one() if number is None else number
        may_scale = self.draft.ground.host.has_l2_scaling is not False
        rate = self.chance.choice(_RATES) if may_scale and self.chance.random() < 0.4 else None
        offset = self.chance.choice((*_OFFSETS, values.distance(self.draft)))
        self.draft.add(RunL2(vcpu=vcpu, offset=offset, rate_ppm=rate, label=self.draft.label("l2-entered")))

    def go_on(self, number: int | None = None) -> None:
        """The L2 that is current goes on; if none is, the last one is entered again."""
        vcpu = self._one() if number is None else number
        rate = self.draft.vcpu(vcpu).l2_ppm
        self.draft.add(RunL2(vcpu=vcpu, rate_ppm=rate, label=self.draft.label("l2")))

    def write(self) -> None:
        """L1 or L2 writes its TSC or TSC_ADJUST."""
        vcpu, msr = self._one(), self.chance.choice(("TSC", "TSC_ADJUST"))
        value = values.tsc(self.draft, vcpu) if msr == "TSC" else values.adjust(self.draft)
        level, label = self.chance.choice((1, 2, 2)), self.draft.label("nested-write")
        self.draft.add(NestedWrite(vcpu=vcpu, level=level, msr=msr, value=value, label=label))
