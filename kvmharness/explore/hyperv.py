# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of a VM whose guests take their hypervisor for a Hyper-V: its reference time, counter and page."""

from collections.abc import Callable

from kvmharness.explore.devices import Devices
from kvmharness.guests.layout import TSC_PAGE
from kvmharness.script import (
    GetMsrs,
    GuestWrite,
    Operation,
    ReadReferenceTime,
    ReadTscPage,
    SetHvCpuid,
    SetMsrs,
)

_OS_ID = 0x8100 << 48  # HYPERV_LINUX_OS_ID
# What is written to each MSR.
_WRITTEN = {
    "HV_REFERENCE_TSC": (TSC_PAGE + 1, TSC_PAGE + 1, TSC_PAGE + 1, TSC_PAGE, 0),
    "HV_GUEST_OS_ID": (_OS_ID, _OS_ID, 0),
    "HV_REENLIGHTENMENT_CONTROL": (0, 0x100EF),
    "HV_TSC_EMULATION_CONTROL": (0, 1, 1),
}


class HyperV(Devices):
    """The CPUID, the MSRs, and the time read in each way."""

    guest = "hyperv-16"

    def created(self, number: int) -> None:
        """A new vCPU is given the CPUID of a Hyper-V."""
        self.draft.add(SetHvCpuid(vcpu=number, label=self.draft.label("hv-cpuid")))

    def kinds(self) -> list[tuple[Callable[[], None], int]]:
        """Each kind of step, and how often it comes."""
        return [
            *((self.page_on, 3), (self.write, 2), (self.read, 8), (self.read_page, 3), (self.count, 4)),
            *((self.frequency, 1), (self.cpuid_again, 1)),
        ]

    def last_look(self, number: int) -> None:
        """The reference time of a vCPU's guest, in both ways."""
        if self._uses(number):
            self.draft.add(ReadReferenceTime(vcpu=number, label=self.draft.label("last-reference")))

    # One method for each kind of step

    def page_on(self) -> None:
        """The TSC page is switched on, as a guest or a VMM does it."""
        vcpu = self._one()
        self._write(vcpu, (("HV_GUEST_OS_ID", _OS_ID), ("HV_REFERENCE_TSC", TSC_PAGE + 1)))

    def write(self) -> None:
        """One of the MSRs, whatever may be written to it."""
        name = self.chance.choice(tuple(_WRITTEN))
        self._write(self._one(), ((name, self.chance.choice(_WRITTEN[name])),))

    def read(self) -> None:
        """A guest reads its reference time."""
        self.draft.add(ReadReferenceTime(vcpu=self._one(), label=self.draft.label("reference")))

    def read_page(self) -> None:
        """What lies in the page."""
        self.draft.add(ReadTscPage(label=self.draft.label("tsc-page")))

    def count(self) -> None:
        """The counter, read from outside between two readings of the TSC."""
        indices = ("TSC", "HV_TIME_REF_COUNT", "TSC")
        self.draft.add(GetMsrs(vcpu=self._one(), indices=indices, label=self.draft.label("count")))

    def frequency(self) -> None:
        """The rate of the TSC, and the page's MSR."""
        indices = ("HV_TSC_FREQUENCY", "HV_REFERENCE_TSC")
        self.draft.add(GetMsrs(vcpu=self._one(), indices=indices, label=self.draft.label("frequency")))

    def cpuid_again(self) -> None:
        """The CPUID once more, which a vCPU that has run may refuse."""
        self.created(self._one())

    def _write(self, vcpu: int, msrs: tuple[tuple[str, int], ...]) -> None:
        by_guest = self._uses(vcpu) and self.chance.random() < 0.5
        steps: list[Operation] = [SetMsrs(vcpu=vcpu, msrs=msrs, label=self.draft.label("hv-write"))]
        if by_guest:
            label = self.draft.label
            steps = [
                GuestWrite(vcpu=vcpu, msr=msr, value=value, label=label("guest-hv")) for msr, value in msrs
            ]
        for step in steps:
            self.draft.add(step)
