# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's QEMU, recorded live from its start to hotplug and loadvm, does what it was known to do."""

import os
import runpy
import shutil
from pathlib import Path

import pytest

from kvmharness.recording.flows import CONTINUE, HOTPLUG, RESTORE, START, recognise
from kvmharness.recording.lines import Line, from_text
from kvmharness.recording.replay import replay
from kvmharness.script import Read

pytestmark = pytest.mark.kvm

RECORDER = Path(__file__).parent.parent / "scripts" / "record-vmms"
HOTPLUG_COMMAND = "device_add host-x86_64-cpu,id=c1,core-id=1,thread-id=0,socket-id=0"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """Start, hotplug, savevm, loadvm: the lines of its VM."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("missing capability QEMU: there is no qemu-system-x86_64")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("missing capability /dev/kvm")
    script = runpy.run_path(str(RECORDER))
    folder = tmp_path_factory.mktemp("qemu")
    steps = script["do"](0.1, HOTPLUG_COMMAND, 0.1, "savevm a", 0.1, "loadvm a", 0.1)
    script["record"]("qemu", script["one"]("-smp", "1,maxcpus=2", then=steps), folder)
    recording = from_text((folder / "qemu.jsonl").read_text())
    assert recording.end
    (vm,) = recording.vms()
    assert recording.program(vm) == "qemu-system-x86_64"
    return [line for line in recording.lines if line.vm == vm]


def of_time(lines: list[Line], vcpu: int) -> list[str]:
    """What is done to a vCPU's time, in order: a saved TSC is "saved"."""
    said = []
    for line in lines:
        tsc = line.msr("TSC")
        if line.vcpu == vcpu and line.op == "set_msrs" and tsc is not None:
            said.append(f"TSC {tsc if tsc in (0, 1) else 'saved'}")
        elif line.vcpu == vcpu and line.op in ("create_vcpu", "set_tsc_khz"):
            said.append(line.op)
    return said


def test_each_vcpu_is_given_its_time_in_the_known_order(lines: list[Line]) -> None:
    full_zero, full_saved = ["set_tsc_khz", "TSC 0"], ["set_tsc_khz", "TSC saved"]
    assert of_time(lines, 0) == ["create_vcpu", *full_zero, "TSC 1", "TSC 1", *full_saved]
    # A vCPU that is plugged in is written 0 once, and never 1.
    assert of_time(lines, 1) == ["create_vcpu", *full_zero, "TSC 1", *full_saved]


def test_a_put_writes_tsc_adjust_before_the_tsc_and_kvmclock_after_it(lines: list[Line]) -> None:
    puts = [line for line in lines if line.op == "set_msrs" and line.msr("TSC") is not None]
    names = [name for name, _ in puts[0].msrs if name != "TSC_DEADLINE"]
    assert names == ["TSC_ADJUST", "TSC", "SYSTEM_TIME_OLD", "WALL_CLOCK_OLD"]
    assert all([name for name, _ in line.msrs if name != "TSC_DEADLINE"] == names for line in puts)


def test_the_flows_are_recognised_in_their_order(lines: list[Line]) -> None:
    assert [flow.kind for flow in recognise(lines)] == [START, HOTPLUG, CONTINUE, RESTORE]


def test_the_clock_is_set_after_the_tscs_to_what_it_was_when_it_was_saved(lines: list[Line]) -> None:
    restore = recognise(lines)[-1]
    read = [line.values["clock"] for line in lines if line.op == "get_clock"]
    after = [line for line in lines[restore.last :] if line.op == "set_clock"]
    assert after[0].values["clock"] in read


def test_vcpus_ran_before_and_after_and_their_exits_were_seen(lines: list[Line]) -> None:
    restore = recognise(lines)[-1]
    for part in (lines[: restore.first], lines[restore.last :]):
        assert {line.vcpu for line in part if line.op == "enter"} == {0, 1}
    assert {reason for line in lines for reason, _ in line.exits} >= {2}


def test_what_is_loaded_is_what_was_read_at_the_savevm(
    lines: list[Line], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp().glob("qemu*/qemu.jsonl")
    found = replay(from_text(next(path).read_text()), lines[0].vm or 0)
    restore = found.flows[-1]
    labels = {found.labels[place] for place in restore.puts.values()}
    written = [
        value
        for step in found.script
        if step.label in labels
        for name, value in getattr(step, "msrs", ())
        if name == "TSC"
    ]
    assert len(written) == 2
    assert all(isinstance(value, Read) for value in written)
