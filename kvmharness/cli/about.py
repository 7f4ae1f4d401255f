# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command says of its own run in the outputs for programs."""

import argparse
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from kvmharness import version
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.emulator import version_of
from kvmharness.report.about import About


def begin(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    """Take note of the command and of the time at which it begins."""
    arguments.words, arguments.began = ("kvmharness", *words), datetime.now(UTC)


def of(arguments: argparse.Namespace, machines: Iterable[str] = (), kernels: Iterable[Kernel] = ()) -> About:
    """The run until now. `machines` are the names of those that were played on; what is no machine of ours
    counts for nothing."""
    now = datetime.now(UTC)
    began: datetime = getattr(arguments, "began", now)
    nested = {each.nested.name: each.nested for each in MACHINES.values() if each.nested}
    known = {**MACHINES, **nested}
    # Those of a cluster's workers are in the notes of what each played.
    ours = () if getattr(arguments, "cluster", None) else machines
    # What comes after a + are parameters of KVM's modules.
    plain = [name.partition("+")[0] for name in ours]
    programs = dict.fromkeys(known[name].emulator.program for name in plain if name in known)
    here = os.uname()
    return About(
        started=began.isoformat(timespec="seconds"),
        seconds=round((now - began).total_seconds(), 3),
        command=getattr(arguments, "words", ()),
        version=version.described(),
        host=f"{here.sysname} {here.release} {here.machine}",
        emulators={program: version_of(program) for program in programs},
        packages={each.spec: each.package for each in kernels if each.package},
    )
