# SPDX-License-Identifier: GPL-2.0-or-later
"""What a step reached of the model: which rule went which way, how things stood, what came before.

Each step has several features, none of which is all of that at once: so many would always be new that newness
would tell nothing.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from kvmharness.model.arithmetic import WORD, cycles
from kvmharness.model.interval import signed
from kvmharness.model.state import World
from kvmharness.script import Operation
from kvmharness.trace import Event

Feature = tuple[object, ...]

_SECOND = 1_000_000_000
# Ages of the last write at which something may wrap, or is decided otherwise (ns).
_AGES = (10**6, 900 * 10**6, 1100 * 10**6, 2**31, 2**32, 2**33, 2**34)
_MAGNITUDES = (0, 1, 2**31, 2**32, 2**40, 2**56, 2**63)
_COUNTS = (0, 1, 2, 4, 8)
_DISTANCES = (1, 400, 600, 900, 999, 1000, 1001, 1100)


class Situation(NamedTuple):
    """How things stand before a step, in classes. Of its vCPU, if it has one."""

    user_set: bool
    vcpus: int
    matched: int
    age: int
    expected: int
    master: bool
    old_clock: bool
    second: int = 0
    in_generation: bool = False
    same_rate: bool = False
    has_run: bool = False
    catches_up: bool = False
    adjusted: bool = False
    page: bool | None = False
    asked: bool | None = False


class History:
    """The kinds of steps so far, and those since a TSC was last written from outside the guest."""

    def __init__(self) -> None:
        self.last = ("", "")
        self.since_write: set[str] = set()
        self.all: set[str] = set()


class Coverage:
    """How often each feature was reached."""

    def __init__(self) -> None:
        self._counts: Counter[Feature] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def worth(self, reached: Iterable[Feature]) -> float:
        """How much there is in a script that reaches these: most where each was never reached before."""
        counted = self._counts.get
        return sum(1 / (1 + counted(each, 0)) ** 2 for each in set(reached))

    def add(self, reached: Iterable[Feature]) -> int:
        """Count them; how many are new."""
        found = set(reached)
        new = sum(1 for each in found if not self._counts[each])
        self._counts.update(found)
        return new


def situation(world: World, number: int | None, now_ns: int) -> Situation:
    """How things stand in a world, for a vCPU of it, when the host's raw clock says `now_ns`."""
    vcpu = world.vcpus.get(number) if number is not None else None
    elapsed = max(0, now_ns - world.last_tsc_nsec.low)
    khz = vcpu.virtual_tsc_khz if vcpu else 0
    common = (
        *(world.user_set_tsc, _class(len(world.vcpus), _COUNTS), _class(world.nr_vcpus_matched_tsc, _COUNTS)),
        *(_class(elapsed, _AGES), (world.last_tsc_write.low + cycles(elapsed, khz)) % WORD),
        *(world.use_master_clock, world.boot_vcpu_runs_old_kvmclock),
    )
    if vcpu is None:
        return Situation(*common)
    return Situation(
        *common,
        *(khz * 1000, vcpu.in_generation, khz == world.last_tsc_khz, vcpu.has_run, vcpu.tsc_catchup),
        *(vcpu.ia32_tsc_adjust_msr != (0, ()), vcpu.pv_time, vcpu.clock_request),
    )


def kind(operation: Operation) -> str:
    """What kind of step it is: its name, and the MSRs that it is about."""
    if operation.guest_writes:
        return f"{operation.name} {operation.guest_writes}"
    names = operation.value_names
    return f"{operation.name} {' '.join(names)}" if names and names[0].isupper() else operation.name


def features(before: Situation, event: Event, world: World, history: History) -> list[Feature]:
    """What a step reached, that led from one situation to this world. The history goes on by it."""
    operation = event.operation
    what, ended = kind(operation), _branch(event, world)
    found: list[Feature] = [
        ("order", what, ended, history.last[1]),
        ("orders", what, *history.last),
        ("gate", what, ended, before.user_set, before.matched, before.vcpus, before.in_generation),
        ("vcpu", what, ended, before.same_rate, before.has_run, before.catches_up, before.adjusted),
        ("clock", what, ended, before.master, before.old_clock, before.page, before.asked),
    ]
    if operation.sets_tsc and event.values:
        value = event.values[0] if not what.startswith("write_together") else event.values[1]
        found.append(("value", what, ended, before.age, _relation(value, before), _class(value, _MAGNITUDES)))
        found.append(("distance", what, ended, before.matched, before.has_run, _relation(value, before)))
    if operation.sets_tsc or what.startswith(("get_clock", "read_kvmclock")):
        found += [("after", what, ended, before.user_set, each) for each in history.since_write]
        found += [("ever", what, ended, each) for each in history.all]
    history.last = (history.last[1], what)
    history.since_write.add(what)
    history.all.add(what)
    if operation.sets_tsc and what.startswith(("set_", "write_", "create_")):
        history.since_write = set()
    return found


def _branch(event: Event, world: World) -> str:
    """Which way the rule went, in the model's own words."""
    if event.error:
        return event.error
    vcpus = [world.vcpus[each] for each in event.operation.vcpu_numbers if each in world.vcpus]
    told = [each.story.text for each in vcpus if each.story.step == world.step]
    if told:
        return " ".join(word for word in told[-1].split() if not word.isdigit())
    return event.operation.effect(event.values) if event.values else ""


def _relation(value: int, before: Situation) -> int:
    """Where a written value lies, seen from what was expected: in tenths of a second, at the second finer."""
    second = before.second or _SECOND
    distance = signed(value - before.expected)
    step = bisect_right(_DISTANCES, abs(distance) * 1000 // second)
    return -step if distance < 0 else step


def _class(number: int, limits: tuple[int, ...]) -> int:
    return bisect_left(limits, number)
