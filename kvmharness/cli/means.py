# SPDX-License-Identifier: GPL-2.0-or-later
"""By what something was tested, as a mail has to name it: programs, their versions, and how far it went."""

import re
import subprocess
from collections.abc import Sequence

from kvmharness import version
from kvmharness.lab import kernels
from kvmharness.lab.machines.machine import Machine

# QEMU answers to --version, Bochs to --help.
_VERSION = re.compile(r"(?:version|Emulator) (\d+(?:\.\d+)+)")


def described(spec: str, compiler: str, machines: Sequence[Machine], *, offline: bool) -> list[str]:
    """Lines that name our version, the emulators', the compiler's, the kernel's package, and say that no
    hardware was used."""
    programs = dict.fromkeys(machine.emulator.program for machine in machines)
    emulators = [f"{program} {version_of(program)}".rstrip() for program in programs]
    package = kernels.package_of(spec, offline)
    built_from = f"{package.package} {package.version}" if package else f"the tree {spec}"
    level = ", ".join(f"{machine.name} ({machine.summary.partition(':')[0]})" for machine in machines)
    return [
        f"By kvmharness {version.described()}, {', '.join(emulators)}, {compiler}; kernel: {built_from}",
        f"Level of testing: emulated, no hardware: {level}",
    ]


def version_of(program: str) -> str:
    """A program's version as it says it; "" where it does not."""
    for option in ("--version", "--help"):
        try:
            done = subprocess.run(
                [program, option],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        found = _VERSION.search(done.stdout + done.stderr)
        if found:
            return found[1]
    return ""
