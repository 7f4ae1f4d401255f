# SPDX-License-Identifier: GPL-2.0-or-later
"""The tiny guests: their bytes, and what they do."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kvmharness import guests
from kvmharness.guests import layout
from kvmharness.kvm import BracketBuffer, Exit, Memory, System, Vcpu, Vm
from kvmharness.player.msr import MSRS
from tests.limits import GIVE_UP_S

ONCE = ("rdtsc-16", "rdtsc-64", "rdmsr-16", "wrmsr-16", "hyperv-16", "steal-16")
NEEDS_RDTSCP = "rdtscp-16"
ENDLESS = ("ring-16", "ring-64")


@pytest.mark.parametrize("name", guests.PROGRAMS)
def test_the_bytes_are_what_an_assembler_makes_of_the_text(name: str, tmp_path: Path) -> None:
    for tool in ("as", "objcopy"):
        if shutil.which(tool) is None:
            pytest.skip(f"missing capability: {tool}")
    program = guests.PROGRAMS[name]
    source, assembled, flat = tmp_path / "guest.s", tmp_path / "guest.o", tmp_path / "guest.bin"
    source.write_text(program.assembly)
    subprocess.run(["as", "-o", assembled, source], check=True, timeout=GIVE_UP_S)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", assembled, flat], check=True, timeout=GIVE_UP_S)
    assert program.code.hex() == flat.read_bytes().hex()


def test_there_is_room_for_twenty_four_vcpus_and_no_more() -> None:
    last = layout.results_address(layout.MAX_VCPUS - 1)
    assert last + 0x1000 == layout.TSC_PAGE
    assert layout.l2_control_address(0) == layout.TSC_PAGE + 0x2000
    end = layout.l2_control_address(layout.MAX_VCPUS - 1) + layout.L2_CONTROL_STRIDE
    assert end == layout.STEAL_TIME
    assert layout.steal_time_address(layout.MAX_VCPUS - 1) + layout.STEAL_TIME_SIZE <= layout.MEMORY_SIZE
    assert layout.xen_time_address(layout.MAX_VCPUS - 1) + layout.KVMCLOCK_SIZE <= layout.XEN_RUNSTATE
    last = layout.xen_runstate_address(layout.MAX_VCPUS - 1)
    assert last + layout.XEN_RUNSTATE_SIZE <= layout.XEN_SHARED
    with pytest.raises(ValueError, match="vcpu 24"):
        layout.code_address(24)


@pytest.mark.kvm
@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("number", [0, 15, 23])
def test_a_guest_reads_its_tsc_inside_the_bracket_of_its_run(vm: Vm, name: str, number: int) -> None:
    memory = vm.add_memory(layout.MEMORY_SIZE)
    vcpu = vm.create_vcpu(number)
    guests.load(guests.PROGRAMS[name], memory, vcpu)
    offset = vcpu.tsc_offset()
    vcpu.use_brackets(BracketBuffer())
    for _ in range(3):
        assert vcpu.run() == Exit.IO
        before, _, _, after = vcpu.bracket
        samples = guests.samples(guests.PROGRAMS[name], memory, number)
        assert len(samples) == guests.PROGRAMS[name].takes
        edges = [before, *((sample - offset) % 2**64 for sample in samples), after]
        assert edges == sorted(edges)


@pytest.mark.kvm
@pytest.mark.parametrize("name", ENDLESS)
def test_a_ring_fills_with_growing_readings(vm: Vm, name: str) -> None:
    memory = vm.add_memory(layout.MEMORY_SIZE)
    vcpu = vm.create_vcpu(0)
    guests.load(guests.PROGRAMS[name], memory, vcpu)
    vcpu.use_brackets(BracketBuffer())
    offset = vcpu.tsc_offset()
    assert vcpu.run(20_000_000) == Exit.INTR
    before, _, _, after = vcpu.bracket
    samples = [(sample - offset) % 2**64 for sample in guests.samples(guests.PROGRAMS[name], memory, 0)]
    assert len(samples) == layout.RING_SIZE - 1
    assert samples == sorted(samples)
    assert before <= samples[0] < samples[-1] <= after


@pytest.mark.kvm
@pytest.mark.parametrize("name", [*ONCE, *ENDLESS, NEEDS_RDTSCP])
def test_a_guest_that_has_not_run_has_read_nothing(vm: Vm, name: str) -> None:
    memory = vm.add_memory(layout.MEMORY_SIZE)
    guests.load(guests.PROGRAMS[name], memory, vm.create_vcpu(0))
    assert guests.samples(guests.PROGRAMS[name], memory, 0) == []


def test_only_whole_samples_are_taken() -> None:
    memory = Memory(layout.MEMORY_SIZE)
    program = guests.PROGRAMS["wrmsr-16"]
    place = layout.results_address(1) + layout.SAMPLES
    # A guest stores the low half last; this one was stopped before that of its second sample.
    memory.write(place, (5 << 32 | 7).to_bytes(8, "little") + (5 << 32).to_bytes(8, "little"))
    assert guests.samples(program, memory, 1) == [5 << 32 | 7]
    assert guests.samples(program, memory, 1) == []
    memory.close()


def start_writer(vm: Vm) -> tuple[Memory, Vcpu]:
    memory, vcpu = vm.add_memory(layout.MEMORY_SIZE), vm.create_vcpu(2)
    guests.load(guests.PROGRAMS["wrmsr-16"], memory, vcpu)
    return memory, vcpu


@pytest.mark.kvm
def test_a_guest_writes_what_its_mailbox_says_once(vm: Vm) -> None:
    memory, vcpu = start_writer(vm)
    guests.ask_to_write(memory, 2, MSRS["WALL_CLOCK"], layout.PAGE_DIRECTORY)
    assert vcpu.run() == Exit.IO
    assert vcpu.msrs([MSRS["WALL_CLOCK"]]) == [layout.PAGE_DIRECTORY]
    vcpu.set_msrs([(MSRS["WALL_CLOCK"], 0)])
    assert vcpu.run() == Exit.IO
    assert vcpu.msrs([MSRS["WALL_CLOCK"]]) == [0]


@pytest.mark.kvm
def test_a_refused_write_ends_a_run_after_its_first_sample(vm: Vm) -> None:
    memory, vcpu = start_writer(vm)
    program = guests.PROGRAMS["wrmsr-16"]
    for _ in range(1000):  # each leaves a frame on the guest's stack, which has no room for so many
        guests.ask_to_write(memory, 2, 0x12345678, 1)
        assert vcpu.run() == Exit.IO
        assert len(guests.samples(program, memory, 2)) == 1
    assert vcpu.run() == Exit.IO
    first, second = guests.samples(program, memory, 2)
    assert first < second


@pytest.mark.kvm
def test_what_one_guest_leaves_does_not_touch_anothers_memory(vm: Vm) -> None:
    memory, vcpu = start_writer(vm)
    guests.ask_to_write(memory, 2, 0x12345678, 1)
    own = slice(layout.code_address(2), layout.code_address(3))
    before = memory.read(0, own.start), memory.read(own.stop, memory.size - own.stop)
    assert vcpu.run() == Exit.IO
    assert (memory.read(0, own.start), memory.read(own.stop, memory.size - own.stop)) == before


@pytest.mark.kvm
def test_a_guest_that_may_not_execute_rdtscp_exits_without_a_sample(vm: Vm, system: System) -> None:
    memory, vcpu = vm.add_memory(layout.MEMORY_SIZE), vm.create_vcpu(0)
    cpuid = system.supported_cpuid()
    for entry in cpuid.entries[0 : cpuid.nent]:
        if entry.function == 0x80000001:
            entry.edx &= ~(1 << 27)  # RDTSCP (AMD APM vol. 3, appendix E)
    vcpu.set_cpuid2(cpuid)
    program = guests.PROGRAMS[NEEDS_RDTSCP]
    guests.load(program, memory, vcpu)
    # A KVM that is given the exception may try to emulate the instruction, and give up.
    assert vcpu.run(200_000_000) in (Exit.IO, Exit.INTERNAL_ERROR)
    assert guests.samples(program, memory, 0) == []
