# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels played on in machines and judged: one of each, or a matrix of them."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import chain, repeat
from types import TracebackType

from kvmharness.judging.identity import Identity
from kvmharness.judging.session import Session, settle
from kvmharness.judging.verdict import Expectation, Result, Verdict
from kvmharness.lab import cpus, play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.report import KernelReport
from kvmharness.scenarios import Scenario

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Played:
    """What became of the scenarios on one kernel and machine; `notes` are what its console said of it."""

    results: tuple[Result, ...]
    sessions: dict[str, Session]
    identity: Identity | None = None
    notes: tuple[str, ...] = ()


def play_on(
    kernel: Kernel, machine: Machine, scenarios: Sequence[Scenario], expectation: Expectation
) -> Played:
    """Play on a kernel; where the machine was lost, all scenarios are, and the console's last lines told."""
    _LOG.info("%s: %s boots on %s", kernel.spec, kernel.release, machine.name)
    expectation = replace(expectation, may_be_protected=machine.may_protect_tscs)
    # What a snapshot left inconclusive (a rate that was measured while the host was busy) a boot may not.
    again = machine if machine.counts_instructions else machine.without_snapshots
    machines = chain([machine], repeat(again))
    try:
        outcome = settle(
            scenarios,
            lambda each: play.play(kernel, next(machines), each),
            expectation,
            confirm=not machine.counts_instructions,
        )
    except play.LostMachineError as lost:
        results = [Result(each.name, Verdict.LOST, each.contract, lost.complaint) for each in scenarios]
        return Played(tuple(results), {}, notes=tuple(lost.console))
    return Played(outcome.results, outcome.sessions, outcome.identity, outcome.notes)


@dataclass(frozen=True, slots=True)
class Finished:
    """A kernel and machine of a matrix, number `number` from 0: what became of it, or the `trouble` that kept
    it from being played."""

    number: int
    kernel: Kernel
    machine: Machine
    played: Played | None
    trouble: BaseException | None = None


class Matrix:
    """Kernels on machines, as many at a time as `jobs` says (None: as this process may use CPUs).

    Iterate over it for each as it is finished. At the end of a `with` block nothing is waited for: what has
    not begun never will.
    """

    def __init__(
        self,
        boots: Sequence[tuple[Kernel, Machine]],
        scenarios: Sequence[Scenario],
        expectation: Expectation,
        jobs: int | None = None,
    ) -> None:
        self._boots = tuple(boots)
        self._pool = ThreadPoolExecutor(max_workers=jobs or cpus.usable())
        self._futures = [self._pool.submit(play_on, *boot, scenarios, expectation) for boot in boots]

    def __enter__(self) -> "Matrix":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __iter__(self) -> Iterator[Finished]:
        """Each, as soon as it is finished."""
        for future in as_completed(self._futures):
            yield self._finished(self._futures.index(future))

    @property
    def finished(self) -> list[Finished]:
        """Those that are finished by now, in the order of the matrix."""
        return [self._finished(number) for number, future in enumerate(self._futures) if future.done()]

    @property
    def unfinished(self) -> list[tuple[Kernel, Machine]]:
        """The others."""
        return [boot for boot, future in zip(self._boots, self._futures, strict=True) if not future.done()]

    def _finished(self, number: int) -> Finished:
        future = self._futures[number]
        trouble = future.exception()
        played = None if trouble else future.result()
        return Finished(number, *self._boots[number], played, trouble)


def report(kernel: Kernel, machine: Machine, played: Played, expectation: Expectation) -> KernelReport:
    """What is reported of it."""
    return KernelReport(
        *(kernel.spec, machine.name, kernel.release, played.results, expectation.name),
        *(played.identity, played.notes),
    )
