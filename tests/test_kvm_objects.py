# SPDX-License-Identifier: GPL-2.0-or-later
"""System, Vm and Vcpu on this machine's own /dev/kvm."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.guests import PROGRAMS, load
from kvmharness.guests.layout import MEMORY_SIZE
from kvmharness.kvm import (
    BracketBuffer,
    Exit,
    KvmError,
    KvmUnavailableError,
    Memory,
    MsrError,
    System,
    Vcpu,
    Vm,
    ioctls,
    lib,
    read_host_clock,
)
from kvmharness.kvm.descriptor import Descriptor
from kvmharness.player.msr import MSRS

pytestmark = pytest.mark.kvm


@pytest.fixture
def vcpu(vm: Vm) -> Vcpu:
    return vm.create_vcpu(0)


def start(vm: Vm, program: str) -> Vcpu:
    memory = vm.add_memory(MEMORY_SIZE)
    vcpu = vm.create_vcpu(0)
    load(PROGRAMS[program], memory, vcpu)
    return vcpu


def test_a_system_speaks_api_version_12(system: System) -> None:
    assert system.api_version() == 12


def test_a_capability_the_kernel_lacks_is_zero(system: System) -> None:
    assert system.check_extension(lib.KVM_CAP_USER_MEMORY) == 1
    assert system.check_extension(10**6) == 0


def test_the_list_of_msrs_holds_the_tsc(system: System) -> None:
    assert MSRS["TSC"] in system.msr_indices()


def test_supported_cpuid_can_be_given_to_a_vcpu(system: System, vcpu: Vcpu) -> None:
    cpuid = system.supported_cpuid()
    assert 0 < cpuid.nent <= 1024
    vcpu.set_cpuid2(cpuid)


def test_a_creation_that_a_signal_interrupts_is_tried_again_and_another_failure_is_not(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [errno.EINTR, errno.EINTR]
    ioctl = System._ioctl

    def interrupted(self: System, which: ioctls.Ioctl, value: int = 0) -> int:
        if which is ioctls.CREATE_VM and failures:
            raise KvmError(which, failures.pop())
        return ioctl(self, which, value)

    monkeypatch.setattr(System, "_ioctl", interrupted)
    with system.create_vm() as vm:
        assert vm.fileno() >= 0
    assert not failures
    failures.append(errno.ENOMEM)
    with pytest.raises(KvmError, match="ENOMEM"):
        system.create_vm()


def test_a_missing_device_is_explained() -> None:
    with pytest.raises(KvmUnavailableError, match="there is no /dev/no-such-kvm"):
        System("/dev/no-such-kvm")


def test_a_device_that_is_not_kvm_is_refused() -> None:
    with pytest.raises(KvmUnavailableError, match="/dev/null is not a KVM"):
        System("/dev/null")


def test_a_forbidden_device_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(KvmUnavailableError, match="no permission to open /dev/kvm: join its group"):
        System()


def test_an_error_names_ioctl_errno_and_cause(vm: Vm) -> None:
    vm.create_vcpu(0)
    with pytest.raises(KvmError) as caught:
        vm.create_vcpu(0)
    assert caught.value.ioctl == "KVM_CREATE_VCPU"
    assert caught.value.errno == errno.EEXIST
    assert str(caught.value) == (
        "KVM_CREATE_VCPU: EEXIST, File exists (the VM has a vCPU with this number already)"
    )


def test_what_is_closed_says_so(vm: Vm, vcpu: Vcpu) -> None:
    vm.close()
    vm.close()
    assert vm.closed
    assert vcpu.closed
    for act in (vcpu.tsc_khz, vcpu.run, vm.clock):
        with pytest.raises(KvmError, match="it is closed"):
            act()
    with pytest.raises(ValueError, match="closed"):
        _ = vcpu.shared


def test_a_refused_msr_is_named(vcpu: Vcpu) -> None:
    with pytest.raises(MsrError, match=r"KVM_SET_MSRS: stopped at MSR 0x12345678, after 1 of 3") as caught:
        vcpu.set_msrs([(MSRS["TSC"], 1), (0x12345678, 2), (MSRS["TSC"], 3)])
    assert caught.value.msr == 0x12345678
    with pytest.raises(MsrError, match="KVM_GET_MSRS: stopped at MSR 0x12345678, after 0 of 1"):
        vcpu.msrs([0x12345678])


def test_msrs_are_read_in_the_order_asked_for(vcpu: Vcpu) -> None:
    vcpu.set_msrs([(MSRS["TSC_ADJUST"], 0)])
    adjust, tsc, again = vcpu.msrs([MSRS["TSC_ADJUST"], MSRS["TSC"], MSRS["TSC"]])
    assert adjust == 0
    assert tsc <= again


def test_the_tsc_offset_attribute_is_there_and_reads(vcpu: Vcpu) -> None:
    if not vcpu.has_tsc_offset():
        pytest.skip("missing capability: KVM_VCPU_TSC_OFFSET")
    vcpu.set_tsc_offset(-5)
    assert 0 <= vcpu.tsc_offset() < 2**64


def errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except KvmError as error:
        return error.errno or 0
    return 0


def test_a_kernel_reports_the_scaling_ratio_of_a_new_vcpu_as_1_or_does_not_know_it(vcpu: Vcpu) -> None:
    refused = errno_of(vcpu.tsc_scale)
    assert refused in (0, errno.ENXIO, errno.EINVAL)
    assert refused or vcpu.tsc_scale() in ((2**32, 32), (2**48, 48))


def test_a_kernel_that_reports_the_clock_of_a_vcpu_takes_it_back_and_no_other_does(vcpu: Vcpu) -> None:
    refused = errno_of(vcpu.clock_guest)
    assert refused in (0, errno.EINVAL, errno.ENOTTY, errno.ENODATA)
    page = [0, 2**65 - 1, -1, 2**31, 255, 0] if refused else vcpu.clock_guest()
    assert errno_of(lambda: vcpu.set_clock_guest(*page[1:5])) == refused


def test_an_ioctl_of_no_release_says_so_where_it_is_refused() -> None:
    assert "no release" in str(KvmError(ioctls.GET_CLOCK_GUEST, errno.EINVAL))
    assert "another rate" in str(KvmError(ioctls.SET_CLOCK_GUEST, errno.ERANGE))


def test_registers_come_back_as_they_were_set(vcpu: Vcpu) -> None:
    vcpu.set_regs({"rax": 2**64 - 1, "rip": 0x1234, "rflags": 2})
    regs = vcpu.regs()
    assert (regs.rax, regs.rip, regs.rflags, regs.rbx) == (2**64 - 1, 0x1234, 2, 0)


def test_state_of_a_vcpu_can_be_saved_and_restored(vm: Vm) -> None:
    vm.create_irqchip()
    vcpu = vm.create_vcpu(0)
    vcpu.set_lapic(vcpu.lapic())
    vcpu.set_events(vcpu.events())
    vcpu.set_sregs(vcpu.sregs())
    vcpu.set_mp_state(lib.KVM_MP_STATE_HALTED)
    assert vcpu.mp_state() == lib.KVM_MP_STATE_HALTED


def test_a_lapic_without_an_interrupt_chip_is_explained(vcpu: Vcpu) -> None:
    with pytest.raises(KvmError, match="no interrupt chip in the kernel"):
        vcpu.lapic()


def test_the_addresses_intel_needs_can_be_set(vm: Vm) -> None:
    vm.set_identity_map_address(0xFFFBC000)
    vm.set_tss_address(0xFFFBD000)


def test_the_clock_goes_on_from_where_it_is_set(vm: Vm) -> None:
    vm.set_clock(10**15)
    first, second = vm.clock(), vm.clock()
    assert 10**15 <= first.clock <= second.clock < 10**15 + 60 * 10**9


def test_a_vms_khz_is_what_its_vcpus_start_with(vm: Vm) -> None:
    if not vm.check_extension(lib.KVM_CAP_VM_TSC_CONTROL):
        pytest.skip("missing capability: KVM_CAP_VM_TSC_CONTROL")
    khz = vm.tsc_khz()
    vm.set_tsc_khz(khz)
    assert vm.create_vcpu(0).tsc_khz() == khz


def test_setting_a_vcpus_khz_to_what_it_is_changes_nothing(vcpu: Vcpu) -> None:
    khz = vcpu.tsc_khz()
    vcpu.set_tsc_khz(khz)
    assert vcpu.tsc_khz() == khz


def test_kvmclock_ctrl_without_a_kvmclock_is_explained(vcpu: Vcpu) -> None:
    with pytest.raises(KvmError, match="has not registered a kvmclock page"):
        vcpu.kvmclock_ctrl()


def test_an_unknown_capability_cannot_be_enabled(vm: Vm, vcpu: Vcpu) -> None:
    with pytest.raises(KvmError, match="KVM_ENABLE_CAP"):
        vm.enable_cap(10**6, 1, 2)
    with pytest.raises(KvmError, match="KVM_ENABLE_CAP"):
        vcpu.enable_cap(10**6)


def test_a_bracket_holds_what_the_kernel_read_inside_it(vcpu: Vcpu) -> None:
    offset = vcpu.tsc_offset() if vcpu.has_tsc_offset() else 0
    vcpu.use_brackets(BracketBuffer())
    (tsc,) = vcpu.msrs([MSRS["TSC"]])
    tsc_before, ns_before, ns_after, tsc_after = vcpu.bracket
    assert tsc_before <= (tsc - offset) % 2**64 <= tsc_after
    assert ns_before <= ns_after


def test_without_brackets_there_is_none_to_read(vcpu: Vcpu) -> None:
    with pytest.raises(ValueError, match="brackets are off"):
        _ = vcpu.bracket


def test_the_host_clock_reads_in_order() -> None:
    tsc_before, ns_before, ns_after, tsc_after = read_host_clock()
    assert tsc_before <= tsc_after
    assert ns_before <= ns_after


def test_a_guest_that_never_exits_is_stopped_by_its_deadline(vm: Vm) -> None:
    vcpu = start(vm, "ring-64")
    begin = time.monotonic_ns()
    assert vcpu.run(50_000_000) == Exit.INTR
    assert time.monotonic_ns() - begin >= 50_000_000


def test_a_deadline_left_from_a_short_run_does_not_cut_a_later_one(vm: Vm) -> None:
    vcpu = start(vm, "ring-64")
    assert vcpu.run(1_000_000) == Exit.INTR
    begin = time.monotonic_ns()
    assert vcpu.run(100_000_000) == Exit.INTR
    assert time.monotonic_ns() - begin >= 100_000_000


def test_a_guest_runs_on_through_signals(vm: Vm) -> None:
    vcpu = start(vm, "ring-64")
    seen: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, _: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        begin = time.monotonic_ns()
        assert vcpu.run(100_000_000) == Exit.INTR
        assert time.monotonic_ns() - begin >= 100_000_000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(seen) > 1


def test_a_python_signal_handler_can_end_a_run(vm: Vm) -> None:
    vcpu = start(vm, "ring-64")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            vcpu.run(3600 * 10**9)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert vcpu.run(1_000_000) == Exit.INTR


def test_a_guest_runs_on_a_thread_of_its_own(vm: Vm) -> None:
    vcpu = start(vm, "ring-64")
    exits: list[int] = []
    thread = threading.Thread(target=lambda: exits.append(vcpu.run(20_000_000)))
    thread.start()
    thread.join()
    assert exits == [Exit.INTR]


def test_a_child_process_makes_deadlines_of_its_own(vm: Vm) -> None:
    assert start(vm, "ring-64").run(1_000_000) == Exit.INTR
    child = os.fork()
    if child == 0:
        try:
            with System() as system, system.create_vm() as own:
                os._exit(0 if start(own, "ring-64").run(20_000_000) == Exit.INTR else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_memory_is_zeroed_and_keeps_what_is_written() -> None:
    memory = Memory(8192)
    assert memory.read(0, 8192) == bytes(8192)
    memory.write(8190, b"ab")
    assert memory.read(8189, 3) == b"\0ab"
    memory.close()
    memory.close()


def test_memory_refuses_what_lies_outside_it() -> None:
    memory = Memory(4096)
    with pytest.raises(ValueError, match="outside"):
        memory.write(4095, b"ab")
    with pytest.raises(ValueError, match="outside"):
        memory.read(-1, 1)
    memory.close()
    with pytest.raises(ValueError, match="given back"):
        memory.read(0, 1)


def test_memory_comes_in_pages() -> None:
    with pytest.raises(ValueError, match="not a multiple of a page"):
        Memory(100)


def test_no_room_is_an_error_and_gives_everything_back(vm: Vm, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mapping"):
        vm.add_memory(1 << 62)
    assert vm.memory == []


def test_memory_may_not_overlap(vm: Vm) -> None:
    vm.add_memory(8192)
    with pytest.raises(KvmError, match="overlaps another slot"):
        vm.add_memory(4096, guest_address=4096)
    assert len(vm.memory) == 1


def test_the_number_of_a_vm_is_free_only_when_the_vm_is_gone(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KVM names a VM's folder in debugfs by it, and another VM must not find that there."""
    seen = []
    real = Descriptor.close

    def close(self: Descriptor) -> None:
        if isinstance(self, Vm) and not self.closed:
            seen.append(os.readlink(f"/proc/self/fd/{self.fileno()}"))
        real(self)

    monkeypatch.setattr(Descriptor, "close", close)
    vm = system.create_vm()
    assert os.readlink(f"/proc/self/fd/{vm.fileno()}") == "anon_inode:kvm-vm"
    vm.create_vcpu(0)
    vm.close()
    vm.close()
    assert seen == ["anon_inode:[eventfd]"]
