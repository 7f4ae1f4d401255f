# SPDX-License-Identifier: GPL-2.0-or-later
"""Made-up KVMs: the reference model as a player, behind the same interface as a real one."""

import dataclasses
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from kvmharness.judging.probe import PROBES, Probe
from kvmharness.judging.saved import HOSTS_OWN
from kvmharness.judging.session import Session
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import HOST, Pace, simulate
from kvmharness.model.state import Host
from kvmharness.scenarios import Scenario
from kvmharness.script import Operation, Script
from kvmharness.trace import Place, Trace

KHZ = HOST.khz or 0

# Honours every write but those of the creation: what nobody ever proposed.
NEVER_SNAPS = Policy(
    "never-snaps", "Nothing snaps.", "made up", snap_requires=frozenset({"never"}), user_zero="as-value"
)


def play(
    name: str,
    script: Script,
    policy: str | Policy = "mainline-6.7",
    *,
    stable: bool = True,
    attribute_errno: str = "",
    held_up: tuple[str, int] = ("", 0),
    host: Host = HOST,
) -> Trace:
    """What a KVM with this policy leaves of a script.

    `host` is the machine; its TSC is unstable if `stable` is False, too. `attribute_errno` is what it answers
    where it has no offset attribute; `held_up` is a label and how many ns late the player comes to that step.
    """
    host = dataclasses.replace(host, stable=stable and host.stable, has_attribute=not attribute_errno)
    late = {id(before): held_up[1] for before, each in pairwise(script) if each.label == held_up[0]}

    def pace(operation: Operation) -> Pace:
        return Pace(pause=10_000 + late.get(id(operation), 0) * KHZ // 1_000_000)

    rule = POLICIES[policy] if isinstance(policy, str) else policy
    # Only debugfs shows a ratio.
    trace = simulate(name, script, rule, host, pace=pace, debugfs=bool(host.fraction_bits))
    events = [
        dataclasses.replace(each, error=attribute_errno)
        if each.error == "EINVAL" and attribute_errno
        else each
        for each in trace.events
    ]
    return dataclasses.replace(trace, release="made-up", events=tuple(events))


def probe(
    policy: str | Policy = "mainline-6.7",
    *,
    stable: bool = True,
    attribute_errno: str = "",
    host: Host = HOST,
) -> Probe:
    """The probe of such a KVM."""
    return Probe(
        tuple(
            play(name, script, policy, stable=stable, attribute_errno=attribute_errno, host=host)
            for name, script in PROBES.items()
        )
    )


def with_step(probe: Probe, label: str, **changes: Any) -> Probe:
    """The probe, but for what happened in one step."""
    return Probe(
        tuple(
            dataclasses.replace(
                trace,
                events=tuple(
                    dataclasses.replace(each, **changes) if each.operation.label == label else each
                    for each in trace.events
                ),
            )
            for trace in probe.traces
        )
    )


def session(
    scenarios: Sequence[Scenario],
    policy: str | Policy = "mainline-6.7",
    *,
    stable: bool = True,
    host: Host = HOST,
    place: Place | None = None,
) -> Session:
    """Everything played on such a KVM."""
    traces = [
        *probe(policy, stable=stable, host=host).traces,
        *(play(each.name, each.script, policy, stable=stable, host=host) for each in scenarios),
    ]
    return Session.of([dataclasses.replace(each, place=place) for each in traces])


def on_host() -> Place:
    """A session of this host's."""
    return Place("host", HOSTS_OWN, os.urandom(8).hex(), may_protect_tscs=True, counts_instructions=False)
