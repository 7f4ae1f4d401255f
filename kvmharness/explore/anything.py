# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of every kind, whatever came before."""

from collections.abc import Callable

from kvmharness.explore import values
from kvmharness.explore.devices import Devices
from kvmharness.explore.draft import MS, SECOND, Draft
from kvmharness.guests import PROGRAMS
from kvmharness.guests.layout import MAX_VCPUS, kvmclock_address
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetClockGuest,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    GetTscScale,
    GuestWrite,
    KvmclockCtrl,
    MoveThread,
    Operation,
    Read,
    ReadKvmclock,
    Run,
    RunTogether,
    SetClock,
    SetClockGuest,
    SetClocksource,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    SetVmTscKhz,
    Sleep,
    Time,
    WriteTogether,
)

# Guests that write when asked are most use: they read their TSC as the others do.
GUESTS = (
    *("wrmsr-16", "wrmsr-16", "wrmsr-16", "wrmsr-16", "rdtsc-16", "rdtsc-64"),
    *("rdtscp-16", "rdmsr-16", "ring-16", "ring-64", "warp-64", "warp-64"),
)
RUN_NS = 300_000  # an endless guest's; the others exit by themselves long before


class Anything:
    """Takes one step of some kind at a time. Each likes some kinds more than others."""

    def __init__(self, draft: Draft, devices: Devices | None = None) -> None:
        self.draft = draft
        self.devices = devices
        self.chance = draft.chance
        # How many vCPUs there may be; most faults need few, and each costs time.
        self.most_vcpus = self.chance.choices((1, 2, 3, 4, 5, 9, MAX_VCPUS), (8, 12, 10, 8, 4, 2, 1))[0]
        liked = [(make, weight * self.chance.choice((0, 1, 1, 3))) for make, weight in self._kinds()]
        self._weights = [each for each in liked if each[1]] or [(self.run, 1)]

    def step(self) -> None:
        """Take one."""
        makes, weights = zip(*self._weights, strict=True)
        make: Callable[[], None] = self.chance.choices(makes, weights)[0]
        make()

    def step_of_any_kind(self) -> None:
        """Take one of a kind that is as likely as any other."""
        make, _ = self.chance.choice([each for each in self._kinds() if each[1]])
        make()

    def _kinds(self) -> list[tuple[Callable[[], None], int]]:
        return [
            *((self.create, 3), (self.write_tsc, 12), (self.write_several, 3), (self.write_together, 2)),
            *((self.read_msrs, 5), (self.set_offset, 4), (self.read_offset, 3), (self.run, 6)),
            *((self.guest_write, 5), (self.run_together, 2), (self.set_khz, 2), (self.read_khz, 1)),
            *((self.set_vm_khz, 1), (self.clock, 3), (self.set_clock, 2), (self.page_on, 3)),
            *((self.read_page, 4), (self.stopped, 1), (self.move, 1), (self.wait, 5)),
            *((self.clock_guest, 4 if self.draft.ground.host.has_clock_guest else 0),),
            *((self.read_scale, 1 if self.draft.ground.host.has_scale else 0),),
            *(self.devices.kinds() if self.devices else ()),
            *(self.of_host_clock() if self.draft.leaves_tsc else ()),
        ]

    def of_host_clock(self) -> list[tuple[Callable[[], None], int]]:
        """What a script is about in which the host's own clock leaves the TSC: what happens to the VM's."""
        return [(self.change_clock, 12), (self.set_clock, 6), (self.clock, 6)]

    def add(self, operation: Operation) -> None:
        """Take this step."""
        self.draft.add(operation)

    def any_vcpu(self) -> int:
        """One of the vCPUs."""
        return self.chance.choice(self.draft.vcpus)

    # One method for each kind of step

    def create(self) -> None:
        """Another vCPU; now and then one that there is already."""
        free = [number for number in range(self.most_vcpus) if number not in self.draft.guests]
        if not free and self.chance.random() < 0.95:
            return self.run()
        return self.create_one(self.chance.choice(free[:2] or self.draft.vcpus))

    def create_one(self, number: int) -> None:
        """This vCPU, with a guest; where there are devices, with one that uses them most of the time."""
        uses = self.devices is not None and self.chance.random() < 0.8
        guest = self.devices.guest if self.devices and uses else self.chance.choice(GUESTS)
        self.add(CreateVcpu(vcpu=number, guest=guest, label=self.draft.label("create")))
        if self.devices and self.draft.guests.get(number) == guest and uses:
            self.devices.created(number)

    def write_tsc(self, number: int | None = None) -> None:
        """A TSC."""
        vcpu = self.any_vcpu() if number is None else number
        value = values.tsc(self.draft, vcpu)
        self.add(SetMsrs(vcpu=vcpu, msrs=(("TSC", value),), label=self.draft.label("write")))

    def write_several(self) -> None:
        """Several MSRs at once, some of them twice."""
        vcpu = self.any_vcpu()
        names = self.chance.choices(
            ("TSC", "TSC_ADJUST", "TSC_DEADLINE", "SYSTEM_TIME", "SYSTEM_TIME_OLD", "WALL_CLOCK"),
            (6, 5, 3, 1, 1, 1),
            k=self.chance.choice((1, 1, 2, 2, 3)),
        )
        pairs = tuple((name, self._value_for(vcpu, name)) for name in names)
        self.add(SetMsrs(vcpu=vcpu, msrs=pairs, label=self.draft.label("several")))

    def write_together(self) -> None:
        """TSCs of several vCPUs at once."""
        if len(self.draft.guests) < 2:
            return self.write_tsc()
        count = self.chance.choice((2, 2, min(3, len(self.draft.guests))))
        chosen = tuple(self.chance.sample(self.draft.vcpus, count))
        written = tuple(values.tsc(self.draft, vcpu) for vcpu in chosen)
        return self.add(WriteTogether(vcpus=chosen, values=written, label=self.draft.label("at-once")))

    def read_msrs(self) -> None:
        """MSRs, the TSC first most of the time."""
        indices = self.chance.choice(
            (("TSC",), ("TSC",), ("TSC", "TSC_ADJUST"), ("TSC_ADJUST",), ("TSC", "TSC", "SYSTEM_TIME"))
        )
        self.add(GetMsrs(vcpu=self.any_vcpu(), indices=indices, label=self.draft.label("read")))

    def set_offset(self) -> None:
        """The offset attribute; now and then to what it is already."""
        vcpu = self.any_vcpu()
        if not self.draft.offsets or self.chance.random() < 0.1:
            self.add(GetTscOffset(vcpu=vcpu, label=self.draft.label("offset")))
        offset = values.offset(self.draft, vcpu)
        self.add(SetTscOffset(vcpu=vcpu, offset=offset, label=self.draft.label("set-offset")))

    def read_offset(self) -> None:
        """The offset attribute, read."""
        self.add(GetTscOffset(vcpu=self.any_vcpu(), label=self.draft.label("offset")))

    def run(self, number: int | None = None) -> None:
        """A guest runs; one that shows what it read, if there is one."""
        # A guest that meets others tells nothing when it runs alone, not even that it ran.
        telling = [vcpu for vcpu, guest in self.draft.guests.items() if guest != "warp-64"]
        vcpu = number if number is not None else self.chance.choice(telling or self.draft.vcpus)
        endless = PROGRAMS[self.draft.guests[vcpu]].endless
        self.add(Run(vcpu=vcpu, ns=RUN_NS if endless else Run.ns, label=self.draft.label("run")))

    def guest_write(self) -> None:
        """A guest writes an MSR of its own."""
        writers = [vcpu for vcpu, guest in self.draft.guests.items() if guest == "wrmsr-16"]
        if not writers:
            return self.run()
        vcpu = self.chance.choice(writers)
        names = ("TSC", "TSC_ADJUST", "SYSTEM_TIME", "SYSTEM_TIME_OLD", "WALL_CLOCK")
        msr = self.chance.choices(names, (6, 6, 1, 2, 1))[0]
        value = self._value_for(vcpu, msr)
        return self.add(GuestWrite(vcpu=vcpu, msr=msr, value=value, label=self.draft.label("guest")))

    def run_together(self) -> None:
        """Guests run at once, where there are CPUs for them."""
        numbers = [vcpu for vcpu, guest in self.draft.guests.items() if guest == "warp-64"]
        if len(numbers) < 2 or (self.draft.ground.cpus < 2 and self.chance.random() < 0.9):
            return self.run()
        chosen = tuple(self.chance.sample(numbers, 2))
        return self.add(RunTogether(vcpus=chosen, ns=20 * MS, label=self.draft.label("together")))

    def set_khz(self) -> None:
        """A vCPU's rate."""
        khz = values.khz(self.draft)
        self.add(SetTscKhz(vcpu=self.any_vcpu(), khz=khz, label=self.draft.label("set-khz")))

    def read_khz(self) -> None:
        """A vCPU's rate, read."""
        self.add(GetTscKhz(vcpu=self.any_vcpu(), label=self.draft.label("khz")))

    def set_vm_khz(self) -> None:
        """The VM's rate."""
        self.add(SetVmTscKhz(khz=values.khz(self.draft), label=self.draft.label("vm-khz")))

    def clock(self) -> None:
        """The VM's clock, read."""
        self.add(GetClock(label=self.draft.label("clock")))

    def set_clock(self) -> None:
        """The VM's clock."""
        clocks = self.draft.clocks
        last = self.chance.choice(clocks) if clocks else None
        gone_on = (Read(last, 0), Read(last, values.distance(self.draft))) if last else ()
        clock = self.chance.choice((0, Time(100 * SECOND), values.distance(self.draft), *gone_on))
        realtimes = (Read(last, 0, 2), Read(last, values.distance(self.draft), 2)) if last else ()
        realtime = self.chance.choice((None, None, 0, 2**63, *realtimes))
        self.add(SetClock(clock=clock, realtime=realtime, label=self.draft.label("set-clock")))

    def page_on(self, number: int | None = None) -> None:
        """A kvmclock page is switched on, by the guest or from outside."""
        vcpu = self.any_vcpu() if number is None else number
        page = kvmclock_address(vcpu) + 1
        name = self.chance.choice(("SYSTEM_TIME", "SYSTEM_TIME", "SYSTEM_TIME", "SYSTEM_TIME_OLD"))
        if self.draft.guests[vcpu] == "wrmsr-16" and self.chance.random() < 0.5:
            label = self.draft.label("guest-page")
            return self.add(GuestWrite(vcpu=vcpu, msr=name, value=page, label=label))
        return self.add(SetMsrs(vcpu=vcpu, msrs=((name, page),), label=self.draft.label("page")))

    def read_page(self) -> None:
        """A kvmclock page, of a vCPU that has one if any has."""
        having = [number for number in self.draft.vcpus if self.draft.vcpu(number).pv_time]
        vcpu = self.chance.choice(having or self.draft.vcpus)
        self.add(ReadKvmclock(vcpu=vcpu, label=self.draft.label("read-page")))

    def stopped(self) -> None:
        """A guest is to learn that it was stopped."""
        having = [number for number in self.draft.vcpus if self.draft.vcpu(number).pv_time]
        vcpu = self.chance.choice(having or self.draft.vcpus)
        self.add(KvmclockCtrl(vcpu=vcpu, label=self.draft.label("stopped")))

    def move(self) -> None:
        """The thread moves to another CPU, if there is one."""
        if self.draft.ground.cpus > 1 or self.chance.random() < 0.1:
            self.add(MoveThread(to=self.chance.choice((0, 1, 1, 2)), label=self.draft.label("move")))

    def wait(self) -> None:
        """Some time passes."""
        self.add(Sleep(ns=values.wait_ns(self.draft), label=self.draft.label("wait")))

    def clock_guest(self) -> None:
        """The VM's clock as a function of a vCPU's TSC: it is read, or set to what was read."""
        vcpu, read = self.any_vcpu(), self.draft.functions[-3:]
        if not read or self.chance.random() < 0.5:
            return self.add(GetClockGuest(vcpu=vcpu, label=self.draft.label("clock-guest")))
        label = self.chance.choice(read)
        plus = self.chance.choice((0, 0, values.distance(self.draft)))
        time = Read(label, plus, 2)
        tsc, multiplier, shift = (Read(label, 0, place) for place in (1, 3, 4))
        return self.add(
            SetClockGuest(
                vcpu=vcpu,
                tsc_timestamp=tsc,
                system_time=time,
                multiplier=multiplier,
                shift=shift,
                label=self.draft.label("set-clock-guest"),
            )
        )

    def change_clock(self) -> None:
        """The host's own clock leaves the TSC, or comes back to it; KVM's worker has its turn, or has not."""
        self.add(SetClocksource(tsc=self.chance.random() < 0.5, label=self.draft.label("clocksource")))
        if self.chance.random() < 0.7:
            self.add(Sleep(ns=100 * MS, label=self.draft.label("wait")))

    def read_scale(self) -> None:
        """How a vCPU's TSC is scaled."""
        self.add(GetTscScale(vcpu=self.any_vcpu(), label=self.draft.label("scale")))

    def look(self) -> None:
        """A guest runs, which has the clock looked at again; then what is said of the clock."""
        self.run()
        self.clock() if self.chance.random() < 0.6 else self.read_page()

    def last_look(self) -> None:
        """What there is to see of every vCPU, in the end."""
        vcpus = self.draft.vcpus if len(self.draft.guests) <= 4 else self.chance.sample(self.draft.vcpus, 3)
        for number in vcpus:
            self.add(GetTscOffset(vcpu=number, label=self.draft.label("last-offset")))
            indices = ("TSC", "TSC_ADJUST")
            self.add(GetMsrs(vcpu=number, indices=indices, label=self.draft.label("last-tsc")))
            self.run(number)
            if self.draft.world.vcpus[number].pv_time:
                self.add(ReadKvmclock(vcpu=number, label=self.draft.label("last-page")))
            if self.devices:
                self.devices.last_look(number)
        self.clock()

    def _value_for(self, vcpu: int, msr: str) -> int | Time | Read:
        if msr == "TSC":
            return values.tsc(self.draft, vcpu)
        if msr == "TSC_ADJUST":
            return values.adjust(self.draft)
        if msr == "TSC_DEADLINE":
            return 0
        # Within the page of long mode's page directory, of which 8 bytes are in use; odd: switched on.
        own = kvmclock_address(vcpu) + 1
        return self.chance.choice((0, 0x3800, 0x3801, own, own, own))
