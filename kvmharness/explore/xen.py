# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of a VM that is a Xen's: the time of its vCPUs, and its wall clock."""

from collections.abc import Callable

from kvmharness.explore.devices import Devices
from kvmharness.script import ReadXenTime, ReadXenVcpuInfo, ReadXenWallClock, SetXen, SetXenTime


class Xen(Devices):
    """A VM that becomes a Xen's, and its times read."""

    guest = "wrmsr-16"  # it reads its TSC, and writes MSRs when it is asked to

    def begin(self) -> None:
        """The VM becomes a Xen's, most of the time."""
        if self.chance.random() < 0.8:
            self.make_xens()

    def created(self, number: int) -> None:
        """A new vCPU gets its time, most of the time."""
        if self.chance.random() < 0.8:
            self.draft.add(SetXenTime(vcpu=number, label=self.draft.label("xen-on")))

    def kinds(self) -> list[tuple[Callable[[], None], int]]:
        """Each kind of step, and how often it comes."""
        return [(self.read, 8), (self.read_wall, 2), (self.make_xens, 1), (self.time_on, 2)]

    def last_look(self, number: int) -> None:
        """The time of a vCPU, in both places."""
        self._read_both(number, "last-")

    # One method for each kind of step

    def make_xens(self) -> None:
        """The VM is a Xen's, which it may be already."""
        self.draft.add(SetXen(label=self.draft.label("xen")))

    def time_on(self) -> None:
        """A vCPU gets its time, which it may have already."""
        self.draft.add(SetXenTime(vcpu=self._one(), label=self.draft.label("xen-on")))

    def read(self) -> None:
        """The time of a vCPU."""
        self._read_both(self._one(), "")

    def read_wall(self) -> None:
        """The wall clock."""
        self.draft.add(ReadXenWallClock(label=self.draft.label("wall")))

    def _read_both(self, vcpu: int, when: str) -> None:
        self.draft.add(ReadXenTime(vcpu=vcpu, label=self.draft.label(f"{when}xen-time")))
        self.draft.add(ReadXenVcpuInfo(vcpu=vcpu, label=self.draft.label(f"{when}xen-info")))

    def _uses(self, number: int) -> bool:
        """Whether a vCPU has its time: with any guest."""
        return True
