# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays on this host's own /dev/kvm.

A host is not a laboratory: its watchdog may take the TSC for unstable, somebody may take a CPU offline or set
a module's parameter. KVM's rule is another afterwards, and the probe that was played before is of no use any
more. So what the host is (player/host_state.py) is looked at before and after; what was played across a
change does not count.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing

from kvmharness import trace
from kvmharness.judging.probe import Probe
from kvmharness.judging.saved import HOSTS_OWN
from kvmharness.judging.session import Session, rounds
from kvmharness.kvm import System
from kvmharness.player import host_reader, host_state
from kvmharness.player.player import Player
from kvmharness.printable import plain
from kvmharness.scenarios import Scenario
from kvmharness.trace import Place, Trace

ATTEMPTS = 3


def play(scenarios: Sequence[Scenario], root: str = "/") -> Session:
    """Play the probe and the scenarios here, again where the host changed meanwhile, up to three times.

    `root` is the folder that holds proc and sys. KvmUnavailableError without a /dev/kvm that opens, KvmError
    where not even a VM can be created; any OSError, unless the host changed.
    """
    return until_unchanged(lambda: _attempt(scenarios, root))


def until_unchanged(attempt: Callable[[], tuple[list[Trace], list[str]]]) -> Session:
    """The session of an attempt, which returns the traces, the probe's first, and how the host changed
    meanwhile; up to three times."""
    notes: list[str] = []
    for _ in range(ATTEMPTS):
        traces, changes = attempt()
        if not changes:
            return Session.of(traces, tuple(notes))
        notes.append(f"this host changed during a session, which does not count: {'; '.join(changes)}")
    reason = f"this host changed each of {ATTEMPTS} times, the last time: {'; '.join(changes)}"
    return Session(Probe(()), {}, tuple(notes), changed=reason)


def _attempt(scenarios: Sequence[Scenario], root: str) -> tuple[list[Trace], list[str]]:
    before = host_reader.read(root)
    traces: list[Trace] = []
    changes: list[str] = []
    failed: OSError | None = None
    try:
        traces, changes = _play(scenarios, before, root)
    except OSError as error:  # of a CPU that is gone, for one
        failed = error
    changes = host_state.changes(before, host_reader.read(root)) or changes
    if not changes and failed:
        raise failed
    return traces, changes


def _play(scenarios: Sequence[Scenario], before: dict[str, str], root: str) -> tuple[list[Trace], list[str]]:
    """The traces, the probe's first, and what changed: then it was not played on."""
    traces: list[Trace] = []
    release, facts = plain(os.uname().release), host_state.described(before)
    # No two runs here are the same, and nothing says whether this KVM has a say over its guests' TSCs.
    place = Place("host", HOSTS_OWN, os.urandom(8).hex(), may_protect_tscs=True, counts_instructions=False)
    with System() as system:
        player = Player(system)
        for scripts in rounds(scenarios):
            with closing(player.play_together(scripts)) as playing:
                for name, created, steps in playing:
                    traces.append(trace.from_played(name, release, steps, place, facts, created=created))
                    changes = host_state.changes(before, host_reader.read_quick(root))
                    if changes:
                        return traces, changes
    return traces, []
