# SPDX-License-Identifier: GPL-2.0-or-later
"""What exploring costs beside playing the same scripts without making or judging them, in CPU time."""

import os
import resource
import subprocess
import sys
import tempfile
import time

from kvmharness.explore.campaign import Campaign, Settings
from kvmharness.explore.ways import InLab
from kvmharness.judging.verdict import Expectation
from kvmharness.lab import kernels
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.lab.play import MOST_TOGETHER

KERNEL = "debian:6.12"
BATCHES, BATCH = 6, MOST_TOGETHER
SCRIPTS_AT_ONCE = 400


def cpu_s() -> float:
    """The CPU time of this process and of the emulators that have ended, in s."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def memory_mb() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bench() -> None:
    """Batch by batch in one process; then the command, with one machine at a time and as many as CPUs."""
    way = InLab(kernels.find(KERNEL), AMD)
    settings = Settings(way.expectation(Expectation()), most_wait_ns=way.most_wait_ns, shrinks=False)
    campaign = Campaign(way.play, settings, crashed=way.crashed)
    spent, memory = dict.fromkeys(("making", "playing", "judging"), 0.0), []
    for _ in range(BATCHES):
        times = [cpu_s()]
        scenarios = campaign.scenarios(BATCH)
        times.append(cpu_s())
        played = campaign.play(scenarios)
        times.append(cpu_s())
        campaign.judge(scenarios, *played)
        times.append(cpu_s())
        for name, begin, end in zip(spent, times, times[1:], strict=False):
            spent[name] += end - begin
        memory.append(memory_mb())
    way.stop()
    tally, whole = campaign.tally, sum(spent.values())
    shares = ", ".join(f"{name} {100 * each / whole:.0f} %" for name, each in spent.items())
    print(
        f"explore, {KERNEL} on amd: {tally.scripts / whole:.1f} scripts, {tally.steps / whole:.0f} steps "
        f"a second and core; {shares}: {spent['playing'] / whole:.2f} of playing alone (aim >= 0.7); "
        f"{memory[0]:.0f} MB after {BATCH} scripts, {memory[-1]:.0f} MB after {BATCH * BATCHES}"
    )
    rates = {jobs: _rate(jobs) for jobs in dict.fromkeys((1, os.cpu_count() or 1))}
    told = ", ".join(f"--jobs {jobs} {rate:.1f} scripts/s" for jobs, rate in rates.items())
    print(f"explore, wall time: {told}")


def _rate(jobs: int) -> float:
    """Scripts a second of wall time."""
    command = [sys.executable, "-m", "kvmharness", "explore", KERNEL, "--scripts", str(SCRIPTS_AT_ONCE)]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        done = subprocess.run(
            [*command, "--jobs", str(jobs), "--corpus", folder], capture_output=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"explore ended with {done.returncode}: {done.stderr.decode()[-200:]}")
        return SCRIPTS_AT_ONCE / (time.monotonic() - begin)
