# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays on other machines: an executor whose calls run on the workers of a dask.distributed cluster.

The engine gives each call to a worker, and to another one if that worker is lost. This file adds what the
engine lacks: kernels travel with the calls (`parcels`), workers with another kvmharness are refused, and a
worker that was lost is named.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import dask
from distributed import Client
from distributed.scheduler import KilledWorker

from kvmharness.lab import parcels, worker
from kvmharness.lab.errors import LabError
from kvmharness.lab.executor import LabExecutor
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.worker import About

P = ParamSpec("P")
T = TypeVar("T")

# How long the scheduler may take to answer, and the first worker to appear.
_CONNECT_S, _WORKERS_S = 10, 10
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PACKED = "kvmharness-content-"


class ClusterExecutor(LabExecutor):
    """Runs calls on the workers of a cluster, as many at a time as these have threads.

    `say` is given a line for each worker that was lost with calls on it, which others run then. LabError
    where the cluster does not answer, has no workers, or one that has another kvmharness.
    """

    def __init__(self, address: str, say: Callable[[str], None]) -> None:
        self._say = say
        self._client = _connected(address)
        try:
            self._workers = _looked_at(self._client, address)
            # The scheduler tells all who ask under this name that a worker is gone.
            self._client.subscribe_topic("all", self._heard)
        except BaseException:
            self._client.close()
            raise
        if not _is_private(address):
            say(f"{address} is not tls://: whoever can reach it can run programs on its workers and here")
        self.jobs = sum(each.threads for each in self._workers.values())
        self._executor = self._client.get_executor(pure=False)
        self._contents: dict[str, Any] = {}
        self._titles: dict[str, str] = {}
        self._over = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have the function called with these arguments; kernels travel, once to each worker.

        The future's exception is LabError where no worker could play it to its end.
        """
        key = f"kvmharness-play-{uuid.uuid4().hex}"
        self._titles[key] = " on ".join(_named(args)) or "a job"
        packed = [parcels.packed(each) if isinstance(each, Kernel) else _bare(each) for each in args]
        digests = sorted(
            {each for parcel in packed if isinstance(parcel, parcels.Parcel) for each in parcel.digests}
        )
        contents = [self._content(digest) for digest in digests]
        job = worker.Job(fn, tuple(packed), kwargs, tuple(digests))
        played: Future[T] = Future()
        self._executor.submit(worker.play, job, contents, key=key).add_done_callback(
            lambda inner: self._hand_over(inner, played, self._titles.pop(key))
        )
        return played

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. With `cancel_futures` machines that run are ended, and what has not begun never
        will."""
        if self._over:
            return
        self._over = True
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._contents.clear()
        self._client.close(timeout=_CONNECT_S)

    def emulators(self, machines: Sequence[Machine]) -> list[str]:
        """The programs that emulate these machines on the workers, in all versions that there are."""
        programs = dict.fromkeys(machine.emulator.program for machine in machines)
        found = {
            f"{program} {each.emulators[program]}".rstrip()
            for program in programs
            for each in self._workers.values()
            if program in each.emulators
        }
        return [f"{each} (of a cluster)" for each in sorted(found)]

    def _content(self, digest: str) -> Any:
        """A content as a task of the cluster's: a worker that was lost with it is no loss."""
        if digest not in self._contents:
            content = parcels.content(digest)
            self._contents[digest] = self._client.submit(worker.unchanged, content, key=_PACKED + digest)
        return self._contents[digest]

    def _heard(self, event: tuple[float, dict[str, Any]]) -> None:
        """Something happened in the cluster; say what was on a worker that was lost."""
        _, what = event
        if what.get("action") != "remove-worker" or self._over:
            return
        titles = dict.fromkeys(self._titles[key] for key in what["processing-tasks"] if key in self._titles)
        if titles:
            self._say(f"worker {what['worker']} was lost; others play what it had: {', '.join(titles)}")

    def _hand_over(self, inner: "Future[T]", played: "Future[T]", title: str) -> None:
        if played.cancelled():
            return
        if inner.cancelled():
            if self._over:
                played.cancel()
            else:
                played.set_exception(LabError(f"{title}: the cluster gave it up, or is gone"))
            return
        trouble = inner.exception()
        if isinstance(trouble, KilledWorker):
            played.set_exception(
                LabError(f"{title}: every worker that played it was lost, the last one {trouble.last_worker}")
            )
        elif trouble is not None:
            played.set_exception(trouble)
        else:
            played.set_result(inner.result())


class _ClosingClient(Client):
    """A client that is closed at once where it finds no cluster.

    Left to the garbage collector it closes itself at some later moment (Client.__del__), and waits for ever
    where that is in the midst of another client's start, which holds the same lock.
    """

    def start(self, **options: Any) -> None:
        """Connect to the scheduler, as Client does."""
        try:
            super().start(**options)  # type: ignore[no-untyped-call]
        except BaseException:
            self.close()  # type: ignore[no-untyped-call]
            raise


def _connected(address: str) -> Client:
    # What goes wrong becomes one line of ours, and a kernel is larger than most graphs.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"})
    try:
        return _ClosingClient(  # type: ignore[no-untyped-call]
            address, timeout=_CONNECT_S, set_as_default=False, name="kvmharness"
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise LabError(f"no cluster at {address}: {said}") from None


def _looked_at(client: Client, address: str) -> dict[str, About]:
    """What there is to know of the workers, by address. LabError unless all can be used."""
    with suppress(TimeoutError):
        client.wait_for_workers(1, timeout=_WORKERS_S)
    found: dict[str, Any] = client.run(worker.about, on_error="return")
    if not found:
        raise LabError(f"the cluster at {address} has no workers: start one with `dask worker {address}`")
    ours = worker.code()
    for name, about in found.items():
        if not isinstance(about, About):
            raise LabError(f"worker {name} cannot be used, it has no kvmharness like this one: {about}")
        if about.code != ours:
            raise LabError(
                f"worker {name} on {about.host} has another kvmharness ({about.version}): install the same"
            )
    return found


def _is_private(address: str) -> bool:
    """Whether nobody else can take part in what is said there."""
    found = urlsplit(address if "://" in address else f"tcp://{address}")
    return found.scheme in ("tls", "wss", "inproc") or found.hostname in _LOOPBACK


def _named(arguments: Sequence[object]) -> list[str]:
    """What a call is about, in words."""
    kernels = [each.spec for each in arguments if isinstance(each, Kernel)]
    return kernels + [each.name for each in arguments if isinstance(each, Machine)]


def _bare(argument: object) -> object:
    """An argument without what is this process' alone."""
    return argument.elsewhere if isinstance(argument, Machine) else argument
