# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs give back all they took."""

import psutil
import pytest

from kvmharness import guests
from kvmharness.guests.layout import MEMORY_SIZE
from kvmharness.kvm import Exit, System

pytestmark = pytest.mark.kvm


def create_run_and_close(system: System) -> None:
    with system.create_vm() as vm:
        memory = vm.add_memory(MEMORY_SIZE)
        for number, program in enumerate((guests.PROGRAMS["rdtsc-16"], guests.PROGRAMS["rdtsc-64"])):
            vcpu = vm.create_vcpu(number)
            guests.load(program, memory, vcpu)
            assert vcpu.run() == Exit.IO
            assert guests.samples(program, memory, number)


def held() -> dict[str, int]:
    process = psutil.Process()
    return {
        "file descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "mappings of vcpus": sum("kvm-vcpu" in each.path for each in process.memory_maps(grouped=False)),
        "mappings": len(process.memory_maps(grouped=False)),
    }


def test_two_thousand_vms_of_two_vcpus_leave_nothing_behind(system: System) -> None:
    count = 2000
    create_run_and_close(system)  # what is made once, such as the deadline's timer, is made now
    before = held()
    for _ in range(count):
        create_run_and_close(system)
    after = held()
    # The interpreter's own allocator may map another arena or two; a leak would be one a VM.
    assert after.pop("mappings") - before.pop("mappings") < count // 20
    assert after == before


def test_an_open_vm_is_seen_by_the_count(system: System) -> None:
    before = held()
    with system.create_vm() as vm:
        vm.create_vcpu(0)
        assert held()["file descriptors"] == before["file descriptors"] + 2
        assert held()["mappings of vcpus"] == before["mappings of vcpus"] + 1
