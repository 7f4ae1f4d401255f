# SPDX-License-Identifier: GPL-2.0-or-later
"""Random scripts: what no author of a scenario would think of. Equal seeds give equal scripts."""

import random
from collections.abc import Callable

from kvmharness.guests.layout import kvmclock_address
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    GuestWrite,
    Khz,
    KvmclockCtrl,
    MoveThread,
    Operation,
    Ppm,
    Read,
    ReadKvmclock,
    Run,
    RunTogether,
    Script,
    SetClock,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    SetVmTscKhz,
    Sleep,
    Time,
    Value,
    WriteTogether,
)

MS = 1_000_000
SECOND = 1_000_000_000

_GUESTS = (
    "rdtsc-16",
    "rdtsc-64",
    "rdtscp-16",
    "rdmsr-16",
    "ring-16",
    "ring-64",
    "wrmsr-16",
    "wrmsr-16",
    "warp-64",
    "warp-64",
)
_MAX_VCPUS = 4
_RUN_NS = 300_000  # an endless guest's; the others exit by themselves long before


def random_script(seed: int, *, steps: int = 40, sleeps: bool = True) -> Script:
    """A script of `steps` operations and a closing look at every vCPU; `sleeps`: also of up to 1.2 s."""
    return _Author(random.Random(seed), sleeps).script(steps)


class _Author:
    def __init__(self, chance: random.Random, sleeps: bool) -> None:
        self.chance = chance
        self.sleeps = sleeps
        self.vcpus: dict[int, str] = {}  # and their guests
        self.tscs: list[str] = []  # labels of steps that read or wrote a TSC first of all
        self.offsets: list[str] = []
        self.made = 0
        # Each script likes some things more than others, so that not all are the same mixture.
        self.weights = [(make, weight * chance.choice((0, 1, 1, 3))) for make, weight in self._kinds()]

    def script(self, steps: int) -> Script:
        done: list[Operation] = []
        if self.chance.random() < 0.2:
            done.append(self.set_vm_khz())
        done += [self.create() for _ in range(self.chance.choice((1, 1, 1, 2, 2, 3)))]
        makes, weights = zip(*[each for each in self.weights if each[1]] or [(self.run, 1)], strict=True)
        while len(done) < steps:
            make: Callable[[], Operation] = self.chance.choices(makes, weights)[0]
            done.append(make())
        for number in self.vcpus:
            done += [
                GetTscOffset(vcpu=number, label=f"last-offset-{number}"),
                GetMsrs(vcpu=number, indices=("TSC", "TSC_ADJUST"), label=f"last-tsc-{number}"),
                Run(vcpu=number, label=f"last-run-{number}", ns=_RUN_NS),
                ReadKvmclock(vcpu=number, label=f"last-page-{number}"),
            ]
        return (*done, GetClock(label="last-clock"))

    def _kinds(self) -> list[tuple[Callable[[], Operation], int]]:
        return [
            (self.create, 2),
            (self.write_tsc, 12),
            (self.write_several, 3),
            (self.read_msrs, 6),
            (self.set_offset, 4),
            (self.read_offset, 5),
            (self.run, 7),
            (self.guest_write, 5),
            (self.run_together, 2),
            (self.write_together, 2),
            (self.set_khz, 2),
            (self.read_khz, 1),
            (self.set_vm_khz, 1),
            (self.clock, 3),
            (self.set_clock, 1),
            (self.page_on, 3),
            (self.read_page, 4),
            (self.stopped, 1),
            (self.move, 2),
            (self.sleep, 5),
        ]

    # One method for each kind of step

    def create(self) -> Operation:
        numbers = list(range(_MAX_VCPUS))
        free = [number for number in numbers if number not in self.vcpus]
        if not free and self.chance.random() < 0.9:
            return self.run()
        number = self.chance.choice(free or numbers)
        guest = self.chance.choice(_GUESTS)
        self.vcpus.setdefault(number, guest)
        return CreateVcpu(vcpu=number, guest=guest, label=self._label("create"))

    def write_tsc(self) -> Operation:
        label = self._label("write")
        value = self._tsc_value()
        self.tscs.append(label)
        return SetMsrs(vcpu=self._vcpu(), msrs=(("TSC", value),), label=label)

    def write_several(self) -> Operation:
        names = self.chance.choices(
            ("TSC", "TSC_ADJUST", "TSC_DEADLINE", "SYSTEM_TIME", "WALL_CLOCK"),
            (6, 4, 2, 1, 1),
            k=self.chance.randint(1, 4),
        )
        pairs = tuple((name, self._value_for(name)) for name in names)
        return SetMsrs(vcpu=self._vcpu(), msrs=pairs, label=self._label("several"))

    def read_msrs(self) -> Operation:
        indices = self.chance.choice(
            (("TSC",), ("TSC",), ("TSC", "TSC_ADJUST"), ("TSC_ADJUST",), ("TSC", "TSC", "SYSTEM_TIME"))
        )
        label = self._label("read")
        if indices[0] == "TSC":
            self.tscs.append(label)
        return GetMsrs(vcpu=self._vcpu(), indices=indices, label=label)

    def set_offset(self) -> Operation:
        offset: Value
        if self.offsets and self.chance.random() < 0.7:
            offset = Read(self.chance.choice(self.offsets), self.chance.choice((0, 0, 1, -1, self._time())))
        else:
            offset = self.chance.choice(
                (0, 1, -(2**63), 2**64 - 1, self._time(), self.chance.getrandbits(64))
            )
        label = self._label("set-offset")
        self.offsets.append(label)
        return SetTscOffset(vcpu=self._vcpu(), offset=offset, label=label)

    def read_offset(self) -> Operation:
        label = self._label("offset")
        self.offsets.append(label)
        return GetTscOffset(vcpu=self._vcpu(), label=label)

    def run(self) -> Operation:
        # A guest that meets others tells nothing when it runs alone, not even that it ran.
        telling = [number for number, guest in self.vcpus.items() if guest != "warp-64"]
        vcpu = self.chance.choice(telling) if telling else self._vcpu()
        endless = self.vcpus[vcpu].startswith(("ring", "warp"))
        return Run(vcpu=vcpu, label=self._label("run"), ns=_RUN_NS if endless else Run.ns)

    def guest_write(self) -> Operation:
        writers = [number for number, guest in self.vcpus.items() if guest == "wrmsr-16"]
        if not writers and self.chance.random() < 0.9:
            return self.run()
        msr = self.chance.choices(("TSC", "TSC_ADJUST", "SYSTEM_TIME_OLD", "WALL_CLOCK"), (6, 6, 1, 1))[0]
        vcpu = self.chance.choice(writers) if writers else self._vcpu()
        return GuestWrite(vcpu=vcpu, msr=msr, value=self._value_for(msr), label=self._label("guest"))

    def run_together(self) -> Operation:
        numbers = [number for number, guest in self.vcpus.items() if guest == "warp-64"]
        if len(numbers) < 2 and self.chance.random() < 0.9:
            return self.run()
        chosen = tuple(self.chance.sample(numbers, 2)) if len(numbers) > 1 else (self._vcpu(),)
        return RunTogether(vcpus=chosen, ns=20 * MS, label=self._label("together"))

    def write_together(self) -> Operation:
        if len(self.vcpus) < 2:
            return self.write_tsc()
        chosen = tuple(
            self.chance.sample(list(self.vcpus), self.chance.choice((2, 2, min(3, len(self.vcpus)))))
        )
        values = tuple(self._tsc_value() for _ in chosen)
        return WriteTogether(vcpus=chosen, values=values, label=self._label("at-once"))

    def set_khz(self) -> Operation:
        return SetTscKhz(vcpu=self._vcpu(), khz=self._khz(), label=self._label("set-khz"))

    def read_khz(self) -> Operation:
        return GetTscKhz(vcpu=self._vcpu(), label=self._label("khz"))

    def set_vm_khz(self) -> Operation:
        return SetVmTscKhz(khz=self._khz(), label=self._label("vm-khz"))

    def clock(self) -> Operation:
        return GetClock(label="last")

    def set_clock(self) -> Operation:
        ns = self.chance.choice((0, Time(100 * SECOND), self._time(), Read("last", self._time())))
        realtime = self.chance.choice((None, None, 0, 2**63, Read("last", 0, 2)))
        return SetClock(clock=ns, realtime=realtime, label=self._label("set-clock"))

    def page_on(self) -> Operation:
        vcpu = self._vcpu()
        page = kvmclock_address(vcpu) + 1
        if self.vcpus[vcpu] == "wrmsr-16" and self.chance.random() < 0.5:
            return GuestWrite(vcpu=vcpu, msr="SYSTEM_TIME", value=page, label=self._label("guest-page"))
        return SetMsrs(vcpu=vcpu, msrs=(("SYSTEM_TIME", page),), label=self._label("page"))

    def read_page(self) -> Operation:
        return ReadKvmclock(vcpu=self._vcpu(), label=self._label("read-page"))

    def stopped(self) -> Operation:
        return KvmclockCtrl(vcpu=self._vcpu(), label=self._label("stopped"))

    def move(self) -> Operation:
        return MoveThread(to=self.chance.choice((0, 1, 1, 2)), label=self._label("move"))

    def sleep(self) -> Operation:
        long = self.sleeps and self.chance.random() < 0.3
        ns = self.chance.randint(300 * MS, 1200 * MS) if long else self.chance.randint(0, 5 * MS)
        return Sleep(ns=ns, label=self._label("sleep"))

    # Values

    def _label(self, what: str) -> str:
        self.made += 1
        return f"{what}-{self.made}"

    def _vcpu(self) -> int:
        return self.chance.choice(list(self.vcpus))

    def _time(self) -> Time:
        """Near enough to snap, or just not, to either side; or far away."""
        near = self.chance.randint(200 * MS, 1100 * MS)
        edge = SECOND + self.chance.randint(-MS, MS)
        far = self.chance.randint(2 * SECOND, 10**6 * SECOND)
        small = self.chance.randint(0, 100_000)
        return Time(self.chance.choice((near, near, edge, far, small)) * self.chance.choice((-1, 1)))

    def _tsc_value(self) -> Value:
        if self.tscs and self.chance.random() < 0.65:
            return Read(
                self.chance.choice(self.tscs[-4:]), self.chance.choice((0, self._time(), self._time()))
            )
        number = self.chance.getrandbits(64)
        return self.chance.choice((0, 0, 0, 1, 1, Time(100 * SECOND), Time(900 * MS), 2**64 - 1, number))

    def _value_for(self, msr: str) -> Value:
        if msr == "TSC":
            return self._tsc_value()
        if msr == "TSC_ADJUST":
            return self.chance.choice((0, 0, 1, -1, self._time(), self.chance.getrandbits(64)))
        if msr == "TSC_DEADLINE":
            return 0
        # Within the page of long mode's page directory, of which 8 bytes are in use; odd: switched on.
        return self.chance.choice((0, 0x3800, 0x3801))

    def _khz(self) -> Khz:
        within = self.chance.randint(-250, 250)
        around = self.chance.choice((-1, 1)) * self.chance.randint(248, 252)
        ppms = (within, within, around, -1000, 1000, -500_000, 500_000)
        plain = (0, 0, 1, 2**31 - 1, 2**32 - 1, 1_000_000, 999_951)
        return Ppm(self.chance.choice(ppms)) if self.chance.random() < 0.6 else self.chance.choice(plain)
