# SPDX-License-Identifier: GPL-2.0-or-later
"""What a worker of a cluster does for us (see `cluster`)."""

import functools
import hashlib
import shutil
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import get_worker

import kvmharness
from kvmharness import version
from kvmharness.lab import parcels
from kvmharness.lab.errors import LabError
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.emulator import version_of
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.parcels import Parcel
from kvmharness.lab.runs import Played

_PACKAGE = Path(kvmharness.__file__).parent


@dataclass(frozen=True, slots=True)
class About:
    """A worker: its host, the version of its kvmharness and a hash of that code, how many calls it runs at a
    time, and the versions of the emulators that it has."""

    host: str
    version: str
    code: str
    threads: int
    emulators: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """A call on its way: `arguments` have Parcels for kernels, whose contents are called `digests`."""

    call: Callable[..., Any]
    arguments: tuple[object, ...]
    keywords: Mapping[str, Any]
    digests: tuple[str, ...]


def about(dask_worker: Any) -> About:
    """What the worker that runs this is. The parameter has the name that Client.run() gives a worker by."""
    return About(socket.gethostname(), version.described(), code(), dask_worker.state.nthreads, _emulators())


@functools.cache
def code() -> str:
    """What tells this kvmharness' Python code from another's."""
    whole = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        whole.update(f"{path.relative_to(_PACKAGE)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def unchanged(content: bytes) -> bytes:
    """A content, which so becomes a task that the scheduler can have done again."""
    return content


def play(job: Job, contents: Sequence[bytes]) -> Any:
    """Run a call here. LabError names the worker."""
    worker = get_worker()
    stop, slots = _Cancelled(worker), _slots(worker.state.nthreads)
    found = dict(zip(job.digests, contents, strict=True))

    def here(argument: object) -> object:
        if isinstance(argument, Parcel):
            return parcels.unpacked(argument, found)
        return replace(argument, stop=stop, slots=slots) if isinstance(argument, Machine) else argument

    try:
        result = job.call(*map(here, job.arguments), **job.keywords)
    except LabError as error:
        raise LabError(f"worker {socket.gethostname()}: {error}") from None
    if not isinstance(result, Played):
        return result
    programs = {each.emulator.program for each in job.arguments if isinstance(each, Machine)}
    emulators = [f"{each} {_emulators().get(each, '')}".rstrip() for each in sorted(programs)]
    return replace(result, notes=(*result.notes, f"played by {socket.gethostname()}, {', '.join(emulators)}"))


class _Cancelled(threading.Event):
    """Set when nobody waits any more for the call that runs in this thread."""

    def __init__(self, worker: Any) -> None:
        super().__init__()
        self._tasks, self._key = worker.state.tasks, worker.get_current_task()

    def is_set(self) -> bool:
        """Whether it is."""
        task = self._tasks.get(self._key)
        return super().is_set() or task is None or task.state == "cancelled"


@functools.cache
def _slots(threads: int) -> threading.Semaphore:
    """What all calls of this worker share."""
    return threading.Semaphore(threads)


@functools.cache
def _emulators() -> dict[str, str]:
    programs = {each.emulator.program for each in MACHINES.values()}
    return {each: version_of(each) for each in sorted(programs) if shutil.which(each)}
