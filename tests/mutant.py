# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mutant of the model is, and the kernels and machines that it is held against."""

from dataclasses import dataclass

# Kernel and machine, and the policy that the kernel has.
OLD = "debian:6.1 on amd"
NEW = "debian:6.12 on amd"
INTEL = "debian:6.12 on intel"
UNSTABLE = "debian:6.12 on amd-unstable"
SMP = "debian:6.1 on amd-smp"
BOOTED = {
    OLD: "mainline-before-6.7",
    NEW: "mainline-6.7",
    INTEL: "mainline-6.7",
    UNSTABLE: "mainline-6.7",
    SMP: "mainline-before-6.7",
}


def made_up(policy: str) -> str:
    """A kernel that the model makes up, with that policy."""
    return f"made up, {policy}"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule of the model removed or altered: in the source of kvmharness.model.`module`, `old` (which is
    there once) becomes `new`.

    It is noticed if under it a trace becomes impossible that a kernel really left. `on` says which kernel and
    machine: those the lab boots, or one that the model makes up, for what no kernel of the lab does.
    `survives` says why nothing notices it, "" if something does.
    """

    name: str
    module: str
    old: str
    new: str
    on: str = NEW
    survives: str = ""
