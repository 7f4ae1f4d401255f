# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of a bisection that are played by a made-up machine."""

from collections.abc import Sequence

from kvmharness.judging.verdict import Expectation, Result, Verdict
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.runs import Played
from kvmharness.scenarios import Scenario


def play_on(
    kernel: Kernel, machine: Machine, scenarios: Sequence[Scenario], expectation: Expectation
) -> Played:
    """A machine that does not survive a kernel that panics, and fails one whose clock is frozen, or one that
    crashes in a scenario; one whose clock is stuck fails in a step of another kind."""
    content = (kernel.folder / "kvm.ko").read_bytes()
    fails = b"frozen" in content or b"crashes" in content or b"stuck" in content
    kind = "run" if b"stuck" in content else "set-msrs"
    found = Verdict.LOST if b"panics" in content else Verdict.FAIL if fails else Verdict.PASS
    notes = ("BUG: it panics",) if found is Verdict.LOST else ()
    crashed = frozenset(each.name for each in scenarios if b"crashes" in content)
    results = tuple(Result(each.name, found, "", "so it is", 3, kind=kind) for each in scenarios)
    return Played(results, {}, notes=notes, crashed=crashed)
