# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the playing thread had to wait for a CPU: its run_delay, KVM's steal time.

The kernel counts it in ns from the thread's creation (struct sched_info). What a thread sleeps is none of it.
"""

from __future__ import annotations

import os
import time

from kvmharness.kvm import ffi, lib
from kvmharness.player.threads import Running, check

# How much longer than asked another thread competes at the most: where there is another CPU for it after
# all, or the scheduler prefers ours, it gives up.
_MOST_NS = 1_000_000_000


def run_delay() -> int:
    """What the calling thread has waited for a CPU, in ns; OSError where the kernel does not say it."""
    with open("/proc/thread-self/schedstat", "rb") as schedstat:
        return int(schedstat.read().split()[1])  # Documentation/scheduler/sched-stats.rst


def wait_for_cpu(cpu: int, ns: int) -> list[int]:
    """Let another thread compete for this CPU until the calling one, which is on it, has waited `ns` ns more.

    The calling thread's run_delay before and after.
    """
    before = after = run_delay()
    stop = ffi.new("int *")
    deadline = time.monotonic_ns() + ns + _MOST_NS

    def compete() -> None:
        os.sched_setaffinity(0, {cpu})
        lib.occupy_cpu(stop, deadline)

    running = Running(compete)
    try:
        while after - before < ns and time.monotonic_ns() < deadline:
            os.sched_yield()
            after = run_delay()
    finally:
        stop[0] = 1
        check([running.wait()])
    return [before, after]
