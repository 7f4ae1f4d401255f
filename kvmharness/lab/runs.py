# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels played on in machines and judged: one of each, or a matrix of them."""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from types import TracebackType

from kvmharness.judging.identity import Identity
from kvmharness.judging.session import LostError, Session, SessionResult, settle
from kvmharness.judging.verdict import JUDGED, Expectation, Result, Verdict
from kvmharness.lab import cpus
from kvmharness.lab.crashes import Crashes
from kvmharness.lab.errors import LabError
from kvmharness.lab.executor import LabExecutor, LocalExecutor
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.play import LostMachineError
from kvmharness.report import KernelReport
from kvmharness.scenarios import Scenario

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Played:
    """The results of the scenarios on one kernel and machine; `notes` are what its console said of it. Of the
    FAILs those of `crashed` are crashes of the kernel, which leave no trace.
    """

    results: tuple[Result, ...]
    sessions: dict[str, Session]
    identity: Identity | None = None
    notes: tuple[str, ...] = ()
    crashed: frozenset[str] = frozenset()
    attempts: tuple[Session, ...] = ()
    host: Mapping[str, str] = field(default_factory=dict)


def play_on(
    kernel: Kernel, machine: Machine, scenarios: Sequence[Scenario], expectation: Expectation
) -> Played:
    """Play on a kernel, and judge.

    A scenario that crashes the kernel costs the others nothing (see `crashes`). Where the machine was lost,
    so are all scenarios, and the console's last lines are among the notes. What had a verdict before keeps
    it. LabError when the kernel cannot be played on at all.
    """
    _LOG.info("%s: %s boots on %s", kernel.spec, kernel.release, machine.name)
    expectation = replace(
        expectation, may_be_protected=machine.may_protect_tscs, stable_tsc=machine.keeps_tsc_stable
    )
    # Without others beside it, all CPUs are this kernel's.
    slots = machine.slots or threading.Semaphore(cpus.usable())
    # What a snapshot left inconclusive (a rate that was measured while the host was busy) a boot may not.
    again = machine if machine.counts_instructions else machine.without_snapshots
    machines = (replace(each, slots=slots) for each in chain([machine], repeat(again)))
    crashes = Crashes(kernel)
    began = False
    lost, notes = "", list[str]()

    def play_there(each: Sequence[Scenario]) -> Session:
        nonlocal began
        first, began = not began, True
        try:
            return crashes.play(next(machines), each)
        except LabError as error:
            if first:
                raise
            notes.append(f"what was open could not be played again: {error}")
            raise LostError(str(error)) from None

    try:
        outcome = settle(scenarios, play_there, expectation, confirm=not machine.counts_instructions)
    except LostError as error:
        outcome, lost = SessionResult((), {}), str(error)
        notes += error.console if isinstance(error, LostMachineError) else []
    results = _merged(scenarios, outcome.results, crashes, machine, lost)
    notes = [*outcome.notes, *crashes.notes, *notes]
    crashed = [each for each in results if each.verdict is Verdict.FAIL and each not in outcome.results]
    return Played(
        *(results, outcome.sessions, outcome.identity, tuple(dict.fromkeys(notes))),
        crashed=frozenset(each.scenario for each in crashed),
        attempts=outcome.attempts,
        host=outcome.host,
    )


def _merged(
    scenarios: Sequence[Scenario], judged: Sequence[Result], crashes: Crashes, machine: Machine, lost: str
) -> tuple[Result, ...]:
    """The verdicts, in the order of the scenarios: also of those that crashed the kernel, or were `lost`."""
    names = {each.name for each in scenarios}
    verdicts = {each.scenario: each for each in judged}
    results = [each for each in judged if each.scenario not in names]
    for scenario in scenarios:
        verdict, crash = verdicts.get(scenario.name), crashes.result(scenario, machine)
        if verdict is None or (verdict.verdict not in JUDGED and crash and crash.verdict is Verdict.FAIL):
            verdict = crash or Result(scenario.name, Verdict.LOST, scenario.contract, lost)
        results.append(verdict)
    return tuple(results)


@dataclass(frozen=True, slots=True)
class Finished:
    """A kernel and machine of a matrix, number `number` from 0: its result, or the `trouble` that kept
    it from being played."""

    number: int
    kernel: Kernel
    machine: Machine
    played: Played | None
    trouble: BaseException | None = None


class Matrix:
    """Kernels on machines, which `executor` plays (None: this machine, on as many at a time as it has CPUs).

    Iterate over it for each as it is finished. At the end of a `with` block machines that still run are
    ended, and what has not begun never will.
    """

    def __init__(
        self,
        boots: Sequence[tuple[Kernel, Machine]],
        scenarios: Sequence[Scenario],
        expectation: Expectation,
        executor: LabExecutor | None = None,
    ) -> None:
        self._boots = tuple(boots)
        self._executor = executor or LocalExecutor()
        self._futures = [
            self._executor.submit(play_on, *boot, scenarios, expectation) for boot in self._boots
        ]

    def __enter__(self) -> "Matrix":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def __iter__(self) -> Iterator[Finished]:
        """Each, as soon as it is finished. How many are, and which are left, is logged."""
        titles = [f"{kernel.spec} on {machine.name}" for kernel, machine in self._boots]
        left = dict(enumerate(titles))
        _LOG.info("%d to play: %s", len(left), ", ".join(titles), extra={"left": titles, "of": len(titles)})
        try:
            for future in as_completed(self._futures):
                number = self._futures.index(future)
                title = left.pop(number)
                progress = {"left": list(left.values()), "of": len(titles)}
                _LOG.info("%s is done, %d of %d", title, len(titles) - len(left), len(titles), extra=progress)
                yield self._finished(number)
        finally:
            if left:
                _LOG.info("not finished: %s", ", ".join(left.values()), extra={"left": [], "of": 0})

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
        host=played.host,
        sessions=played.sessions,
    )
