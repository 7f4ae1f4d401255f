# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel's modules: signatures, names, and those that are missing or broken."""

import struct
from pathlib import Path

import pytest

from kvmharness.lab import kernels
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import modules


def test_a_signature_is_taken_off_a_module() -> None:
    trailer = bytes(8) + struct.pack(">I", 5) + b"~Module signature appended~\n"
    assert modules.without_signature(b"module" + b"12345" + trailer) == b"module"
    assert modules.without_signature(b"module") == b"module"


def test_modules_are_found_by_the_names_the_kernel_uses(tmp_path: Path) -> None:
    for name in ("kvm-amd.ko.xz", "kvm.ko", "irqbypass.ko.zst", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert sorted(modules.find(tmp_path)) == ["irqbypass", "kvm", "kvm_amd"]


def test_a_module_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no module kvm_amd"):
        modules.load_order("kvm_amd", {})
    for name, complaint in (("kvm.ko.xz", "kvm.ko.xz does not decompress"), ("kvm.ko", "not an ELF file")):
        (tmp_path / name).write_bytes(b"garbage")
        with pytest.raises(LabError, match=complaint):
            modules.load_order("kvm", {"kvm": tmp_path / name})


def test_a_kernel_without_the_vendor_module_is_refused(tmp_path: Path) -> None:
    kernel = kernels.Kernel("debian:6.1", "6.1.0", tmp_path, {"kvm_intel": []})
    with pytest.raises(LabError, match=r"debian:6\.1 \(6\.1\.0\) has no module kvm_amd"):
        kernel.modules_for("kvm_amd")
