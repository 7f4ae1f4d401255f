# SPDX-License-Identifier: GPL-2.0-or-later
"""Where scripts are played: on this host's KVM, or on a kernel in a machine of the lab."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kvmharness import host
from kvmharness.judging.session import LostError, Session
from kvmharness.judging.verdict import Expectation, Verdict
from kvmharness.lab import play
from kvmharness.lab.crashes import Crashes
from kvmharness.lab.executor import LabExecutor, LocalExecutor
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.scenarios import Scenario

_SECOND = 1_000_000_000


@dataclass
class OnHost:
    """This host's own /dev/kvm."""

    spec: str = "host"
    machine_name: str = "/dev/kvm"
    real_time: bool = True
    # Waits cost as long as they take.
    most_wait_ns: int = _SECOND + _SECOND // 5
    # No machine counts slower. What only a fuzzer asks for is not tried on a kernel that others use.
    least_khz: int = 1_000

    @property
    def cpus(self) -> int:
        """How many CPUs a script may move to."""
        return len(os.sched_getaffinity(0))

    def expectation(self, given: Expectation) -> Expectation:
        """What is to be expected here."""
        return given

    def play(self, scenarios: Sequence[Scenario]) -> Session:
        """Play them."""
        return host.play(scenarios)

    def crashed(self, scenario: Scenario) -> str:
        """A host that crashes says nothing any more."""
        return ""

    def stop(self) -> None:
        """There is nothing to end."""


@dataclass
class InLab:
    """A kernel in a machine, which `executor` has."""

    kernel: Kernel
    machine: Machine
    executor: LabExecutor = field(default_factory=LocalExecutor)
    least_khz: int = 0
    _crashed: dict[str, str] = field(default_factory=dict)
    _probed: Session | None = None
    _stopped: bool = False

    @property
    def spec(self) -> str:
        """The kernel's name."""
        return self.kernel.spec

    @property
    def machine_name(self) -> str:
        """The machine's name."""
        return self.machine.name

    @property
    def real_time(self) -> bool:
        """Whether no two runs are the same."""
        return not self.machine.counts_instructions

    @property
    def most_wait_ns(self) -> int:
        """Waiting costs nothing where time is counted in instructions."""
        return _SECOND + _SECOND // 5 if self.real_time else 100 * _SECOND

    @property
    def cpus(self) -> int:
        """How many CPUs a script may move to: the machines that run in real time have two."""
        return 2 if self.real_time else 1

    def expectation(self, given: Expectation) -> Expectation:
        """What is to be expected here: of the machine it is known what its TSC is like."""
        machine = self.machine
        return replace(given, may_be_protected=machine.may_protect_tscs, stable_tsc=machine.keeps_tsc_stable)

    def play(self, scenarios: Sequence[Scenario]) -> Session:
        """Play them; those that crash the kernel leave no trace. LostError where nothing can be played."""
        batch = self.executor.submit(play_batch, self.kernel, self.machine, scenarios).result()
        session = batch.session
        if session is None:
            if self._probed is None or self._stopped:
                raise LostError(batch.lost)
            session = Session(self._probed.probe, {})
        for scenario in scenarios:
            self._crashed.pop(scenario.name, None)
        self._crashed |= batch.crashed
        self._probed = session
        return session

    def crashed(self, scenario: Scenario) -> str:
        """What the kernel said when this scenario crashed it; "" if it did not."""
        return self._crashed.get(scenario.name, "")

    def stop(self) -> None:
        """End the machines that run."""
        self._stopped = True
        self.executor.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Batch:
    """What was played of scripts; None, and how the machine was lost, where nothing could be.

    `crashed` says how scripts ended that crashed the kernel, by name."""

    session: Session | None
    lost: str
    crashed: dict[str, str]


def play_batch(kernel: Kernel, machine: Machine, scenarios: Sequence[Scenario]) -> Batch:
    """Play them in a machine; those that crash the kernel leave no trace."""
    crashes = Crashes(kernel)
    session, lost = None, ""
    try:
        session = crashes.play(machine, scenarios) if scenarios else play.play(kernel, machine, [])
    except LostError as error:
        lost = str(error)
    crashed = {}
    for scenario in scenarios:
        result = crashes.result(scenario, machine)
        if result is not None and result.verdict is Verdict.FAIL:
            crashed[scenario.name] = result.reason
    return Batch(session, lost, crashed)
