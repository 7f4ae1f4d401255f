# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs inside a lab machine: plays the job and writes the result to the second serial port.

A job is rounds of scripts, or a program.
"""

import gc
import marshal
import os

from kvmharness.kvm import System
from kvmharness.lab.machines import program, protocol
from kvmharness.player import host_reader, host_state
from kvmharness.player.clocksource import Clocksource
from kvmharness.player.cpu_hotplug import CpuHotplug
from kvmharness.player.player import Player

# init's ends of these say that the player is ready, and that the job is there.
_READY, _GO_ON = 3, 0

_LOG = "/dev/kmsg"


def main(job_path: str = protocol.JOB_PATH, result_path: str = "/dev/ttyS1") -> None:
    """Say to init that all is loaded, wait for the job, play it.

    An exception ends it without an end mark, and its text goes to the console.
    """
    # A machine is gone after its job. To look through all scripts for cycles takes an emulated CPU long.
    gc.disable()
    os.write(_READY, b".")
    os.read(_GO_ON, 1)
    with open(job_path, "rb") as file:
        number, rounds = marshal.loads(file.read())
    frames = protocol.Encoder(number)
    with System() as system, system.create_vm() as idle_vm, open(result_path, "wb", buffering=0) as result:
        # As long as one VM is open KVM does not patch its code at the creation and destruction of
        # others, which crashed a 7.3-rc7 kernel in three of four runs under QEMU 7.2's emulation.
        idle_vm.create_vcpu(0)
        if isinstance(rounds, bytes):
            _announce(protocol.PROGRAM)
            program.run(rounds, lambda content: _write(result.fileno(), frames.frame(content)))
            rounds = []
        player = Player(system, Clocksource(), CpuHotplug())
        release = protocol.plain(os.uname().release)
        # With the first frame alone: a serial port is slow.
        facts = host_state.described(host_reader.read())
        for scripts in rounds:
            for name, created, steps in player.play_together(scripts, _announce):
                for step in steps:
                    del step["op"]  # the host knows what it asked for
                content = [name, release, created, steps, facts]
                facts = {}
                _write(result.fileno(), frames.frame(content))
        _write(result.fileno(), frames.frame(protocol.END))


def _announce(name: str) -> None:
    """A line on the console, so that what the kernel says there can be assigned to a scenario."""
    try:
        # Anew each time: one descriptor may say ten lines in five seconds (devkmsg_write).
        log = os.open(_LOG, os.O_WRONLY)
    except OSError:
        return  # a kernel without printk
    try:
        # Without a line end the kernel keeps it back, to be continued, until it says something else.
        os.write(log, b"<4>" + protocol.PLAYING + name.encode() + b"\n")
    except OSError:
        pass
    finally:
        os.close(log)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
