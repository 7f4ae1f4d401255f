# SPDX-License-Identifier: GPL-2.0-or-later
"""How many CPUs this process may use: what taskset, cpusets and the quotas of a container leave it."""

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def usable(root: Path = _ROOT) -> int:
    """The CPUs of the affinity mask, or what the cgroups' quotas come to (rounded up) if that is less."""
    return min([len(os.sched_getaffinity(0)), *map(math.ceil, _quotas(root))])


def _quotas(root: Path) -> list[float]:
    """The quotas of this process' cgroups and those above them, in CPUs.

    Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (cpu.cfs_quota_us).
    In a container whose own cgroup is mounted as the root, the group's path does not exist; the root counts.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [controllers, "cpu,cpuacct", "cpu"] if controllers else ["", "unified"]
        for mount in dict.fromkeys(mounts):
            inside = PurePosixPath(path.lstrip("/"))
            for group in dict.fromkeys((inside, *inside.parents)):
                quota = _quota(root / "sys/fs/cgroup" / mount / group)
                if quota:
                    found.append(quota)
    return found


def _quota(group: Path) -> float:
    """The CPUs that a cgroup may use; 0 where it has no quota."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return max(0, int(quota) / int(period))
    return 0
