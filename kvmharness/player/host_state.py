# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host is while it is played on: the facts that may change under a player, each by its name.

    kernel                  its release, as uname -r prints it
    boot                    the boot's own number (random)
    clocksource             what the kernel's own clock runs on: tsc, hpet, acpi_pm, ...
    available clocksources  what it may run on; a TSC that the kernel no longer trusts is not among them
    CPUs online
    CPUs allowed            those of them that the thread may run on
    kvm.NAME                a parameter of one of KVM's modules (kvm, kvm_amd, kvm_intel)
    kvm build id            what the linker called the module; where KVM is no module, the kernel

All are texts. A fact that cannot be read is not there (host_reader reads them).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MODULES = ("kvm", "kvm_amd", "kvm_intel")
BUILD_ID = " build id"
CLOCKSOURCE = "clocksource"
TOLERANCE = "kvm.tsc_tolerance_ppm"


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What is another now, each in words. What is not known of both says nothing."""
    return [
        f"{name} was {before[name] or 'empty'} and is {after[name] or 'empty'}"
        for name in before
        if name in after and before[name] != after[name]
    ]


def described(facts: Mapping[str, str]) -> dict[str, str]:
    """The facts that are worth keeping with a trace: all but which boot it was."""
    return {name: text for name, text in facts.items() if name != "boot"}


def build_ids(facts: Mapping[str, str]) -> dict[str, str]:
    """The build ids of KVM's modules, by module."""
    return {name: facts[name + BUILD_ID] for name in MODULES if name + BUILD_ID in facts}


def tolerance_ppm(facts: Mapping[str, str]) -> int | None:
    """How far off the host's a guest's rate may be without scaling, in ppm; None where it is not known."""
    text = facts.get(TOLERANCE, "")
    return int(text) if text.isascii() and text.isdigit() and int(text) < 2**32 else None
