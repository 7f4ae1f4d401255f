# SPDX-License-Identifier: GPL-2.0-or-later
"""Which known policies a kernel behaves as, from all that was played on it."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import combinations

from kvmharness.contract import Status
from kvmharness.judging import capabilities
from kvmharness.judging.divergence import Divergence, diverging
from kvmharness.judging.kvm import Kvm, clocks_doubt
from kvmharness.judging.verdict import MAINLINE, Expectation
from kvmharness.model.identify import consistent_policies, distinguishing, says_something
from kvmharness.model.policy import Policy
from kvmharness.model.state import Host
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Trace


@dataclass(frozen=True, slots=True)
class Identity:
    """The policies that are consistent with a kernel's traces, by name, and what would distinguish two."""

    behaves_as: tuple[str, ...] = ()
    distinguished_by: str = ""
    divergence: Divergence | None = None

    @property
    def in_short(self) -> str:
        """The finding in a sentence, without what would tell two of them apart."""
        if self.divergence:
            return f"behaves as {self.divergence.text}"
        return f"behaves as {' or '.join(self.behaves_as) or 'no known policy'}"

    @property
    def text(self) -> str:
        """The finding in a sentence."""
        return self.in_short + (f" ({self.distinguished_by})" if self.distinguished_by else "")


def identify(
    played: Iterable[tuple[Kvm, Trace]], expectation: Expectation = MAINLINE, doubted: Collection[str] = ()
) -> Identity | None:
    """What traces say of a kernel, each given with its KVM; None where that is nothing.

    `doubted` names the scripts of the probe that say nothing.
    """
    pairs: list[tuple[Trace, Host]] = []
    names: set[str] = set()
    kvms: list[Kvm] = []
    for kvm, trace in played:
        if kvm.doubt or clocks_doubt(trace, kvm):
            continue
        if kvm not in kvms[-1:]:
            pairs += [(each, kvm.host) for each in kvm.probe.traces if each.scenario not in doubted]
        pairs.append((trace, kvm.host))
        names.add(trace.scenario)
        kvms.append(kvm)
    if not pairs:
        return None
    left = consistent_policies(pairs, expectation.policies.values())
    if not any(says_something(trace, host) for trace, host in pairs):
        return None
    if not left:
        return Identity(divergence=diverging(pairs, expectation.policies.values()))
    distinguished_by = _what_distinguishes(left, names, kvms[-1]) if len(left) > 1 else ""
    return Identity(tuple(policy.name for policy in left), distinguished_by)


def _what_distinguishes(left: list[Policy], played: set[str], kvm: Kvm) -> str:
    """Which scenario of the catalogue would distinguish two of them, and what it lacks here."""
    plays = {name: (scenario.script, scenario.host) for name, scenario in SCENARIOS.items()}
    for one, other in combinations(left, 2):
        telling = distinguishing(one, other, plays)
        lacking = {
            name: capabilities.unmet(kvm.found, SCENARIOS[name].needs, SCENARIOS[name].lacks)[1]
            for name in telling
        }
        # First what could be played here, then what could not; last what was played and did not distinguish.
        for name in sorted(
            telling, key=lambda name: (name in played and not lacking[name], bool(lacking[name]))
        ):
            but = f", but {lacking[name]}{_elsewhere(name, kvm)}" if lacking[name] else ""
            return f"scenario {name} would distinguish {one.name} from {other.name}{but}"
    return "no scenario distinguishes them"


# Which machine of the lab has what another lacks.
_MACHINES = {"two-cpus": "amd-smp", "tsc-scaling": "intel"}


def _elsewhere(name: str, kvm: Kvm) -> str:
    """Where a scenario could be played that lacks something here; "" where nothing is known to help."""
    missing = {each for each in SCENARIOS[name].needs if kvm.found[each].status is not Status.KEPT}
    machine = _MACHINES.get(missing.pop()) if len(missing) == 1 else None
    return f": try `lab run --machine {machine}`" if machine else ""
