# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of a VM whose guests read their steal time, and whose thread has to wait for its CPU now and then."""

from collections.abc import Callable

from kvmharness.explore.draft import MS, Draft
from kvmharness.guests.layout import steal_time_address
from kvmharness.script import GetMsrs, GuestWrite, ReadStealTime, SetMsrs, WaitForCpu

GUEST = "steal-16"
_WAITED_NS = (MS // 5, MS, MS, 3 * MS)
_RESERVED = 0x3E  # KVM_STEAL_RESERVED_MASK


class Steal:
    """Takes such steps, for a draft that begins with them."""

    guest = GUEST

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.chance = draft.chance

    def begin(self) -> None:
        """Nothing comes before the first vCPU."""

    def created(self, number: int) -> None:
        """The steal time of a new vCPU is switched on, most of the time."""
        if self.chance.random() < 0.7:
            self._write(number, steal_time_address(number) + 1)

    def kinds(self) -> list[tuple[Callable[[], None], int]]:
        """Each kind of step, and how often it comes."""
        return [(self.write, 4), (self.read, 8), (self.wait, 3), (self.read_msr, 1)]

    def last_look(self, number: int) -> None:
        """The steal time of a vCPU's guest."""
        if self._reads(number):
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
        if self._reads(vcpu) and not value & _RESERVED and self.chance.random() < 0.4:
            label = self.draft.label("guest-steal")
            self.draft.add(GuestWrite(vcpu=vcpu, msr="STEAL_TIME", value=value, label=label))
            return
        msrs = (("STEAL_TIME", value),)
        self.draft.add(SetMsrs(vcpu=vcpu, msrs=msrs, label=self.draft.label("steal-write")))

    def _one(self) -> int:
        """One of the vCPUs, whose guest reads its steal time if any does."""
        reading = [number for number in self.draft.vcpus if self._reads(number)]
        return self.chance.choice(reading or self.draft.vcpus)

    def _reads(self, number: int) -> bool:
        return self.draft.guests[number] == GUEST
