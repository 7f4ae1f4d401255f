# SPDX-License-Identifier: GPL-2.0-or-later
"""Which known policies a kernel behaves as, from all that was played on it."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations

from kvmharness.contract import Status
from kvmharness.judging import capabilities
from kvmharness.judging.divergence import Divergence, diverging
from kvmharness.judging.kvm import Kvm, clocks_doubt
from kvmharness.judging.verdict import MAINLINE, Expectation
from kvmharness.model.identify import consistent_policies, distinguishing, says_something
from kvmharness.model.policy import Policy, one_key_away, stated_differences
from kvmharness.model.state import Host
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Trace

# In how many keys a policy may differ from the expected one to be called that one but for those, and how many
# policies that nobody stated may explain a kernel to be worth a name.
_MOST_KEYS = 2
_MOST_NEAR = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """The policies that are consistent with a kernel's traces, by name, and what would distinguish two.

    Where no known one is, `near` are those that would be with one key changed, in words, or `divergence` is
    what the kernel does otherwise. `but_for` are the keys in which the one policy that is left differs from
    the expected one, in words.
    """

    behaves_as: tuple[str, ...] = ()
    distinguished_by: str = ""
    divergence: Divergence | None = None
    near: tuple[str, ...] = ()
    but_for: str = field(default="", compare=False)

    @property
    def in_short(self) -> str:
        """The finding in a sentence, without what would tell two of them apart."""
        if self.divergence:
            return f"behaves as {self.divergence.text}"
        return f"behaves as {' or '.join(self.behaves_as or self.near) or 'no known policy'}"

    @property
    def with_keys(self) -> str:
        """The finding in a sentence, with the keys in which the policy differs from the expected one."""
        return f"{self.in_short}: {self.but_for}" if self.but_for else self.text

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
        near = _near(pairs, expectation)
        divergence = None if near else diverging(pairs, expectation.policies.values())
        return Identity(near=near, divergence=divergence)
    distinguished_by = _what_distinguishes(left, names, kvms[-1]) if len(left) > 1 else ""
    return Identity(
        tuple(policy.name for policy in left), distinguished_by, but_for=_but_for(left, expectation.policy)
    )


def _but_for(left: list[Policy], expected: Policy | None) -> str:
    """In what the one policy that is left differs from the expected one, if that is no more than two keys."""
    keys = stated_differences(left[0], expected) if expected and len(left) == 1 else []
    return f"{expected.name} but for {', '.join(keys)}" if expected and 0 < len(keys) <= _MOST_KEYS else ""


def _near(pairs: list[tuple[Trace, Host]], expectation: Expectation) -> tuple[str, ...]:
    """The known policies with one key changed that are consistent with the traces; () where too many are.

    Those near the expected policy, or else those near any.
    """
    known = [each for each in expectation.policies.values() if each.honours_writes]
    # What no known policy leaves rules out most of the others as well, and so comes first.
    hardest = sorted(pairs, key=lambda pair: len(consistent_policies([pair], known)))
    for near in ([expectation.policy] if expectation.policy in known else [], known):
        changed = {replace(other, name=""): other for each in near for other in one_key_away(each)}
        found = consistent_policies(hardest, changed.values())
        if found:
            return tuple(each.name for each in found) if len(found) <= _MOST_NEAR else ()
    return ()


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
