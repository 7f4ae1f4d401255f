# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels with a fault, made up: the model as a player, with one rule broken."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from kvmharness.judging.probe import PROBES
from kvmharness.judging.session import Session
from kvmharness.model.interval import Interval
from kvmharness.model.policies import POLICIES
from kvmharness.model.rates import UnknownRateError
from kvmharness.model.simulate import HOST, Pace, SimulatedRules, Simulation
from kvmharness.model.state import Host, Moment, Vcpu, World
from kvmharness.scenarios import Scenario
from kvmharness.script import Script
from kvmharness.trace import Trace

Rules = type[SimulatedRules]
_PACE = Pace(2_000, 0, 2_000, 200_000)


def play(rules: Rules, name: str, script: Script, policy: str = "mainline-6.7", host: Host = HOST) -> Trace:
    """What a kernel with these rules leaves of a script; it shows offsets in debugfs."""
    stage = Simulation(rules(POLICIES[policy], host), lambda count: (count - 1) // 2)
    events = []
    for operation in script:
        event = stage.play(operation, _PACE)
        if event is None:
            break
        events.append(replace(event, debugfs=stage.debugfs(operation, event)))
    return Trace(name, "made-up", tuple(events))


def player(
    rules: Rules, policy: str = "mainline-6.7", host: Host = HOST
) -> Callable[[Sequence[Scenario]], Session]:
    """Plays scenarios on such a kernel. What the model knows nothing of leaves no trace."""

    def session(scenarios: Sequence[Scenario]) -> Session:
        traces = [play(rules, name, script, policy, host) for name, script in PROBES.items()]
        for scenario in scenarios:
            try:
                traces.append(play(rules, scenario.name, scenario.script, policy, host))
            except (ValueError, UnknownRateError, ArithmeticError):
                continue
            except Exception as error:
                if type(error).__module__.startswith("kvmharness.model"):
                    continue
                raise
        return Session.of(traces)

    return session


class GateByHostAdjust(SimulatedRules):
    """A host's write of TSC_ADJUST counts as a TSC set by userspace."""

    def host_write_adjust(self, world: World, number: int, value: int) -> None:
        """It opens the gate."""
        super().host_write_adjust(world, number, value)
        world.user_set_tsc = True


class GateByGuestTsc(SimulatedRules):
    """A guest's own write of its TSC counts as one by userspace."""

    def guest_write_tsc(self, world: World, number: int, value: int, moment: Moment) -> None:
        """It opens the gate."""
        super().guest_write_tsc(world, number, value, moment)
        world.user_set_tsc = True


class GateByCreation(SimulatedRules):
    """The creation of a second vCPU counts as a TSC set by userspace."""

    def create_vcpu(self, world: World, number: int, moment: Moment) -> list[World]:
        """It opens the gate."""
        made = super().create_vcpu(world, number, moment)
        for each in made:
            each.user_set_tsc = each.user_set_tsc or len(each.vcpus) > 1
        return made


class GateClosedByFirstRun(SimulatedRules):
    """A vCPU's first run makes KVM forget that userspace set a TSC."""

    def enter_guest(self, world: World, number: int, moment: Moment) -> list[World]:
        """It closes the gate."""
        world.user_set_tsc = world.user_set_tsc and world.vcpus[number].has_run
        return super().enter_guest(world, number, moment)


class ElapsedIn32Bits(SimulatedRules):
    """Elapsed time is kept in 32 bits of ns."""

    def elapsed(self, since: Interval, now: Interval, vcpu: Vcpu) -> Interval:
        """It wraps after 4.3 s."""
        ns = (now.low - since.low) % 2**32
        return super().elapsed(Interval(0, 0), Interval(ns, ns), vcpu)


class MatchedTwice(SimulatedRules):
    """A vCPU that is in the generation is counted again when it synchronizes."""

    def _commit(self, world: World, vcpu: Vcpu, *rest: Any) -> None:
        again = rest[-1] and vcpu.in_generation
        super()._commit(world, vcpu, *rest)
        world.nr_vcpus_matched_tsc += bool(again)


class GateByOtherOffset(SimulatedRules):
    """An offset that a vCPU has already does not count as a TSC set by userspace."""

    def set_offset(self, world: World, number: int, offset: int, moment: Moment) -> list[World]:
        """It leaves the gate closed where it matches."""
        was = world.user_set_tsc
        worlds = super().set_offset(world, number, offset, moment)
        for each in worlds:
            each.user_set_tsc = was or not each.vcpus[number].in_generation
        return worlds


FAULTS: dict[str, Rules] = {
    each.__name__: each
    for each in (
        *(GateByHostAdjust, GateByGuestTsc, GateByCreation, GateClosedByFirstRun),
        *(ElapsedIn32Bits, MatchedTwice, GateByOtherOffset),
    )
}
