# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM's clock, and the kvmclock pages in which KVM tells guests the time."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from kvmharness.script.codec import Duration, ToWrite, ToWriteIfAny
from kvmharness.script.operations.base import OfVcpu, Operation, Resolver, failed, unknown_write
from kvmharness.script.value import Read, value_in_words

__all__ = [
    "HOST_TSC",
    "PVCLOCK_GUEST_STOPPED",
    "PVCLOCK_TSC_STABLE_BIT",
    "REALTIME",
    "TSC_STABLE",
    "GetClock",
    "GetClockGuest",
    "KvmclockCtrl",
    "ReadKvmclock",
    "SetClock",
    "SetClockDuringRun",
    "SetClockGuest",
]

# Of clock_flags, which GetClock reads: KVM_CLOCK_TSC_STABLE, KVM_CLOCK_REALTIME, KVM_CLOCK_HOST_TSC.
TSC_STABLE, REALTIME, HOST_TSC = 2, 4, 8
# Of the flags that ReadKvmclock reads.
PVCLOCK_TSC_STABLE_BIT, PVCLOCK_GUEST_STOPPED = 1, 2


@dataclass(frozen=True, kw_only=True)
class GetClock(Operation):
    """KVM_GET_CLOCK of the VM; reads clock (ns) and flags.

    With both KVM_CLOCK_REALTIME and KVM_CLOCK_HOST_TSC (5.16 and later, as long as there is a masterclock)
    also the host's real time (ns) and TSC of that moment.
    """

    name = "get_clock"
    phrase = "KVM_GET_CLOCK"
    value_names = ("clock", "clock_flags", "realtime", "host_tsc")

    def value_counts(self, error: str) -> Container[int]:
        """Without the host's where the kernel does not say it."""
        return (0, 2) if error else (2, 4)

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """No kernel refuses it."""
        return failed(error)

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """The clock and its flags."""
        return [f"{values[0]} ns", f"flags {values[1]:#x}"] if values else []

    def effect(self, values: tuple[int, ...]) -> str:
        """Whether KVM calls the clock stable."""
        return "stable" if values[1] & TSC_STABLE else "not stable"


@dataclass(frozen=True, kw_only=True)
class SetClock(Operation):
    """KVM_SET_CLOCK of the VM to `clock` (ns).

    With a `realtime` (ns) also KVM_CLOCK_REALTIME: the time that has passed since then is added. A Time is
    its ns.
    """

    name = "set_clock"
    phrase = "KVM_SET_CLOCK"
    sets_clock = True
    clock: ToWrite
    realtime: ToWriteIfAny = None

    @property
    def value_names(self) -> tuple[str, ...]:
        """The clock, and the real time if there is one."""
        return ("clock",) if self.realtime is None else ("clock", "realtime")

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """What it was to write has to be known."""
        return unknown_write(values, error)

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The clock, and the real time if there is one."""
        given = (self.clock, self.realtime)
        return tuple(resolver.ns(value) for value in given if value is not None)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What it wrote."""
        return written

    def in_words(self) -> str:
        """With the clock and the real time."""
        since = "" if self.realtime is None else f", of real time {value_in_words(self.realtime)}"
        return f"{self.describe()} to {value_in_words(self.clock)}{since}"


@dataclass(frozen=True, kw_only=True)
class SetClockDuringRun(OfVcpu):
    """KVM_SET_CLOCK of the VM to `clock` (ns) while the guest of `vcpu` runs in another thread, for `ns`.

    The guest, "warp-64", runs on the first CPU, as MoveThread counts them, that the playing thread is not
    on. The clock is set after half the time. Records the playing thread's CPU and the guest's, by their
    numbers in the system, and the clock. EINVAL, and nothing runs, with one CPU, or another guest.
    """

    name = "set_clock_during_run"
    phrase = "KVM_SET_CLOCK during a run"
    value_names = ("cpu", "cpu_of_guest", "clock")
    sets_clock = True
    enters_guest = True
    clock: ToWrite
    ns: Duration = 20_000_000

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """With one CPU, or another guest."""
        return cpus < 2 or guests[self.vcpu] != "warp-64"

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """EINVAL is the player's own: nothing ran."""
        return failed(error) if error != "EINVAL" else ""

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """All of it."""
        here = resolver.here
        other = resolver.cpu(1) if here == resolver.cpu(0) else resolver.cpu(0)
        return (here, other, resolver.ns(self.clock))

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """All of it."""
        return written

    def in_words(self) -> str:
        """With the clock."""
        return f"{self.describe()} to {value_in_words(self.clock)}"


@dataclass(frozen=True, kw_only=True)
class KvmclockCtrl(OfVcpu):
    """KVM_KVMCLOCK_CTRL of `vcpu`: its guest is to learn that it was stopped."""

    name = "kvmclock_ctrl"
    phrase = "KVM_KVMCLOCK_CTRL"


@dataclass(frozen=True, kw_only=True)
class PageReading(OfVcpu):
    """A reading of a struct pvclock_vcpu_time_info: the time as a function of the vCPU's TSC."""

    value_names = ("version", "tsc_timestamp", "system_time", "multiplier", "shift", "flags")

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """Each with its name."""
        return [
            f"{name} {value:#x}" if name in ("version", "flags") else f"{name} {value}"
            for name, value in zip(self.value_names, values, strict=False)
        ]

    def effect(self, values: tuple[int, ...]) -> str:
        """What the page says of the clock, if it is there."""
        if not values[0]:
            return "empty"
        stopped = ", stopped" if values[5] & PVCLOCK_GUEST_STOPPED else ""
        return f"{'stable' if values[5] & PVCLOCK_TSC_STABLE_BIT else 'not stable'}{stopped}"


@dataclass(frozen=True, kw_only=True)
class ReadKvmclock(PageReading):
    """Read the kvmclock page of `vcpu` out of the guest's memory, where `layout.kvmclock_address` has it.

    Reads version, tsc_timestamp (cycles), system_time (ns), tsc_to_system_mul, tsc_shift (a signed byte, as
    0 to 255) and flags. All are 0 unless MSR SYSTEM_TIME was written to that address plus 1, by whomever,
    and the vCPU has run since.
    """

    name = "read_kvmclock"
    phrase = "read the kvmclock page"


@dataclass(frozen=True, kw_only=True)
class GetClockGuest(OfVcpu):
    """KVM_GET_CLOCK_GUEST of `vcpu`: the VM's clock as a function of its TSC, as its kvmclock page has it.

    Reads what ReadKvmclock reads; the version says nothing. No release has it ("Cleaning up the KVM clock
    mess", 2026). EINVAL or ENODATA without a masterclock.
    """

    name = "get_clock_guest"
    phrase = "KVM_GET_CLOCK_GUEST"
    value_names = ("page_version", "tsc_timestamp", "system_time", "multiplier", "shift", "page_flags")

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """Each with its name."""
        return [f"{name} {value}" for name, value in zip(self.value_names, values, strict=False)]


@dataclass(frozen=True, kw_only=True)
class SetClockGuest(OfVcpu):
    """KVM_SET_CLOCK_GUEST of `vcpu`: the VM's clock goes on as this function of this vCPU's TSC.

    `tsc_timestamp` is in cycles and `system_time` in ns; of `multiplier` 32 bits count, of `shift` eight.
    ERANGE where the function is of a TSC whose rate is more than 1 kHz off the vCPU's.
    """

    name = "set_clock_guest"
    phrase = "KVM_SET_CLOCK_GUEST"
    value_names = ("set_tsc_timestamp", "set_system_time", "set_multiplier", "set_shift")
    sets_clock = True
    tsc_timestamp: ToWrite
    system_time: ToWrite
    multiplier: ToWrite
    shift: ToWrite

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """What it was to write has to be known."""
        return unknown_write(values, error)

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """All four."""
        return (
            resolver.cycles(self.vcpu, self.tsc_timestamp),
            resolver.ns(self.system_time),
            resolver.ns(self.multiplier) % 2**32,
            resolver.ns(self.shift) % 2**8,
        )

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """What it wrote."""
        return written

    def values_in_words(self, values: tuple[int, ...]) -> list[str]:
        """Each with its name."""
        names = (name.removeprefix("set_") for name in self.value_names)
        return [f"{name} {value}" for name, value in zip(names, values, strict=False)]

    def in_words(self) -> str:
        """With the function: what one step read, with what is added to it, or each of its numbers."""
        given = {
            "tsc": self.tsc_timestamp,
            "time": self.system_time,
            "multiplier": self.multiplier,
            "shift": self.shift,
        }
        reads = [each for each in given.values() if isinstance(each, Read)]
        if len(reads) == len(given) and len({each.label for each in reads}) == 1:
            added = [
                f", {name} + {value_in_words(each.plus)}"
                for name, each in zip(given, reads, strict=True)
                if each.plus != 0
            ]
            return f"{self.describe()} to what {reads[0].label} read{''.join(added)}"
        numbers = ", ".join(f"{name} = {value_in_words(value)}" for name, value in given.items())
        return f"{self.describe()} to {numbers}"
