# SPDX-License-Identifier: GPL-2.0-or-later
"""The C compiler holds our declarations against the system's own <linux/kvm.h>."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kvmharness.kvm import ffi, lib
from tests.limits import GIVE_UP_S

# In kvm_run we declare the fields up to and with the padded union, not what follows it.
_DECLARED_IN_PART = {"kvm_run"}
# Ours, not the kernel's, and what the kernel has in no header for userspace.
_NOT_IN_THE_HEADER = {"bracket", "meeting", "pvclock_vcpu_time_info"}
# Of no release: what the header's macros make of the numbers and the size that a series of 2026 gives them.
_PROPOSED = {
    "KVM_SET_CLOCK_GUEST": "_IOW(KVMIO, 0xd6, char[32])",
    "KVM_GET_CLOCK_GUEST": "_IOR(KVMIO, 0xd7, char[32])",
}


def compile_against_the_kernel(lines: list[str], folder: Path) -> str:
    """What the compiler complains about, "" for nothing."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("missing capability: a C compiler")
    source = folder / "layout.c"
    source.write_text("\n".join(["#include <stddef.h>", "#include <linux/kvm.h>", *lines, ""]))
    done = subprocess.run(
        [compiler, "-fsyntax-only", source], capture_output=True, text=True, check=False, timeout=GIVE_UP_S
    )
    return done.stderr


def constants() -> list[str]:
    return [name for name in dir(lib) if name.startswith("KVM_")]


def structs() -> list[str]:
    _, names, _ = ffi.list_types()
    return [name for name in names if name not in _NOT_IN_THE_HEADER]


def test_every_constant_has_the_kernels_value(tmp_path: Path) -> None:
    # A header older than a constant does not know it; then there is nothing to compare.
    lines = []
    for name in constants():
        value = getattr(lib, name)
        lines += [f"#ifdef {name}", f'_Static_assert({name} == {value}u, "{name}");', "#endif"]
    assert len(constants()) > 60
    assert compile_against_the_kernel(lines, tmp_path) == ""


def test_the_ioctls_the_harness_rests_on_are_known_to_the_system_header(tmp_path: Path) -> None:
    released = [name for name in constants() if name not in _PROPOSED]
    names = [name for name in released if not name.startswith(("KVM_CAP_", "KVM_VCPU_TSC"))]
    lines = [f"#ifndef {name}\n#error {name}\n#endif" for name in names]
    assert compile_against_the_kernel(lines, tmp_path) == ""


def test_the_proposed_ioctls_are_what_the_kernels_macros_make_of_their_numbers(tmp_path: Path) -> None:
    lines = [
        f'_Static_assert({made} == {getattr(lib, name)}u, "{name}");' for name, made in _PROPOSED.items()
    ]
    assert compile_against_the_kernel(lines, tmp_path) == ""


def test_a_kvmclock_page_has_the_layout_that_guests_know() -> None:
    # Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW.
    kind = ffi.typeof("struct pvclock_vcpu_time_info")
    places = [(name, field.offset) for name, field in kind.fields]
    assert places == [
        *(("version", 0), ("pad0", 4), ("tsc_timestamp", 8), ("system_time", 16)),
        *(("tsc_to_system_mul", 24), ("tsc_shift", 28), ("flags", 29), ("pad", 30)),
    ]
    assert ffi.sizeof(kind) == 32


def test_every_struct_has_the_kernels_layout(tmp_path: Path) -> None:
    lines = []
    for name in structs():
        kind = ffi.typeof(f"struct {name}")
        if name not in _DECLARED_IN_PART:
            lines.append(f'_Static_assert(sizeof(struct {name}) == {ffi.sizeof(kind)}, "size of {name}");')
        for field, place in kind.fields or ():
            if field:
                lines.append(
                    f'_Static_assert(offsetof(struct {name}, {field}) == {place.offset}, "{name}.{field}");'
                )
    assert len(structs()) > 15
    assert compile_against_the_kernel(lines, tmp_path) == ""


def test_the_comparison_notices_a_wrong_number(tmp_path: Path) -> None:
    lines = [f'_Static_assert(KVM_RUN == {lib.KVM_RUN + 1}u, "wrong on purpose");']
    assert "wrong on purpose" in compile_against_the_kernel(lines, tmp_path)


@pytest.mark.parametrize(
    ("kind", "path"),
    [("io", "io.data_offset"), ("mmio", "mmio.is_write"), ("internal", "internal.data")],
)
def test_the_exits_inside_kvm_run_lie_where_the_kernel_has_them(kind: str, path: str, tmp_path: Path) -> None:
    offset = ffi.offsetof("struct kvm_run", *path.split("."))
    line = f'_Static_assert(offsetof(struct kvm_run, {path}) == {offset}, "{kind}");'
    assert compile_against_the_kernel([line], tmp_path) == ""
