# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts shaped like a VM's life as VMMs lead it, with its parts in any order."""

from collections.abc import Callable

from kvmharness.explore import values
from kvmharness.explore.anything import Anything
from kvmharness.explore.devices import Devices
from kvmharness.explore.draft import MS, SECOND, Draft
from kvmharness.script import (
    GetClock,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    KvmclockCtrl,
    Ppm,
    Read,
    ReadKvmclock,
    SetClock,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    Sleep,
    Time,
    Value,
    WriteTogether,
)

# How old a saved VM is: younger than the second, at its edge, older; ns.
_AGES_NS = (300 * MS, 600 * MS, 900 * MS, 980 * MS, 1_100 * MS, 2 * SECOND, 100 * SECOND, 3600 * SECOND)
# How far the saved TSCs of vCPUs are apart, because they were read one after the other (QEMU: 77 to 194 us).
_SKEWS_NS = (0, 0, -100_000, -400_000, 50_000)

Steps = list[Callable[[], None]]


class Life:
    """A VM's life; `anything` takes the steps that are in no VMM's sequence."""

    def __init__(self, draft: Draft, devices: Devices | None = None) -> None:
        self.draft = draft
        self.chance = draft.chance
        self.anything = Anything(draft, devices)
        self.saved: dict[int, str] = {}  # the labels of what was saved of each vCPU's TSC
        self.saved_clock = ""
        self._parts = [(part, weight * self.chance.choice((0, 1, 1, 2))) for part, weight in self._kinds()]

    def begin(self) -> None:
        """vCPUs are created, all of them first or each with what is to be written to it."""
        count = self.chance.choices((1, 2, 3, 4, 5, 9), (4, 8, 5, 3, 1, 2))[0]
        self.anything.most_vcpus = max(count, self.anything.most_vcpus)
        if self.chance.random() < 0.15:
            self.anything.set_vm_khz()
        if self.chance.random() < 0.3:
            written = self._choose_write()
            self._each(
                range(count),
                lambda number: [lambda: self.anything.create_one(number), lambda: written(number)],
            )
        else:
            self._each(range(count), lambda number: [lambda: self.anything.create_one(number)])
            if self.chance.random() < 0.6:
                self.start_up()

    def part(self) -> None:
        """One more part of its life, or a step of any kind."""
        chosen = [each for each in self._parts if each[1]] or [(self.restore, 1)]
        if self.chance.random() < 0.25:
            return self.anything.step()
        parts, weights = zip(*chosen, strict=True)
        part: Callable[[], None] = self.chance.choices(parts, weights)[0]
        return part()

    def _kinds(self) -> list[tuple[Callable[[], None], int]]:
        return [
            *((self.start_up, 2), (self.run_all, 3), (self.save, 2), (self.restore, 6), (self.hotplug, 2)),
            *((self.stop, 1), (self.migrate, 1), (self.guests_act, 2), (self.set_rates, 1)),
            *((self.copy_offset, 1), (self.anything.wait, 4), (self.anything.look, 3)),
            *(self.anything.devices.kinds() if self.anything.devices else ()),
            *(self.anything.of_host_clock() if self.draft.leaves_tsc else ()),
        ]

    # Its parts

    def start_up(self) -> None:
        """What VMMs write at a start or reset: 0, 1, or both."""
        numbers = self.chance.choice(((0,), (1,), (0, 1), (1, 1)))
        for number in numbers:
            self._each(self.draft.vcpus, lambda vcpu, number=number: [lambda: self._write(vcpu, number)])  # type: ignore[misc]
            self.draft.add(
                Sleep(ns=self.chance.choice((0, 4 * MS, 110 * MS)), label=self.draft.label("wait"))
            )

    def run_all(self) -> None:
        """Guests run, some of which switch their pages on."""
        vcpus = self.draft.vcpus if self.chance.random() < 0.7 else self.draft.vcpus[:1]
        for number in vcpus[:4]:
            if self.chance.random() < 0.4:
                self.anything.page_on(number)
            self.anything.run(number)
            if self.draft.vcpu(number).pv_time and self.chance.random() < 0.5:
                self.draft.add(ReadKvmclock(vcpu=number, label=self.draft.label("page-then")))

    def save(self) -> None:
        """TSCs and the clock are read."""
        for number in self.draft.vcpus:
            label = self.draft.label("saved")
            indices = self.chance.choice((("TSC",), ("TSC", "TSC_ADJUST")))
            if self.draft.add(GetMsrs(vcpu=number, indices=indices, label=label)):
                self.saved[number] = label
        label = self.draft.label("saved-clock")
        if self.draft.add(GetClock(label=label)):
            self.saved_clock = label

    def restore(self) -> None:
        """Each vCPU is given the TSC of one timeline, as this VMM does it."""
        write = self._choose_write()
        self._each(self.draft.vcpus, lambda number: [*self._before(number), lambda: write(number)])
        if self.chance.random() < 0.3:
            self._restore_clock()
        if self.chance.random() < 0.2:
            for number in self.draft.vcpus:
                self.draft.add(KvmclockCtrl(vcpu=number, label=self.draft.label("stopped")))

    def hotplug(self) -> None:
        """A vCPU more, to which 0, 1, the others' TSC or nothing is written."""
        before = set(self.draft.guests)
        self.anything.create()
        for number in set(self.draft.guests) - before:
            how = self.chance.choice(("nothing", "nothing", "zero", "one", "others"))
            if how in ("zero", "one"):
                self._write(number, 0 if how == "zero" else 1)
            elif how == "others" and before:
                label = self.draft.label("others")
                self.draft.add(GetMsrs(vcpu=min(before), indices=("TSC",), label=label))
                self._write(number, Read(label, 0))

    def stop(self) -> None:
        """The VM is stopped and goes on later."""
        for number in self.draft.vcpus:
            self.draft.add(KvmclockCtrl(vcpu=number, label=self.draft.label("stopped")))
        self.anything.wait()
        self.run_all()

    def migrate(self) -> None:
        """The kernel's own recipe: all vCPUs get offsets that differ from what they were by one time."""
        plus = values.distance(self.draft)
        for number in self.draft.vcpus:
            label = self.draft.label("offset")
            self.draft.add(GetTscOffset(vcpu=number, label=label))
            offset = Read(label, plus)
            self.draft.add(SetTscOffset(vcpu=number, offset=offset, label=self.draft.label("set-offset")))

    def copy_offset(self) -> None:
        """The first vCPU's offset is set for all others."""
        label = self.draft.label("offset")
        self.draft.add(GetTscOffset(vcpu=self.draft.vcpus[0], label=label))
        for number in self.draft.vcpus[self.chance.choice((0, 1, 1)) :]:
            offset = Read(label, 0)
            self.draft.add(SetTscOffset(vcpu=number, offset=offset, label=self.draft.label("set-offset")))

    def guests_act(self) -> None:
        """Guests write MSRs of their own."""
        for _ in range(self.chance.choice((1, 1, 2))):
            self.anything.guest_write()

    def set_rates(self) -> None:
        """All vCPUs are set to one rate, as a VMM does for a guest from another host."""
        khz = values.khz(self.draft)
        self._each(
            self.draft.vcpus,
            lambda number: [
                lambda: self._add(SetTscKhz(vcpu=number, khz=khz, label=self.draft.label("set-khz")))
            ],
        )

    # How parts are played

    def _each(self, vcpus: "range | list[int]", steps_of: Callable[[int], Steps]) -> None:
        """The steps for each vCPU: one vCPU after the other, one step after the other, or in any order."""
        steps = [steps_of(number) for number in vcpus]
        way = self.chance.choice(("vcpus", "vcpus", "steps", "any"))
        while any(steps):
            ahead = [each for each in steps if each]
            if way == "vcpus":
                ahead[0].pop(0)()
            elif way == "any":
                self.chance.choice(ahead).pop(0)()
            else:
                for each in ahead:
                    each.pop(0)()
            if self.chance.random() < 0.04:
                self.anything.step()

    def _add(self, operation: SetTscKhz | GetTscKhz) -> None:
        self.draft.add(operation)

    def _write(self, number: int, value: Value) -> None:
        if number in self.draft.guests:
            label = self.draft.label("write")
            self.draft.add(SetMsrs(vcpu=number, msrs=(("TSC", value),), label=label))

    def _writes(self, value: int) -> Callable[[int], Steps]:
        return lambda vcpu: [lambda: self._write(vcpu, value)]

    def _before(self, number: int) -> Steps:
        """What comes before a vCPU's TSC is restored, sometimes."""
        how = self.chance.choice(("", "", "", "khz", "same-khz", "adjust"))
        if how == "khz":
            return [lambda: self._add(GetTscKhz(vcpu=number, label=self.draft.label("khz")))]
        if how == "same-khz":
            return [lambda: self._add(SetTscKhz(vcpu=number, khz=Ppm(0), label=self.draft.label("set-khz")))]
        if how == "adjust":
            label = self.draft.label("adjust")
            adjust: tuple[tuple[str, Value], ...] = (("TSC_ADJUST", values.adjust(self.draft)),)
            return [lambda: self._set(SetMsrs(vcpu=number, msrs=adjust, label=label))]
        return []

    def _set(self, operation: SetMsrs) -> None:
        self.draft.add(operation)

    def _choose_write(self) -> Callable[[int], None]:
        """How this VMM gives a vCPU its TSC: the values are of one timeline."""
        how = self.chance.choice(("msr", "msr", "msr", "several", "together"))
        skew = self.chance.choice(_SKEWS_NS)
        age = self.chance.choice(_AGES_NS)
        near = values.distance(self.draft).ns
        style = self.chance.choice(("age", "age", "saved", "own"))
        done: list[int] = []

        def value_of(number: int) -> Value:
            plus = Time(skew * number)
            if style == "saved" and number in self.saved:
                return Read(self.saved[number], plus)
            now = self.draft.tsc(self.draft.vcpus[0])
            if style == "own" and now is not None:
                khz = self.draft.vcpu(number).virtual_tsc_khz
                return self.draft.expressed(now + (near + plus.ns) * khz // 1_000_000, number)
            return Time(age + plus.ns)

        def write(number: int) -> None:
            if number not in self.draft.guests:
                return
            if how == "together" and len(self.draft.guests) > 1:
                if not done:
                    chosen = tuple(self.draft.vcpus[:3])
                    written = tuple(value_of(vcpu) for vcpu in chosen)
                    label = self.draft.label("at-once")
                    self.draft.add(WriteTogether(vcpus=chosen, values=written, label=label))
                    done.extend(chosen)
                if number in done:
                    return
            if how == "several":
                pairs = [("TSC", value_of(number)), ("TSC_ADJUST", values.adjust(self.draft))]
                self.chance.shuffle(pairs)
                label = self.draft.label("several")
                self.draft.add(SetMsrs(vcpu=number, msrs=tuple(pairs), label=label))
                return
            self._write(number, value_of(number))

        return write

    def _restore_clock(self) -> None:
        if self.saved_clock:
            realtime = self.chance.choice((None, Read(self.saved_clock, 0, 2)))
            clock: Value = Read(self.saved_clock, 0)
        else:
            realtime, clock = None, Time(self.chance.choice(_AGES_NS))
        self.draft.add(SetClock(clock=clock, realtime=realtime, label=self.draft.label("set-clock")))
