# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes scripts, those first that reach what was not reached before. Equal seeds make equal scripts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kvmharness.explore.anything import Anything
from kvmharness.explore.coverage import Coverage
from kvmharness.explore.devices import Devices
from kvmharness.explore.draft import Draft, Ground
from kvmharness.explore.hyperv import HyperV
from kvmharness.explore.lives import Life
from kvmharness.explore.nested import Nested
from kvmharness.explore.steal import Steal
from kvmharness.explore.timers import Timers
from kvmharness.explore.xen import Xen
from kvmharness.script import Script

# So many scripts are made for each that is played: the one that reaches most of what is new. The best of the
# others wait for the next time, which costs less than to make more.
CANDIDATES = 3
_WAITING = 4
_LENGTHS = (10, 16, 24, 36)
_LITTLE = 8
# Scripts that reached something new, of which later ones are made.
_MOST_KEPT = 2_000


@dataclass(frozen=True, slots=True)
class Made:
    """A script; `new` is how many features it is the first to reach."""

    script: Script
    new: int


class Generator:
    """Makes scripts for a ground. With `guided` false any script will do."""

    def __init__(
        self, ground: Ground, seed: int, kept: Sequence[Script] = (), *, guided: bool = True
    ) -> None:
        self.ground = ground
        self.coverage = Coverage()
        self.kept = list(kept)
        self._guided = guided
        self._waiting: list[Draft] = []
        self._chance = random.Random(seed)

    def make(self) -> Made:
        """The next script."""
        drafts = [*self._waiting, *(self._draft() for _ in range(CANDIDATES if self._guided else 1))]
        drafts.sort(key=lambda draft: -self.coverage.worth(draft.features))
        best, *others = drafts
        self._waiting = others[:_WAITING]
        new = self.coverage.add(best.features)
        if new and len(self.kept) < _MOST_KEPT:
            self.kept.append(best.script)
        return Made(best.script, new)

    def _draft(self) -> Draft:
        draft = Draft(self.ground, self._chance)
        devices = self._devices(draft)
        length = self._chance.choice(_LENGTHS)
        if self._guided and self.kept and self._chance.random() < 0.25:
            self._go_on_from(draft, self._chance.choice(self.kept[-200:]))
        shape = self._chance.choices((self._live, self._do_anything, self._do_little), (5, 4, 1))[0]
        shape(draft, devices, length)
        if draft.guests:
            Anything(draft, devices).last_look()
        return draft

    def _devices(self, draft: Draft) -> Devices | None:
        """What more than a plain VM most scripts do without; never what the host has not."""
        host = self.ground.host
        kinds: dict[type[Devices] | None, int] = {
            None: 8,
            Timers: 1,
            HyperV: host.has_hyperv is not False,
            Nested: host.has_nested is not False,
            Steal: host.has_steal_time is not False,
            Xen: host.has_xen is not False,
        }
        chosen = self._chance.choices(tuple(kinds), tuple(kinds.values()))[0]
        return chosen(draft) if chosen else None

    def _live(self, draft: Draft, devices: Devices | None, length: int) -> None:
        life = Life(draft, devices)
        if not draft.guests:
            if devices:
                devices.begin()
            life.begin()
        while draft.guests and len(draft.operations) < length and not draft.is_over:
            life.part()

    def _do_anything(self, draft: Draft, devices: Devices | None, length: int) -> None:
        anything = Anything(draft, devices)
        if not draft.guests:
            if devices:
                devices.begin()
            if self._chance.random() < 0.15:
                anything.set_vm_khz()
            for _ in range(min(anything.most_vcpus, self._chance.choice((1, 1, 2, 2, 3)))):
                anything.create()
        while draft.guests and len(draft.operations) < length and not draft.is_over:
            anything.step()

    def _do_little(self, draft: Draft, devices: Devices | None, length: int) -> None:
        """One step of any kind, then a write, a few times: what decides about a write, and what may not."""
        anything = Anything(draft, devices)
        if not draft.guests:
            if devices:
                devices.begin()
            for number in range(self._chance.choice((1, 1, 1, 1, 2, 2, 9))):
                anything.create_one(number)
        end = len(draft.operations) + min(length, _LITTLE)
        while draft.guests and len(draft.operations) < end and not draft.is_over:
            anything.step_of_any_kind()
            anything.write_tsc()

    def _go_on_from(self, draft: Draft, script: Script) -> None:
        """Begin as a script that was kept does, with a step left out or a wait of another length."""
        for operation in script[: self._chance.randint(2, max(2, len(script)))]:
            if operation.creates_vcpu or self._chance.random() > 0.06:
                waits = operation.only_waits and self._chance.random() < 0.3
                longer = self._chance.choice((operation.waits_ns // 2, operation.waits_ns * 2))
                most = min(longer, self.ground.most_wait_ns)
                draft.add(replace(operation, ns=most) if waits else operation)  # type: ignore[call-arg]


def scripts(ground: Ground, seed: int, count: int) -> list[Script]:
    """So many scripts, each that reaches most of what those before it did not."""
    generator = Generator(ground, seed)
    return [generator.make().script for _ in range(count)]
