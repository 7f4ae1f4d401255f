# SPDX-License-Identifier: GPL-2.0-or-later
"""A series of patches, built and played one by one.

While one patch is played the next is compiled. What a patch costs is its compile, and its play where the
modules of the machine are not, byte for byte, those of an earlier patch.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from kvmharness.judging.difference import compare_sessions
from kvmharness.judging.verdict import Expectation, Verdict
from kvmharness.lab import build, cache, runs
from kvmharness.lab.build.changes import Change, Changes
from kvmharness.lab.build.make import CompileError
from kvmharness.lab.build.modules import Built, Contents, Ground
from kvmharness.lab.errors import LabError
from kvmharness.lab.executor import LabExecutor, LocalExecutor
from kvmharness.lab.kernels import Kernel, stored
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.patches.apply import PatchRefusedError
from kvmharness.lab.runs import Played
from kvmharness.report.kernel import KernelReport
from kvmharness.report.series import Effect, Outcome, Row, SeriesReport, behaves_as
from kvmharness.scenarios import Scenario

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    """The kernel that is played on a machine after row `number`, and its play."""

    number: int
    kernel: Kernel
    play: "Future[Played]"


@dataclass(slots=True)
class _Pending:
    """A row without its effects, and what has to be played for them, by machine."""

    row: Row
    states: dict[str, _State]


class SeriesRun:
    """A series that is played on machines. At the end of a `with` block machines that still run are ended.

    `executor` plays what is built here (None: this machine). `name` is what the kernels are called:
    built:NAME.0 without the series, built:NAME.1 with its first patch.
    """

    def __init__(
        self,
        on: Ground,
        changes: Changes,
        *,
        machines: Sequence[Machine],
        scenarios: Sequence[Scenario],
        expectation: Expectation,
        name: str,
        executor: LabExecutor | None = None,
    ) -> None:
        self._on = on
        self._changes = changes
        self._machines = machines
        self._scenarios = scenarios
        self._expectation = expectation
        self._name = name
        self._executor = executor or LocalExecutor()
        self._plays: dict[tuple[str, str], _State] = {}
        self._doubts: tuple[str, ...] = ()
        self._pending: list[_Pending] = []

    def __enter__(self) -> "SeriesRun":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def run(self) -> None:
        """Build and play all of it. LabError where the kernel cannot be built or played without it."""
        without = self._build(self._changes.before, 0)
        self._doubts = without.doubts
        self._pending = [_Pending(Row(0, "", "", "", Outcome.PLAYED), self._play(without.kernel, 0))]
        for pending in self._rows(without):
            self._pending.append(pending)
            row = pending.row
            done = "built" if row.outcome is Outcome.PLAYED else row.outcome.value
            _LOG.info("patch %d of %d, %s: %s", row.number, len(self._changes.all), row.title, done)
        for state in self._pending[0].states.values():
            state.play.result()
        for state in self._plays.values():
            state.play.exception()  # waits for it

    def _rows(self, without: Built) -> Iterator[_Pending]:
        """The rows, as far as building decides them."""
        contents, modules = self._changes.before, stored.modules_hash(without.kernel)
        kernel = without.kernel
        known: set[str] = {*without.doubts}
        beneath: list[Row] = []
        for number, change in enumerate(self._changes.all, 1):
            row = _row(number, change)
            if not change.is_ours or change.fault:
                outcome = Outcome.REFUSED if change.is_ours else Outcome.PASSED_OVER
                yield _Pending(replace(row, outcome=outcome, reason=change.fault), {})
                continue
            row = replace(row, beneath=tuple(each.number for each in beneath))
            try:
                contents = change.applied(contents)
                built = self._build(contents, number)
            except PatchRefusedError as refused:
                reason = "; ".join([str(refused), *refused.details[:1]])
                yield _Pending(replace(row, outcome=Outcome.REFUSED, reason=reason, beneath=()), {})
                continue
            except LabError as error:
                if cache.is_full(cache.root()):
                    raise
                row = _not_built(row, _first_error(error), beneath)
                beneath.append(row)
                yield _Pending(row, {})
                continue
            beneath.clear()
            doubts = tuple(each for each in built.doubts if each not in known)
            row = replace(row, kernel=built.kernel.spec, doubts=doubts)
            known |= {*built.doubts}
            if stored.modules_hash(built.kernel) == modules:
                yield _Pending(replace(row, outcome=Outcome.UNCHANGED), {})
                continue
            states = self._play_changed(built.kernel, kernel, number)
            modules, kernel = stored.modules_hash(built.kernel), built.kernel
            yield _Pending(row, states)

    def _build(self, contents: Contents, number: int) -> Built:
        return build.build_contents(self._on, contents, f"{self._name}.{number}")

    def _play_changed(self, kernel: Kernel, before: Kernel, number: int) -> dict[str, _State]:
        """Plays on the machines for which the kernel has other modules than the one before."""
        machines = [each for each in self._machines if _key(kernel, each) != _key(before, each)]
        return self._play(kernel, number, machines)

    def _play(self, kernel: Kernel, number: int, machines: Sequence[Machine] = ()) -> dict[str, _State]:
        """Have it played, unless a kernel with these modules was: then that counts."""
        states = {}
        for machine in machines or self._machines:
            key = machine.name, _key(kernel, machine)
            if key not in self._plays:
                play = self._executor.submit(
                    runs.play_on, kernel, machine, self._scenarios, self._expectation
                )
                self._plays[key] = _State(number, kernel, play)
            states[machine.name] = replace(self._plays[key], number=number)
        return states

    def report(self) -> SeriesReport | None:
        """What was measured by now: the rows up to the first whose play is not over. None if the kernel was
        not played without the series."""
        if not self._pending or not _is_over(self._pending[0]):
            return None
        history = {name: _History(self, name, state) for name, state in self._pending[0].states.items()}
        before = tuple(each.last for each in history.values())
        rows = []
        for pending in self._pending[1:]:
            if not _is_over(pending):
                break
            try:
                effects = [history[name].effect(state) for name, state in pending.states.items()]
            except LabError as error:
                rows.append(replace(pending.row, outcome=Outcome.NOT_PLAYED, reason=str(error)))
                continue
            rows.append(replace(pending.row, effects=tuple(effects)))
        kernel, count = self._on.base, len(self._changes.all)
        return SeriesReport(self._on.spec, kernel.release, before, tuple(rows), count, self._doubts)

    def report_on(self, state: _State, machine: str) -> KernelReport:
        """The report on a state's kernel."""
        on = next(each for each in self._machines if each.name == machine)
        return runs.report(state.kernel, on, state.play.result(), self._expectation)


class _History:
    """What is known on a machine so far: which contracts are kept, and what the kernel behaves as."""

    def __init__(self, run: SeriesRun, machine: str, first: _State) -> None:
        self._run = run
        self._machine = machine
        self._state = first
        self._was_lost = False
        self.last = run.report_on(first, machine)
        self._kept = {each.scenario: each.kept for each in self.last.results if each.kept is not None}
        self._behaves_as = behaves_as(self.last)

    def effect(self, state: _State) -> Effect:
        """What the next state changes. LabError where it could not be played."""
        report = self._run.report_on(state, self._machine)
        kept = {each.scenario: each.kept for each in report.results if each.kept is not None}
        known = [name for name in kept if name in self._kept]
        effect = Effect(
            report,
            compare_sessions(self._state.play.result().attempts, state.play.result().attempts),
            self._state.number if self._was_lost else None,
            newly_kept=tuple(name for name in known if kept[name] and not self._kept[name]),
            newly_broken=tuple(name for name in known if self._kept[name] and not kept[name]),
            first_judged={name: kept[name] for name in kept if name not in self._kept},
            behaved_as=self._behaves_as,
        )
        self._kept |= kept
        # What could not be played is no ground to compare the next patch with.
        self._was_lost = all(each.verdict is Verdict.LOST for each in report.results)
        if not self._was_lost:
            self._state = state
            self._behaves_as = behaves_as(report) or self._behaves_as
        return effect


def _row(number: int, change: Change) -> Row:
    return Row(
        *(number, change.title, change.author, change.origin, Outcome.PLAYED), left_out=change.left_out
    )


def _not_built(row: Row, reason: str, beneath: Sequence[Row]) -> Row:
    """The row of a patch that does not build; an error that one beneath it has too is that one's."""
    bare = _without_lines(reason)
    same = (each.like or each.number for each in beneath if _without_lines(each.reason) == bare)
    return replace(row, outcome=Outcome.NOT_BUILT, reason=reason, like=next(same, 0))


def _without_lines(error: str) -> str:
    """An error of the compiler's without the line that it is in."""
    return re.sub(r":\d+(?=: )", "", error)


def _is_over(pending: _Pending) -> bool:
    return all(state.play.done() and not state.play.cancelled() for state in pending.states.values())


def _first_error(error: LabError) -> str:
    """The first line of what the compiler said, or else all of it."""
    return error.first if isinstance(error, CompileError) else str(error)


def _key(kernel: Kernel, machine: Machine) -> str:
    """What tells the modules that a machine loads from others; the vendor's alone where there is none."""
    names = kernel.load_order.get(machine.vendor_module, ())
    return " ".join(_digest(kernel, name) for name in names) or kernel.spec


def _digest(kernel: Kernel, name: str) -> str:
    return hashlib.sha256((kernel.folder / name).read_bytes()).hexdigest()
