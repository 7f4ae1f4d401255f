# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of a VM that is a Xen's: the time of its vCPUs, their runstates, and its wall clock."""

from collections.abc import Callable

from kvmharness.explore.devices import Devices
from kvmharness.explore.draft import MS, Draft
from kvmharness.script import (
    RUNSTATES,
    EnterXenRunstate,
    Read,
    ReadXenRunstate,
    ReadXenTime,
    ReadXenVcpuInfo,
    ReadXenWallClock,
    SetXen,
    SetXenRunstate,
    SetXenRunstateTimes,
    SetXenTime,
    Value,
    WaitForCpu,
)

# What times are set to that no reading has: as a VM has them that is new, or older than ours.
_TIMES_NS = (0, 0, MS, 1000 * MS, 10**15)
_FIRST_TIME = ReadXenRunstate.value_names.index("time_running")


class Xen(Devices):
    """A VM that becomes a Xen's, its times and its vCPUs' runstates read."""

    guest = "wrmsr-16"  # it reads its TSC, and writes MSRs when it is asked to

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._runstates: list[str] = []  # labels of readings

    def begin(self) -> None:
        """The VM becomes a Xen's, most of the time."""
        if self.chance.random() < 0.8:
            self.make_xens()

    def created(self, number: int) -> None:
        """A new vCPU gets its time and its runstate, most of the time."""
        if self.chance.random() < 0.8:
            self.draft.add(SetXenTime(vcpu=number, label=self.draft.label("xen-on")))
        if self.has_runstates and self.chance.random() < 0.8:
            self._runstate_on(number)

    def kinds(self) -> list[tuple[Callable[[], None], int]]:
        """Each kind of step, and how often it comes."""
        of_time = [(self.read, 8), (self.read_wall, 2), (self.make_xens, 1), (self.time_on, 2)]
        of_runstate = [(self.read_runstate, 6), (self.enter_runstate, 3), (self.runstate_on, 1)]
        of_runstate += [(self.set_times, 2), (self.wait, 1)]
        return of_time + (of_runstate if self.has_runstates else [])

    def last_look(self, number: int) -> None:
        """The time of a vCPU, in both places, and its runstate."""
        self._read_both(number, "last-")
        if self.has_runstates:
            self._read_runstate(number, "last-")

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

    def read_runstate(self) -> None:
        """The runstate of a vCPU."""
        self._read_runstate(self._one(), "")

    def runstate_on(self) -> None:
        """A vCPU gets its runstate, which it may have already."""
        self._runstate_on(self._one())

    def enter_runstate(self) -> None:
        """A vCPU changes to another state, as its VMM says."""
        state = self.chance.randrange(len(RUNSTATES))
        self.draft.add(EnterXenRunstate(vcpu=self._one(), state=state, label=self.draft.label("runstate-is")))

    def set_times(self) -> None:
        """A vCPU gets times that were read, or others, which the clock may not have reached."""
        places = range(len(RUNSTATES))
        times: tuple[Value, ...] = tuple(self.chance.choice(_TIMES_NS) for _ in places)
        if self._runstates and self.chance.random() < 0.7:
            read = self.chance.choice(self._runstates)
            times = tuple(Read(read, 0, _FIRST_TIME + place) for place in places)
        state, label = self.chance.randrange(len(RUNSTATES)), self.draft.label("runstate-set")
        self.draft.add(SetXenRunstateTimes(vcpu=self._one(), state=state, times=times, label=label))

    def wait(self) -> None:
        """The thread has to wait for the CPU."""
        self.draft.add(WaitForCpu(ns=MS, label=self.draft.label("compete")))

    @property
    def has_runstates(self) -> bool:
        """Whether the kernel counts what a thread waits, as it does for steal time."""
        return self.draft.ground.host.has_steal_time is not False

    def _runstate_on(self, vcpu: int) -> None:
        self.draft.add(SetXenRunstate(vcpu=vcpu, label=self.draft.label("runstate-on")))

    def _read_runstate(self, vcpu: int, when: str) -> None:
        self._runstates.append(label := self.draft.label(f"{when}runstate"))
        self.draft.add(ReadXenRunstate(vcpu=vcpu, label=label))

    def _read_both(self, vcpu: int, when: str) -> None:
        self.draft.add(ReadXenTime(vcpu=vcpu, label=self.draft.label(f"{when}xen-time")))
        self.draft.add(ReadXenVcpuInfo(vcpu=vcpu, label=self.draft.label(f"{when}xen-info")))

    def _uses(self, number: int) -> bool:
        """Whether a vCPU has its time: with any guest."""
        return True
