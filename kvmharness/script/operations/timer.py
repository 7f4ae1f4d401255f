# SPDX-License-Identifier: GPL-2.0-or-later
"""An interrupt chip, and the local APIC's timer in TSC-deadline mode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvmharness.script.codec import Duration, ToWrite, ToWriteIfAny
from kvmharness.script.operations.base import OfVcpu, Operation, Resolver, failed
from kvmharness.script.value import value_in_words

__all__ = ["AwaitTimer", "CreateIrqchip", "GetLapic", "SetLapic"]

# The guest that takes the timer's interrupt.
_GUEST = "timer-16"
_FORMS = {
    "TSC_DEADLINE": "wrote deadline {}",
    "armed": "at TSC {}",
    "fired": "interrupt at TSC {} (0: none)",
}


@dataclass(frozen=True, kw_only=True)
class CreateIrqchip(Operation):
    """KVM_CREATE_IRQCHIP: the VM's vCPUs get local APICs, and a CPUID that offers the TSC-deadline timer."""

    name = "create_irqchip"
    phrase = "KVM_CREATE_IRQCHIP"

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """A second one is refused, and one after the first vCPU."""
        return failed(error) if error not in ("", "EEXIST", "EINVAL") else ""


class _Lapic(OfVcpu):
    value_names = ("lvtt", "requested")

    def form(self, place: int) -> str:
        """With the value's name."""
        return f"{self.value_names[place]} {{}}"


@dataclass(frozen=True, kw_only=True)
class SetLapic(_Lapic):
    """KVM_SET_LAPIC of `vcpu`: its timer in TSC-deadline mode, and all else as KVM_GET_LAPIC reports it.

    With a `requested` other than 0 the timer's interrupt waits to be taken; one that waits already goes on
    waiting. Records the timer's entry of the local vector table, and that. EINVAL, and nothing is set, with a
    guest that does not take the interrupt, or without an interrupt chip.
    """

    name = "set_lapic"
    phrase = "KVM_SET_LAPIC"
    requested: ToWrite = 0

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """With another guest."""
        return guests[self.vcpu] != _GUEST

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """Without a chip KVM refuses it."""
        return failed(error) if error not in ("", "EINVAL") else ""

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """Whether the interrupt waits."""
        return (int(resolver.cycles(self.vcpu, self.requested) != 0),)

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """Whether the interrupt waits."""
        return values[1:]

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """The entry is the model's."""
        return (*read[:1], *written)


@dataclass(frozen=True, kw_only=True)
class GetLapic(_Lapic):
    """KVM_GET_LAPIC of `vcpu`: its timer's entry of the local vector table; whether its interrupt waits."""

    name = "get_lapic"
    phrase = "KVM_GET_LAPIC"

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """Without a chip KVM refuses it."""
        return failed(error) if error not in ("", "EINVAL") else ""


@dataclass(frozen=True, kw_only=True)
class AwaitTimer(OfVcpu):
    """KVM_RUN of `vcpu` until its guest takes the timer's interrupt, or for `ns`.

    Reads the guest's TSC when the interrupt came, in cycles; 0 if none came. With a `deadline` the guest
    first writes that to IA32_TSC_DEADLINE: then it records the deadline, and the guest's TSC just after that
    write, 0 if it did not get there. EINVAL, and nothing runs, unless the vCPU was created with the guest
    "timer-16".
    """

    name = "await_timer"
    phrase = "await the timer's interrupt"
    enters_guest = True
    deadline: ToWriteIfAny = None
    ns: Duration = 20_000_000

    @property
    def value_names(self) -> tuple[str, ...]:
        """When the interrupt came, after what the guest wrote."""
        return ("fired",) if self.deadline is None else ("TSC_DEADLINE", "armed", "fired")

    @property
    def waits_ns(self) -> int:
        """Where no interrupt comes."""
        return self.ns

    def form(self, place: int) -> str:
        """With the value's name."""
        return _FORMS[self.value_names[place]]

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """With another guest."""
        return guests[self.vcpu] != _GUEST

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """EINVAL is the player's own: nothing ran."""
        return failed(error) if error != "EINVAL" else ""

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """The deadline, and when the guest wrote it."""
        return values[:-1]

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The deadline, if there is one."""
        return () if self.deadline is None else (resolver.cycles(self.vcpu, self.deadline),)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What the guest notes of its TSC is predicted."""
        return (*written, *read[len(written) :])

    def in_words(self) -> str:
        """With the deadline."""
        if self.deadline is None:
            return self.describe()
        return f"{self.describe()}, whose deadline the guest sets to {value_in_words(self.deadline)}"
