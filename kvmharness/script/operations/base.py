# SPDX-License-Identifier: GPL-2.0-or-later
"""What every operation says of itself.

An operation is a dataclass of what it does. Its fields' types say how they go to JSON (see `codec`), the
names of its values what a step of it records, and its methods what everybody else wants to know: reading
traces, judging, simulating, reporting. Nobody asks an operation for its class.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from kvmharness.script.codec import Label, VcpuNumber, VcpuNumbers
from kvmharness.script.value import Khz, Value

# Every operation's class by its name.
OPERATIONS: dict[str, "type[Operation]"] = {}


class Resolver(Protocol):
    """What values to write stand for at this step: the player's part, for a simulated one.

    Cycles modulo 2**64, ns, kHz. `here` is the CPU that the playing thread is on, `run_delay` how long that
    has waited for one in all (ns), cpu() the number of the CPU that MoveThread calls so. NothingReadError
    where a value depends on a step that read nothing.
    """

    @property
    def here(self) -> int:
        """The CPU that the playing thread is on."""

    @property
    def run_delay(self) -> int:
        """How long the playing thread has waited for a CPU, in ns."""

    def cpu(self, number: int) -> int:
        """The CPU that stands at this place among those that the player may use, over and over."""

    def cycles(self, vcpu: int, value: Value) -> int:
        """The cycles of a vCPU that a value stands for."""

    def ns(self, value: Value) -> int:
        """The ns that a value stands for."""

    def vcpu_khz(self, vcpu: int, khz: Khz) -> int:
        """The kHz that a frequency stands for, of a vCPU."""

    def vm_khz(self, khz: Khz) -> int:
        """The kHz that a frequency stands for, of the VM."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of a script.

    name          what JSON calls it
    phrase        what it does, in words
    value_form    how a value of it is said, with its unit or its name
    creates_vcpu  whether its vCPU comes to be by it
    enters_guest  whether guests run in it
    by_guest      whether all that it records is what the guest read of its TSC
    sets_tsc      whether it gives its vCPU a TSC
    sets_clock    whether it sets the VM's clock
    only_waits    whether it does nothing but wait, `ns` ns
    """

    name: ClassVar[str] = ""
    phrase: ClassVar[str] = ""
    value_form: ClassVar[str] = "{}"
    creates_vcpu: ClassVar[bool] = False
    enters_guest: ClassVar[bool] = False
    by_guest: ClassVar[bool] = False
    sets_tsc: ClassVar[bool] = False
    sets_clock: ClassVar[bool] = False
    only_waits: ClassVar[bool] = False

    label: Label = ""

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            OPERATIONS[cls.name] = cls

    # The script

    @property
    def vcpu_numbers(self) -> tuple[int, ...]:
        """The vCPUs that it is about."""
        return ()

    @property
    def new_guest(self) -> str:
        """The program of the guest in the vCPU that it creates; "" if it creates none."""
        return ""

    @property
    def one_after_the_other(self) -> "tuple[Operation, ...]":
        """What it does to several vCPUs at once, as an operation on each; where it does not, itself."""
        return (self,)

    @property
    def waits_ns(self) -> int:
        """How long it waits, in ns."""
        return 0

    @property
    def rate_off_ppm(self) -> int | None:
        """How far off the first rate, in millionths, the rate is that it sets; None if it sets none so."""
        return None

    @property
    def l2_rate_ppm(self) -> int | None:
        """How fast the guest's own guest counts, in millionths of the guest's rate; None if just as fast."""
        return None

    @property
    def host_clock_on_tsc(self) -> bool | None:
        """Whether the host's own clock runs on its TSC by it; None where it leaves that as it was."""
        return None

    def complaint(self) -> str:
        """Why it makes no sense, or ""."""
        return ""

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """Whether the player refuses it with EINVAL, with these guests by vCPU and so many CPUs."""
        return False

    # What a step of it records

    @property
    def value_names(self) -> tuple[str, ...]:
        """The names of its values, in their order; with a vCPU's number where each vCPU has its own."""
        return ()

    def value_counts(self, error: str) -> Container[int]:
        """How many values a step of it may have; one that failed may have none."""
        count = len(self.value_names)
        return (0, count) if error else (count,)

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """Of its values those that it wrote, and what else of it was known beforehand."""
        return values

    def samples(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """Of its values those that a guest read of its TSC while it ran."""
        return ()

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """Why nothing can be said of what comes after a step that ended so, or ""."""
        return ""

    def guest_tsc(self, values: tuple[int, ...]) -> int | None:
        """The guest TSC that it wrote or read, in cycles; the last one. None if it did neither."""
        return None

    def tsc_offset(self, values: tuple[int, ...]) -> int | None:
        """The TSC offset that it wrote or read, in cycles modulo 2**64; None if it did neither."""
        return None

    def only_reads_tsc(self, values: tuple[int, ...], error: str) -> bool:
        """Whether it read its vCPU's TSC, or the offset, and left both as they were."""
        return False

    def new_khz(self, values: tuple[int, ...]) -> int | None:
        """The kHz that its vCPU has by it, 0 for the host's own; None if those it had before."""
        return None

    @property
    def guest_writes(self) -> str:
        """The MSR that its guest writes; "" if none does."""
        return ""

    # What a simulated player makes of it

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The values that it writes, and what else of it is known beforehand."""
        return ()

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """The values of a step, of which `written` were known beforehand, and the model predicted `read`."""
        return tuple(read)

    # Words

    def describe(self) -> str:
        """What it does, in the imperative."""
        return self.phrase

    def in_words(self) -> str:
        """What it does, with the values it writes."""
        return self.describe()

    def form(self, place: int) -> str:
        """How its value at this place (from 0) is said, with its unit or its name: "{} kHz"."""
        return self.value_form

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """What a step of it recorded, as far as that is worth a word."""
        return [self.form(place).format(value) for place, value in enumerate(values)]

    def effect(self, values: tuple[int, ...]) -> str:
        """What its values say in a word; "" where what it did shows in its vCPU's TSC."""
        return ""


@dataclass(frozen=True, kw_only=True)
class OfVcpu(Operation):
    """An operation on one vCPU."""

    vcpu: VcpuNumber

    @property
    def vcpu_numbers(self) -> tuple[int, ...]:
        """Its vCPU alone."""
        return (self.vcpu,)

    def describe(self) -> str:
        """What it does, and to which vCPU."""
        return f"{self.phrase} of vCPU {self.vcpu}"


@dataclass(frozen=True, kw_only=True)
class OfVcpus(Operation):
    """An operation on several vCPUs at once."""

    vcpus: VcpuNumbers

    @property
    def vcpu_numbers(self) -> tuple[int, ...]:
        """Its vCPUs, in its order."""
        return self.vcpus

    def describe(self) -> str:
        """What it does, and to which vCPUs."""
        return f"{self.phrase} {', '.join(map(str, self.vcpus))} at once"


Script = tuple[Operation, ...]


def failed(error: str) -> str:
    """That nothing can be said of a step because it failed, or ""."""
    return f"it failed with {error}" if error else ""


def unknown_write(values: tuple[int, ...], error: str) -> str:
    """That it is not known what a step that failed would have written, or ""."""
    return "" if values else f"it failed with {error} before it was known what was to be written"


def no_rate(values: tuple[int, ...], least: int) -> str:
    """That the first value is no rate of a TSC, or ""."""
    return f"{values[0]} kHz is no rate of a TSC" if values and not least <= values[0] < 2**32 else ""
