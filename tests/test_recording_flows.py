# SPDX-License-Identifier: GPL-2.0-or-later
"""What is recognised in the recordings that come with us, and what is derived from it."""

import pytest

from kvmharness.contract import Status
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.recording import vmms
from kvmharness.recording.flows import CONTINUE, HOTPLUG, RESET, RESTORE, START, recognise
from kvmharness.recording.lines import Recording, from_text
from kvmharness.recording.replay import Replay, replay
from kvmharness.scenarios import SCENARIOS
from kvmharness.scenarios.file import from_text as scenarios_from_text
from kvmharness.scenarios.file import to_text
from kvmharness.scenarios.predicted import predicted_contract
from kvmharness.script import Read, Script, SetMsrs, Sleep, Time

SHIPPED = vmms.shipped()

# What each recording is of, in its order: of a migration the target's.
FLOWS = {
    "kvmtool-start": [START],
    "qemu-hotplug": [START, HOTPLUG],
    "qemu-hotplug-reset": [START, HOTPLUG, RESET, RESET],
    "qemu-incoming-deferred": [START, RESTORE],
    "qemu-incoming-old": [START, RESTORE],
    "qemu-incoming-young": [START, RESTORE],
    "qemu-loadvm-old": [START, CONTINUE, RESTORE],
    "qemu-loadvm-young": [START, CONTINUE, RESTORE],
    "qemu-reset-old": [START, RESET, RESET],
    "qemu-reset-young": [START, RESET],
    "qemu-start": [START],
    "qemu-start-4": [START],
    "qemu-start-16": [START],
    "qemu-stop": [START, CONTINUE],
    "qemu-tsc-frequency": [START],
}

# What was written by hand after other recordings of QEMU, and says the same.
BY_HAND = {
    "kvmtool-start": "kvmtool-start",
    "qemu-hotplug": "qemu-hotplug",
    "qemu-incoming-deferred": "qemu-incoming-deferred",
    "qemu-incoming-old": "qemu-incoming-old",
    "qemu-incoming-young": "qemu-incoming-young",
    "qemu-loadvm-old": "qemu-loadvm-old",
    "qemu-loadvm-young": "qemu-loadvm-young",
    "qemu-reset-young": "qemu-reset-young",
    "qemu-start": "qemu-start",
    "qemu-start-16": "qemu-start-16",
}


# Under another policy a recording of anything breaks at its start already.
STARTING = [
    policy
    for policy in POLICIES.values()
    if policy.honours_writes
    and predicted_contract(SHIPPED["recorded-qemu-start"], policy) == frozenset({Status.KEPT})
]


def read(name: str) -> Recording:
    return from_text((vmms.FOLDER / f"{name}.jsonl").read_text())


def replayed(name: str) -> Replay:
    """The VM of a recording in which most was done."""
    recording = read(name)
    return max((replay(recording, vm) for vm in recording.vms()), key=lambda found: len(found.flows))


def test_every_recording_that_comes_with_us_is_known_here() -> None:
    assert vmms.names() == sorted(FLOWS)


@pytest.mark.parametrize("name", FLOWS)
def test_what_a_vmm_did_is_recognised(name: str) -> None:
    assert [flow.kind for flow in replayed(name).flows] == FLOWS[name]


@pytest.mark.parametrize("name", FLOWS)
def test_a_recording_that_comes_with_us_is_whole_and_holds_nothing_personal(name: str) -> None:
    text = (vmms.FOLDER / f"{name}.jsonl").read_text()
    assert from_text(text).end
    assert "/" not in text
    assert '"command"' not in text


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("policy", STARTING, ids=lambda policy: policy.name)
def test_a_recording_says_of_a_policy_what_the_scenario_made_by_hand_says(name: str, policy: Policy) -> None:
    found = predicted_contract(SHIPPED[f"recorded-{name}"], policy)
    by_hand = predicted_contract(SCENARIOS[BY_HAND[name]], policy)
    assert found == by_hand


def tscs(script: Script) -> list[object]:
    """What is written to TSCs, in order."""
    return [
        value for step in script if isinstance(step, SetMsrs) for name, value in step.msrs if name == "TSC"
    ]


def test_a_saved_tsc_becomes_a_reference_to_the_step_that_read_it() -> None:
    found = replayed("qemu-loadvm-young")
    assert tscs(found.script) == [0, 0, 1, 1, 1, 1, Read("read-38"), Read("read-39")]
    assert not found.unknown


def test_a_saved_tsc_of_another_vm_becomes_an_age() -> None:
    *start, first, second = tscs(replayed("qemu-incoming-young").script)
    assert start == [0, 0, 1, 1]
    assert isinstance(first, Time)
    assert isinstance(second, Time)
    # The source ran for 0.3 s before it was asked to migrate; its vCPUs were read one after the other.
    assert 300_000_000 < first.ns < 1_000_000_000
    assert 0 < second.ns - first.ns < 1_000_000


def test_waits_are_kept() -> None:
    found = replayed("qemu-reset-old")
    waited = sum(step.ns for step in found.script if isinstance(step, Sleep))
    last = max(line.ns[1] for line in found.lines if line.op != "run")
    assert 1_500_000_000 <= waited <= last - found.lines[0].ns[0]


def test_a_recording_is_a_scenario_that_goes_to_a_file_and_back() -> None:
    for scenario in SHIPPED.values():
        assert scenarios_from_text(to_text([scenario]), {}) == {scenario.name: scenario}


def test_of_a_migration_the_target_is_played() -> None:
    recording = read("qemu-incoming-old")
    assert len(recording.vms()) == 2
    assert list(vmms.scenarios((vmms.FOLDER / "qemu-incoming-old.jsonl").read_text(), "x")) == ["recorded-x"]


def test_each_vm_of_a_recording_is_looked_at_by_itself() -> None:
    recording = read("qemu-incoming-old")
    kinds = sorted(
        [flow.kind for flow in recognise([line for line in recording.lines if line.vm == vm])]
        for vm in recording.vms()
    )
    assert kinds == [[START], [START, RESTORE]]
