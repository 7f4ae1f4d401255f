# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of a VM whose guests read their steal time, and whose thread has to wait for its CPU now and then."""

from collections.abc import Callable

from kvmharness.explore.devices import Devices
from kvmharness.explore.draft import MS
from kvmharness.guests.layout import steal_time_address
from kvmharness.script import GetMsrs, GuestWrite, ReadStealTime, SetMsrs, WaitForCpu

_WAITED_NS = (MS // 5, MS, MS, 3 * MS)
_RESERVED = 0x3E  # KVM_STEAL_RESERVED_MASK


class Steal(Devices):
    """The MSR written and read, steal time read, and a thread that waits."""

    guest = "steal-16"

    def created(self, number: int) -> None:
        """The steal time of a new vCPU is switched on, most of the time."""
        if self.chance.random() < 0.7:
            self._write(number, steal_time_address(number) + 1)

    def kinds(self) -> list[tuple[Callable[[], None], int]]:
        """Each kind of step, and how often it comes."""
        return [(self.write, 4), (self.read, 8), (self.wait, 3), (self.read_msr, 1)]

    def last_look(self, number: int) -> None:
        """The steal time of a vCPU's guest."""
        if self._uses(number):
            self.draft.add(ReadStealTime(vcpu=number, label=self.draft.label("last-steal")))

    # One method for each kind of step

    def write(self) -> None:
        """The MSR: on, off, with bits that are reserved; rarely another vCPU's page."""
        vcpu = self._one()
        own, other = (steal_time_address(each) for each in (vcpu, vcpu + 1))
        values = own + 1, own, 0, own + 1 | _RESERVED, own + 2, other + 1
        self._write(vcpu, self.chance.choices(values, (8, 2, 3, 1, 1, 1))[0])

    def read(self) -> None:
        """A guest reads its steal time."""
        self.draft.add(ReadStealTime(vcpu=self._one(), label=self.draft.label("steal")))

    def wait(self) -> None:
        """The thread has to wait for the CPU."""
        self.draft.add(WaitForCpu(ns=self.chance.choice(_WAITED_NS), label=self.draft.label("compete")))

    def read_msr(self) -> None:
        """The MSR, read."""
        label = self.draft.label("steal-msr")
        self.draft.add(GetMsrs(vcpu=self._one(), indices=("STEAL_TIME",), label=label))

    def _write(self, vcpu: int, value: int) -> None:
        if self._uses(vcpu) and not value & _RESERVED and self.chance.random() < 0.4:
            label = self.draft.label("guest-steal")
            self.draft.add(GuestWrite(vcpu=vcpu, msr="STEAL_TIME", value=value, label=label))
            return
        msrs = (("STEAL_TIME", value),)
        self.draft.add(SetMsrs(vcpu=vcpu, msrs=msrs, label=self.draft.label("steal-write")))
