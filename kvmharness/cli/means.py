# SPDX-License-Identifier: GPL-2.0-or-later
"""By what something was tested, as a mail has to name it: programs, their versions, and how far it went."""

from collections.abc import Sequence

from kvmharness import version
from kvmharness.lab import kernels
from kvmharness.lab.machines.machine import Machine


def described(
    spec: str, compiler: str, machines: Sequence[Machine], emulators: Sequence[str], *, offline: bool
) -> list[str]:
    """Lines that name our version, the emulators', the compiler's, the kernel's package, and say that no
    hardware was used."""
    package = kernels.package_of(spec, offline)
    built_from = f"{package.package} {package.version}" if package else f"the tree {spec}"
    level = ", ".join(f"{machine.name} ({machine.summary.partition(':')[0]})" for machine in machines)
    return [
        f"By kvmharness {version.described()}, {', '.join(emulators)}, {compiler}; kernel: {built_from}",
        f"Level of testing: emulated, no hardware: {level}",
    ]
