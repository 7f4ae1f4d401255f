# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays on this host's own /dev/kvm."""

import os
from collections.abc import Sequence

from kvmharness import trace
from kvmharness.judging.saved import HOSTS_OWN
from kvmharness.judging.session import Session, rounds
from kvmharness.kvm import System
from kvmharness.player.player import Player
from kvmharness.printable import plain
from kvmharness.scenarios import Scenario
from kvmharness.trace import Place


def play(scenarios: Sequence[Scenario]) -> Session:
    """Play the probe and the scenarios here.

    KvmUnavailableError without a /dev/kvm that opens, KvmError where not even a VM can be created.
    """
    release = plain(os.uname().release)
    # No two runs here are the same, and nothing says whether this KVM has a say over its guests' TSCs.
    place = Place("host", HOSTS_OWN, os.urandom(8).hex(), may_protect_tscs=True, counts_instructions=False)
    with System() as system:
        player = Player(system)
        traces = [
            trace.from_played(name, release, steps, place)
            for scripts in rounds(scenarios)
            for name, steps in player.play_together(scripts)
        ]
    return Session.of(traces)
