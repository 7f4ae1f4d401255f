# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest that waits for its deadline timer, and the local APIC that it needs."""

import pytest

from kvmharness import guests
from kvmharness.guests import layout
from kvmharness.kvm import Exit, Memory, System, Vcpu, Vm, ffi, lapic
from kvmharness.player.msr import MSRS

SOON, LATER = 2_000_000, 2**40  # cycles
PROGRAM = guests.PROGRAMS["timer-16"]
VECTOR = layout.TIMER_VECTOR


def test_a_register_of_the_apic_is_where_the_manual_has_it() -> None:
    state = ffi.new("struct kvm_lapic_state *")
    lapic.enable_timer(state, lapic.TSC_DEADLINE, 31)
    lapic.request(state, 31)
    lapic.request(state, 47)
    registers = bytes(ffi.buffer(state.regs))
    assert registers[0xF0:0xF4] == bytes((0, 1, 0, 0))  # software enable
    assert registers[0x320:0x324] == (0b10 << 17 | 31).to_bytes(4, "little")
    assert registers[0x200:0x204] == (1 << 31).to_bytes(4, "little")
    assert registers[0x210:0x214] == (1 << 15).to_bytes(4, "little")
    assert [lapic.is_requested(state, vector) for vector in (30, 31, 46, 47)] == [False, True, False, True]


def test_a_cpuid_that_offers_the_deadline_timer_leaves_the_other_as_it_is() -> None:
    cpuid = ffi.new("struct kvm_cpuid2 *", {"nent": 2, "entries": 2})
    cpuid.entries[0].function, cpuid.entries[0].ecx = 1, 1 << 21
    copy = lapic.with_deadline_timer(cpuid)
    assert [entry.ecx for entry in copy.entries[0 : copy.nent]] == [1 << 21 | 1 << 24, 0]
    assert cpuid.entries[0].ecx == 1 << 21


@pytest.fixture
def memory(vm: Vm) -> Memory:
    return vm.add_memory(layout.MEMORY_SIZE)


@pytest.fixture(params=[0, 5])
def vcpu(request: pytest.FixtureRequest, system: System, vm: Vm, memory: Memory) -> Vcpu:
    vm.create_irqchip()
    made = vm.create_vcpu(request.param)
    made.set_cpuid2(lapic.with_deadline_timer(system.supported_cpuid()))
    made.set_mp_state(0)
    guests.load(PROGRAM, memory, made)
    state = made.lapic()
    lapic.enable_timer(state, lapic.TSC_DEADLINE, VECTOR)
    made.set_lapic(state)
    if lapic.timer_entry(made.lapic()) != lapic.TSC_DEADLINE | VECTOR:
        pytest.skip("missing capability: deadline-timer")
    return made


def tsc(vcpu: Vcpu) -> int:
    return vcpu.msrs([MSRS["TSC"]])[0]


@pytest.mark.kvm
def test_a_guest_takes_the_interrupt_of_the_deadline_that_it_wrote_itself(vcpu: Vcpu, memory: Memory) -> None:
    for _ in range(3):
        deadline = tsc(vcpu) + SOON
        guests.ask_to_write(memory, vcpu.number, MSRS["TSC_DEADLINE"], deadline)
        assert vcpu.run() == Exit.IO
        assert deadline <= guests.take_fired(memory, vcpu.number) <= tsc(vcpu)
        assert vcpu.msrs([MSRS["TSC_DEADLINE"]]) == [0]


@pytest.mark.kvm
def test_a_guest_takes_the_interrupt_of_a_deadline_that_the_host_wrote(vcpu: Vcpu, memory: Memory) -> None:
    deadline = tsc(vcpu) + SOON
    vcpu.set_msrs([(MSRS["TSC_DEADLINE"], deadline)])
    assert vcpu.run() == Exit.IO
    assert deadline <= guests.take_fired(memory, vcpu.number) <= tsc(vcpu)
    assert guests.take_fired(memory, vcpu.number) == 0


@pytest.mark.kvm
def test_a_guest_waits_for_a_deadline_that_does_not_come(vcpu: Vcpu, memory: Memory) -> None:
    vcpu.set_msrs([(MSRS["TSC_DEADLINE"], tsc(vcpu) + LATER)])
    assert vcpu.run(20_000_000) == Exit.INTR
    assert guests.take_fired(memory, vcpu.number) == 0
    # Loaded again it waits again, and what is armed stays so.
    guests.load(PROGRAM, memory, vcpu)
    vcpu.set_msrs([(MSRS["TSC_DEADLINE"], tsc(vcpu) + SOON)])
    assert vcpu.run() == Exit.IO
    assert guests.take_fired(memory, vcpu.number)


@pytest.mark.kvm
def test_a_guest_takes_an_interrupt_that_waits_in_its_apic(vcpu: Vcpu, memory: Memory) -> None:
    state = vcpu.lapic()
    assert not lapic.is_requested(state, VECTOR)
    lapic.request(state, VECTOR)
    vcpu.set_lapic(state)
    assert vcpu.run() == Exit.IO
    assert guests.take_fired(memory, vcpu.number)
