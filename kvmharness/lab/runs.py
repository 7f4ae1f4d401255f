# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel played on in a machine, as the commands of the lab report it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat

from kvmharness.cli import options
from kvmharness.judging.identity import Identity
from kvmharness.judging.session import Session, settle
from kvmharness.judging.verdict import Expectation, Result, Verdict
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.report import KernelReport
from kvmharness.scenarios import Scenario


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
    options.progress(f"{kernel.spec}: {kernel.release} boots on {machine.name}")
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


def report(kernel: Kernel, machine: Machine, played: Played, expectation: Expectation) -> KernelReport:
    """What is reported of it."""
    return KernelReport(
        *(kernel.spec, machine.name, kernel.release, played.results, expectation.name),
        *(played.identity, played.notes),
    )
