# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays scripts on /dev/kvm and records what happened, both as JSON data (see `script` and `trace`).

A failed operation is recorded with its errno and the script goes on; it ends early only where the
rest cannot be played (a vCPU that was not created, a value that rests on a failed reading).
"""

from __future__ import annotations

import os
import time

from kvmharness.player.stage import Stage
from kvmharness.player.threads import Running, check, in_background

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Any

    from kvmharness.kvm import System
    from kvmharness.player.clocksource import Clocksource
    from kvmharness.player.cpu_hotplug import CpuHotplug

    Script = list[dict[str, Any]]
    Steps = list[dict[str, Any]]
    # When a VM was created: {"tsc": [before, after], "ns": [before, after]}
    Created = dict[str, list[int]]

# How many VMs are played with at a time, and how many given back: each may have sixteen vCPUs, and a process
# 1024 files.
MOST_VMS = 16


class Player:
    """Plays scripts on an open /dev/kvm, each on a VM of its own.

    The calling thread stays on the CPU it is on, unless a script moves it: CPUs' TSCs may be a few
    cycles apart, and a bracket is only as good as the TSC it was read from. Scripts may change `clocksource`
    and `hotplug` where these are given.
    """

    def __init__(
        self, system: System, clocksource: Clocksource | None = None, hotplug: CpuHotplug | None = None
    ) -> None:
        self._system = system
        self._clocksource, self._hotplug = clocksource, hotplug
        self._cpuid = system.supported_cpuid()

    def play(self, script: Script) -> Steps:
        """Play a script's operations; the steps of a trace. KvmError when not even a VM can be created."""
        ((_, _, steps),) = self.play_together([("", script)])
        return steps

    def play_together(
        self, scripts: Iterable[tuple[str, Script]], announce: Callable[[str], None] = lambda name: None
    ) -> Generator[tuple[str, Created, Steps], None, None]:
        """Play scripts that wait together, in this thread: the name, the bracket of KVM_CREATE_VM and the
        steps of each as it ends.

        While one waits the others go on: first the one that has been due longest, then the next that has
        not begun. One that is busy has others wake up late, which their brackets show. `announce` gets
        the name of each before it begins, or continues after another. KvmError when a VM cannot be created.
        """
        affinity = os.sched_getaffinity(0)
        # The first CPU cannot be taken offline, so scripts that do so to others begin there.
        here = min(affinity) if self._hotplug else _this_cpu(affinity)
        cpus = [here, *sorted(affinity - {here})]
        os.sched_setaffinity(0, {here})
        ahead = list(scripts)
        stages: list[Stage] = []
        # A kernel with several CPUs waits for tens of ms before it gives a VM back (kvm_destroy_vm,
        # synchronize_srcu). With one, a thread for each VM takes longer than that.
        waits_to_close = os.cpu_count() != 1
        closing: list[Running] = []
        said = ""
        try:
            while ahead or stages:
                stage = _due(stages, wait=not ahead or len(stages) == MOST_VMS)
                if stage is None:
                    name, script = ahead.pop(0)
                    stage = Stage(
                        self._system,
                        self._cpuid,
                        cpus,
                        name,
                        script,
                        clocksource=self._clocksource,
                        hotplug=self._hotplug,
                    )
                    stages.append(stage)
                if stage.name != said:
                    announce(stage.name)
                    said = stage.name
                if stage.cpu != here:
                    os.sched_setaffinity(0, {stage.cpu})
                waits = stage.go_on()
                here = stage.cpu
                if not waits:
                    for changed in (self._clocksource, self._hotplug):
                        if changed:
                            changed.restore()
                    stages.remove(stage)
                    if not waits_to_close:
                        stage.close()
                    else:
                        if len(closing) == MOST_VMS:
                            check([closing.pop(0).wait()])
                        closing.append(in_background(stage.close, affinity))
                    yield stage.name, stage.created, stage.steps
        finally:
            for stage in stages:
                stage.close()
            failures = [closed.wait() for closed in closing]
            os.sched_setaffinity(0, affinity)
        check(failures)


def _due(stages: list[Stage], *, wait: bool) -> Stage | None:
    """The stage whose wait was over first, if one's is; with `wait`, the one whose will be."""
    if not stages:
        return None
    stage = min(stages, key=lambda each: each.due_ns)
    left_ns = stage.due_ns - time.monotonic_ns()
    if left_ns > 0:
        if not wait:
            return None
        time.sleep(left_ns / 1e9)
    return stage


def _this_cpu(allowed: set[int]) -> int:
    """The CPU this thread runs on: field 39 of /proc/thread-self/stat (proc(5)); else the first allowed."""
    try:
        with open("/proc/thread-self/stat", "rb") as stat:
            cpu = int(stat.read().rsplit(b")", 1)[1].split()[36])
    except (OSError, ValueError, IndexError):
        cpu = -1
    return cpu if cpu in allowed else min(allowed)
