# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs inside a lab machine: plays the job and writes the result to the second serial port."""

import sys

from kvmharness.kvm import System
from kvmharness.lab import job
from kvmharness.player import Player


def main(job_path: str = job.JOB_PATH, result_path: str = "/dev/ttyS1") -> None:
    """Play the job; an exception ends it without an end mark, and its text goes to the console."""
    with open(job_path) as file:
        number, scripts = job.from_json(file.read())
    with System() as system, system.create_vm() as idle_vm, open(result_path, "w") as result:
        # As long as one VM is open KVM does not patch its code at the creation and destruction of
        # others, which crashed a 7.3-rc7 kernel in three of four runs under QEMU 7.2's emulation.
        idle_vm.create_vcpu(0)
        player = Player(system)
        traces = (player.play(name, script) for name, script in scripts.items())
        for line in job.result_lines(number, traces):
            result.write(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
