# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenarios of a survey, played on several CPUs."""

import logging
import multiprocessing
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import Synchronized

from kvmharness.lab import cpus
from kvmharness.model.policy import Policy
from kvmharness.scenarios import SUBJECTS, Scenario
from kvmharness.survey.keys import Space
from kvmharness.survey.plays import Outcome, Tree, outcome, tree
from kvmharness.survey.rules import Survey, survey

_LOG = logging.getLogger(__name__)
# What runs now is copied: what a policy file's code defines is there without being read again.
_FORK = multiprocessing.get_context("fork")

_Played = tuple[Tree, tuple[Outcome, ...]]


class WorkerError(Exception):
    """A process that was to play scenarios ended before it had."""


def asked_about(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Those whose contract says something about a KVM that honours writes."""
    return [scenario for scenario in scenarios if "tsc-write" not in scenario.lacks]


def all_rules(
    space: Space, scenarios: Sequence[Scenario], known: Sequence[Policy], jobs: int | None = None
) -> Survey:
    """The survey of a space, `known` policies among it, on so many CPUs (None: all that may be used).

    How far it is, is logged. WorkerError if a process dies.
    """
    found = _played(space, scenarios, known, jobs or cpus.usable())
    trees = [found[scenario.name][0] for scenario in scenarios]
    outcomes = {
        policy: [found[scenario.name][1][number] for scenario in scenarios]
        for number, policy in enumerate(known)
    }
    return survey(space, scenarios, trees, outcomes)


def _played(
    space: Space, scenarios: Sequence[Scenario], known: Sequence[Policy], jobs: int
) -> Mapping[str, _Played]:
    # The longest first, so that none is left over at the end.
    order = sorted(scenarios, key=lambda each: -len(each.script))
    following: Synchronized[int] = _FORK.Value("i", 0)
    readers: list[Connection] = []
    processes = []
    for _ in range(min(jobs, len(order))):
        reader, writer = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_work, args=(space, order, known, following, writer), daemon=True)
        process.start()
        writer.close()
        readers.append(reader)
        processes.append(process)
    try:
        return _collected(readers, order)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(
    space: Space,
    order: Sequence[Scenario],
    known: Sequence[Policy],
    following: "Synchronized[int]",
    writer: Connection,
) -> None:
    """Play what nobody else plays, until nothing is left."""
    while True:
        with following.get_lock():
            number = following.value
            following.value += 1
        if number >= len(order):
            return
        scenario = order[number]
        outcomes = tuple(outcome(scenario, policy) for policy in known)
        writer.send((scenario.name, (tree(scenario, space), outcomes)))


def _collected(readers: list[Connection], order: Sequence[Scenario]) -> Mapping[str, _Played]:
    """What the processes send, until all is there."""
    found: dict[str, _Played] = {}
    left = _by_subject(order)
    while len(found) < len(order):
        for reader in wait(readers):
            assert isinstance(reader, Connection)
            try:
                name, played = reader.recv()
            except EOFError:
                readers.remove(reader)
                continue
            found[name] = played
            _note(left, name, len(found), len(order))
        if not readers and len(found) < len(order):
            raise WorkerError(f"a process that played scenarios ended, {len(order) - len(found)} are left")
    return found


def _by_subject(scenarios: Sequence[Scenario]) -> dict[str, set[str]]:
    names = {scenario.name for scenario in scenarios}
    subjects = {
        subject.__name__.rpartition(".")[2]: names & {each.name for each in subject.SCENARIOS}
        for subject in SUBJECTS
    }
    others = names.difference(*subjects.values())
    return {subject: of for subject, of in {**subjects, "others": others}.items() if of}


def _note(left: dict[str, set[str]], name: str, done: int, of: int) -> None:
    """Log a subject that is done."""
    (subject,) = (subject for subject, names in left.items() if name in names)
    left[subject].discard(name)
    if not left[subject]:
        del left[subject]
        progress = {"left": list(left), "of": len(left) + 1}
        _LOG.info("%s is done, %d of %d scenarios", subject, done, of, extra=progress)
