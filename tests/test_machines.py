# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines of the lab, as they are written down."""

import pytest

from kvmharness.kvm import KvmUnavailableError, System, ffi
from kvmharness.lab.errors import LabError
from kvmharness.lab.machines import machine, nested
from kvmharness.lab.machines.catalogue import AMD, AMD_SMP, INTEL, MACHINES
from tests.command_line import Capture, one_line, status_of
from tests.made_up_distribution import on_distribution


def test_a_missing_emulator_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    on_distribution(monkeypatch, "debian")
    with pytest.raises(LabError, match="machine amd needs qemu-system-x86_64: apt-get install qemu-"):
        machine.check_emulator(AMD)


@pytest.mark.parametrize("name", ["amd", "amd-smp", "intel"])
def test_an_unstable_machine_is_the_stable_one_but_for_the_kernels_trust_in_its_tsc(name: str) -> None:
    stable, unstable = MACHINES[name], MACHINES[f"{name}-unstable"]
    assert unstable.emulator == stable.emulator
    assert unstable.kernel_options == stable.kernel_options.replace("tsc=reliable", "tsc=unstable")
    assert unstable.kernel_options != stable.kernel_options


def test_every_machine_is_listed_under_its_own_name() -> None:
    assert {name: each.name for name, each in MACHINES.items()} == {
        name: name
        for name in (
            *("amd", "amd-smp", "intel", "amd-early", "amd-unstable", "amd-smp-unstable", "intel-unstable"),
        )
    }


def test_machines_of_real_time_are_the_ones_that_can_be_on_the_hosts_kvm_and_intel() -> None:
    assert [each.name for each in MACHINES.values() if each.nested and "unstable" not in each.name] == [
        *("amd-smp", "intel")
    ]
    for each in (AMD_SMP, INTEL):
        assert each.nested is not None
        assert each.nested.vendor_module == each.vendor_module
        assert not each.nested.counts_instructions


def test_a_host_without_nested_virtualization_is_found_by_what_its_kvm_offers_guests(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(nested, "missing", lambda module: f"nested virtualization for {module}")
    assert status_of("lab", "run", "debian:6.1", "--machine", "intel", "--accel", "kvm") == 2
    assert one_line(capsys.readouterr().err).endswith(
        "machine intel-kvm needs nested virtualization for kvm_intel"
    )


def test_a_machine_that_counts_instructions_cannot_be_on_the_hosts_kvm(capsys: Capture) -> None:
    assert status_of("lab", "run", "debian:6.1", "--accel", "kvm") == 2
    assert (
        "amd counts instructions, so it cannot run on KVM: --accel kvm works with amd-smp, intel"
        in one_line(capsys.readouterr().err)
    )


def test_what_a_vendor_module_needs_is_looked_for_in_the_cpuid_that_guests_get(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offers(*entries: tuple[int, int]) -> object:
        cpuid = ffi.new("struct kvm_cpuid2 *", {"nent": len(entries), "entries": len(entries)})
        for place, (leaf, ecx) in enumerate(entries):
            cpuid.entries[place].function, cpuid.entries[place].ecx = leaf, ecx
        return cpuid

    class Offering:
        def __enter__(self) -> "Offering":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def supported_cpuid(self) -> object:
            return offers((0, 0), (1, 1 << 5), (0x80000001, 0))

    monkeypatch.setattr(nested, "System", Offering)
    assert nested.missing("kvm_intel") == ""
    assert "offers its guests no svm" in nested.missing("kvm_amd")


def test_without_kvm_nothing_nests(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> System:
        raise KvmUnavailableError(2, "no /dev/kvm on this machine")

    monkeypatch.setattr(nested, "System", unavailable)
    assert nested.missing("kvm_amd") == "the host's KVM: no /dev/kvm on this machine"
