# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's own guest on real kernels: what it reads, and what the host does while it is current."""

from collections.abc import Callable

import pytest

from kvmharness.judging.session import SessionResult, settle
from kvmharness.judging.verdict import Verdict
from kvmharness.lab import play
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import machine
from kvmharness.lab.machines.catalogue import INTEL
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Event

KERNELS = ("debian:6.1", "debian:6.12")

SCALED = [name for name, each in SCENARIOS.items() if "nested-scaling" in each.needs]

Outcome = Callable[[str], SessionResult]


def steps(outcome: SessionResult, name: str) -> dict[str, Event]:
    """A scenario's steps by their labels."""
    trace = outcome.sessions[name].traces[name]
    return {event.operation.label: event for event in trace.events}


@pytest.mark.lab
@pytest.mark.parametrize("spec", KERNELS)
def test_real_kernels_keep_the_contracts_of_nested_guests(outcome: Outcome, spec: str) -> None:
    verdicts = {
        each.scenario: each.verdict for each in outcome(spec).results if each.scenario.startswith("nested-")
    }
    unstable = verdicts.pop("nested-unstable")
    assert unstable is Verdict.SKIP
    # QEMU's SVM has no TSC scaling, and ours is by VMX.
    scaled = [verdicts.pop(name) for name in SCALED]
    assert set(scaled) == {Verdict.SKIP}
    assert len(verdicts) > 10
    assert set(verdicts.values()) == {Verdict.PASS}


@pytest.mark.lab
@pytest.mark.parametrize("spec", KERNELS)
def test_l2_reads_its_own_tsc_and_the_host_that_of_l1(outcome: Outcome, spec: str) -> None:
    played = steps(outcome(spec), "nested-enter")
    l2, host, l1 = played["l2"], played["tsc"], played["l1"]
    offset, tsc, by_rdmsr = l2.values
    # L1 adds a negative number to its own. The host read L1's TSC before L2 ran, and L1 itself after that.
    assert offset > 2**63
    assert host.values[0] < (tsc - offset) % 2**64 < (by_rdmsr - offset) % 2**64 < l1.values[0]


@pytest.mark.lab
@pytest.mark.parametrize("spec", KERNELS)
def test_debugfs_is_not_looked_at_while_l2_is_current(outcome: Outcome, spec: str) -> None:
    played = steps(outcome(spec), "nested-host-write")
    shown = {label: bool(event.debugfs) for label, event in played.items()}
    assert [label for label, each in shown.items() if not each] == [
        "l2-first",
        "write",
        "offset",
        "tsc",
        "l2",
    ]


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize("spec", KERNELS)
def test_a_guest_enters_its_own_by_vmx_and_at_another_rate(
    kernel: Callable[[str], Kernel], spec: str
) -> None:
    try:
        machine.check_emulator(INTEL)
    except LabError as error:
        pytest.skip(f"missing capability intel: {error}")
    scenarios = [each for each in SCENARIOS.values() if each.name.startswith("nested-")]
    played = settle(scenarios, lambda each: play.play(kernel(spec), INTEL, each))
    verdicts = {each.scenario: each.verdict for each in played.results}
    assert verdicts.pop("nested-unstable") is Verdict.SKIP
    assert len(verdicts) > 10
    assert set(verdicts.values()) == {Verdict.PASS}
