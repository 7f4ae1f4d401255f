# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest (L1) enters a guest of its own (L2), which reads or writes its TSC and then stays current."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvmharness.script.codec import Duration, Level, MsrName, PpmIfAny, ToWrite, ToWriteIfAny
from kvmharness.script.operations.base import OfVcpu, Resolver, failed
from kvmharness.script.value import value_in_words

__all__ = ["NestedWrite", "RunL2"]

# The guest that has a guest of its own.
_GUEST = "nested-64"
_RUN_NS = 1_000_000_000
_FORMS = {"l2_offset": "offset {}", "l2_tsc": "L2's TSC {}", "l2_rdmsr": "by RDMSR {}"}
_WRITABLE = ("TSC", "TSC_ADJUST")


class _Nested(OfVcpu):
    """EINVAL, and nothing runs, unless the vCPU was created with the guest "nested-64", and may nest."""

    enters_guest = True

    def refused(self, guests: Mapping[int, str], cpus: int) -> bool:
        """With another guest."""
        return guests[self.vcpu] != _GUEST

    def doubt(self, values: tuple[int, ...], error: str) -> str:
        """EINVAL is the player's own: nothing ran."""
        if error:
            return failed(error) if error != "EINVAL" else ""
        if not values or len(values) == len(self.value_names):
            return ""
        return "its time was up, and whether L1 or L2 is current is not known"


@dataclass(frozen=True, kw_only=True)
class RunL2(_Nested):
    """KVM_RUN of `vcpu` until its L2 exits to the player, or for `ns`. L2 then is current.

    With an `offset` L1 enters L2 with that, in cycles: if L2 is current it leaves first. Without one an L2
    that is current goes on, and else is entered with the offset of the last time (0 at first). With a
    `rate_ppm` L2 counts so many millionths as fast as L1: L1 enters it with a multiplier of its own TSC, and
    then adds the offset. EINVAL where L1 may not scale, or where an L2 at another rate is to go on. Records
    the offset, L2's TSC by RDTSC, and after that by RDMSR.
    """

    name = "run_l2"
    phrase = "run L2"
    offset: ToWriteIfAny = None
    rate_ppm: PpmIfAny = None
    ns: Duration = _RUN_NS

    @property
    def value_names(self) -> tuple[str, ...]:
        """The offset, and what L2 read."""
        return tuple(_FORMS)

    @property
    def l2_rate_ppm(self) -> int | None:
        """The rate."""
        return self.rate_ppm

    def value_counts(self, error: str) -> range:
        """As far as L2 got."""
        return range(0 if error else 1, len(_FORMS) + 1)

    def form(self, place: int) -> str:
        """With the value's name."""
        return _FORMS[self.value_names[place]]

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """The offset, if there is one."""
        return () if self.offset is None else values[:1]

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """The offset, if there is one."""
        return () if self.offset is None else (resolver.cycles(self.vcpu, self.offset) % 2**64,)

    def guest_tsc(self, values: tuple[int, ...]) -> int | None:
        """L1's TSC, of which L2's is so far off; none if L2 counts at a rate of its own."""
        if self.rate_ppm is not None:
            return None
        return (values[1] - values[0]) % 2**64 if len(values) > 1 else None

    def only_reads_tsc(self, values: tuple[int, ...], error: str) -> bool:
        """If L2 came to it, and it is to be compared with L1's."""
        return len(values) > 1 and not error and self.rate_ppm is None

    def describe(self) -> str:
        """Whose L2 it is."""
        return f"run L2 of vCPU {self.vcpu}"

    def in_words(self) -> str:
        """With the offset."""
        rate = "" if self.rate_ppm is None else f" at {self.rate_ppm / 1_000_000:g} times L1's rate"
        if self.offset is None:
            return f"{self.describe()}{rate}"
        return f"{self.describe()}, entered with offset {value_in_words(self.offset)}{rate}"


@dataclass(frozen=True, kw_only=True)
class NestedWrite(_Nested):
    """Have L1 (`level` 1) or L2 (2) of `vcpu` execute WRMSR of TSC or TSC_ADJUST, between two RDTSC.

    L1 does not intercept what L2 writes. Which of the two it is then is current. Records what was to be
    written, and its TSC before and after, as far as it got.
    """

    name = "nested_write"
    sets_tsc = True
    value_names = ("written", "tsc_before", "tsc_after")
    level: Level
    msr: MsrName
    value: ToWrite
    ns: Duration = _RUN_NS

    @property
    def guest_writes(self) -> str:
        """The MSR."""
        return self.msr

    def complaint(self) -> str:
        """The CPU may refuse another MSR, which these guests do not survive."""
        return "" if self.msr in _WRITABLE else f"nested_write writes {' or '.join(_WRITABLE)} alone"

    def value_counts(self, error: str) -> range:
        """As far as it got."""
        return range(0 if error else 1, 4)

    def written(self, values: tuple[int, ...], error: str) -> tuple[int, ...]:
        """What was to be written."""
        return values[:1]

    def samples(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """All the others."""
        return values[1:]

    def guest_tsc(self, values: tuple[int, ...]) -> int | None:
        """L1's TSC: what was written, by L2 too; of TSC_ADJUST the last that L1 read."""
        if not values or self.msr == "TSC":
            return values[0] if values else None
        return values[-1] if self.level == 1 else None

    def to_write(self, resolver: Resolver) -> tuple[int, ...]:
        """What is to be written."""
        return (resolver.cycles(self.vcpu, self.value),)

    def recorded(self, written: tuple[int, ...], read: Sequence[int]) -> tuple[int, ...]:
        """The samples are predicted."""
        return (*written, *read[1:])

    def describe(self) -> str:
        """Who does it."""
        return f"let L{self.level} of vCPU {self.vcpu} execute WRMSR"

    def in_words(self) -> str:
        """With the MSR and its value."""
        return f"{self.describe()} of {self.msr} = {value_in_words(self.value)}"
