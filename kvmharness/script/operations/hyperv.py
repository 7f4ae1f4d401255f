# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference time of a guest that takes its hypervisor for a Hyper-V: the counter, and the TSC page.

The reference time counts units of 100 ns. It is one for all vCPUs of a VM, and so is the page.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.script.codec import Duration
from kvmharness.script.operations.base import OfVcpu, Operation, failed

__all__ = ["ReadReferenceTime", "ReadTscPage", "SetHvCpuid"]

_RUN_NS = 10_000_000_000
_PAGE = ("hv_sequence", "hv_scale", "hv_offset")


@dataclass(frozen=True, kw_only=True)
class SetHvCpuid(OfVcpu):
    """KVM_SET_CPUID2 of `vcpu` with the leaves of KVM_GET_SUPPORTED_HV_CPUID.

    Its guest then may use the MSRs of a Hyper-V.

    EINVAL where the kernel has no Hyper-V, or the vCPU has run.
    """

    name = "set_hv_cpuid"
    phrase = "give the CPUID of a Hyper-V"

    def describe(self) -> str:
        """To which vCPU."""
        return f"{self.phrase} to vCPU {self.vcpu}"


@dataclass(frozen=True, kw_only=True)
class ReadReferenceTime(OfVcpu):
    """Let the guest of `vcpu` read the VM's reference time, by the MSR and by the TSC page.

    KVM_RUN until the guest exits, or for `ns`. Reads the guest's TSC, HV_X64_MSR_TIME_REF_COUNT and its TSC
    again, and what the guest copied of the page: sequence, scale and offset. Nothing where KVM refuses the
    MSR. EINVAL, and nothing runs, with another guest than "hyperv-16".
    """

    name = "read_reference_time"
    phrase = "let the guest read the reference time"
    value_names = ("tsc_before", "reference", "tsc_after", *_PAGE)
    enters_guest = True
    ns: Duration = _RUN_NS

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """With a guest that does not read it."""
        return not PROGRAMS[guests[self.vcpu]].reads_reference

    def value_counts(self, error: str) -> Container[int]:
        """All, or none where the guest did not come so far."""
        return (0, len(self.value_names))

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """Nothing."""
        return ()

    def samples(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """Before and after the MSR."""
        return values[0:3:2]

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """EINVAL is the player's own: nothing ran."""
        return failed(error) if error != "EINVAL" else ""

    def guest_tsc(self, values: tuple[int, ...]) -> int | None:
        """The last one."""
        return values[2] if values else None

    def only_reads_tsc(self, values: tuple[int, ...], error: str) -> bool:
        """If the guest came to it."""
        return bool(values) and not error

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """The counter and the page."""
        return [f"reference time {values[1]}", *_page_in_words(values[3:])] if values else []

    def effect(self, values: tuple[int, ...]) -> str:
        """Whether the guest may go by the page."""
        return _effect(values[3:])


@dataclass(frozen=True, kw_only=True)
class ReadTscPage(Operation):
    """Read the VM's Hyper-V TSC page out of the guest's memory, where `layout.TSC_PAGE` has it.

    Reads sequence, scale and offset: the reference time is (TSC * scale >> 64) + offset. All are 0 unless MSR
    HV_REFERENCE_TSC was written to that address plus 1 and a vCPU has run since. A sequence of 0 says that
    the guest is not to go by the page.
    """

    name = "read_tsc_page"
    phrase = "read the Hyper-V TSC page"
    value_names = _PAGE

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """Each with its name."""
        return _page_in_words(values)

    def effect(self, values: tuple[int, ...]) -> str:
        """Whether the guest may go by it."""
        return _effect(values)


def _page_in_words(page: tuple[int, ...]) -> list[str]:
    return [
        f"{name.removeprefix('hv_')} {value}"
        for name, value in zip(("sequence", "scale", "page offset"), page, strict=False)
    ]


def _effect(page: tuple[int, ...]) -> str:
    if not page:
        return "no reference time"
    return "by the page" if page[0] else "not by the page"
