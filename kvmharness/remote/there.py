# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs on a box that is reached by ssh: plays the job in a folder, and writes the result to stdout.

The job and the frames are those of a lab machine (lab/machines/protocol.py). The frames of the scripts are
followed by one that says how the host changed meanwhile, or which error ended the play.
"""

from __future__ import annotations

import errno
import marshal
import os

from kvmharness.kvm import KvmError, KvmUnavailableError, System
from kvmharness.lab.machines import protocol
from kvmharness.player import host_reader, host_state
from kvmharness.player.player import Player

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What the last frame is about.
CHANGED, FAILED, NO_KVM = "changed", "failed", "no kvm"


def main(folder: str) -> None:
    """Play the job that lies in this folder."""
    result = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed must not come between the frames
    with open(f"{folder}/job", "rb") as file:
        number, rounds = marshal.loads(file.read())

    def send(content: Any) -> None:
        data = protocol.encode(number, content)
        while data:
            data = data[os.write(result, data) :]

    before = host_reader.read()
    failed: list[Any] = []
    changes: list[str] = []
    try:
        changes = _play(rounds, before, send)
    except OSError as error:  # of a CPU that is gone, for one
        kind = NO_KVM if isinstance(error, (KvmUnavailableError, KvmError)) else FAILED
        failed = [kind, error.errno or errno.EIO, protocol.plain(str(error))]
    changes = host_state.changes(before, host_reader.read()) or changes
    send(failed if failed and not changes else [CHANGED, *map(protocol.plain, changes)])
    send(protocol.END)


def _play(rounds: list[Any], before: dict[str, str], send: Any) -> list[str]:
    """Play and send each script as it ends; how the host changed, which ends it."""
    release = protocol.plain(os.uname().release)
    facts = {
        protocol.plain(name): protocol.plain(text) for name, text in host_state.described(before).items()
    }
    with System() as system:
        player = Player(system)
        for scripts in rounds:
            playing = player.play_together(scripts)
            try:
                for name, created, steps in playing:
                    for step in steps:
                        del step["op"]  # who asked for it knows it
                    send([name, release, created, steps, facts])
                    facts = {}
                    changes = host_state.changes(before, host_reader.read_quick())
                    if changes:
                        return changes
            finally:
                playing.close()
    return []
