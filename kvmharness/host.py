# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays on this host's own /dev/kvm."""

import os
from collections.abc import Sequence

from kvmharness import trace
from kvmharness.judging.session import Session, rounds
from kvmharness.kvm import System
from kvmharness.player.player import Player
from kvmharness.scenarios import Scenario


def play(scenarios: Sequence[Scenario]) -> Session:
    """Play the probe and the scenarios here.

    KvmUnavailableError without a /dev/kvm that opens, KvmError where not even a VM can be created.
    """
    release = os.uname().release
    with System() as system:
        player = Player(system)
        traces = [
            trace.from_played(name, release, steps)
            for scripts in rounds(scenarios)
            for name, steps in player.play_together(scripts)
        ]
    return Session.of(traces)
