# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab reads of a kernel's image, and which images it refuses."""

import bz2
import contextlib
import gzip
import lzma
import random
import struct
from pathlib import Path

import lz4.block
import pytest
import zstandard

from kvmharness.lab import kernels
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import vmlinux
from tests.made_up_kernels import (
    AARCH64,
    GOOD_CONFIG,
    RELEASE,
    bzimage,
    kernel_image,
    module,
    put,
    put_modules,
)

KERNEL = b"\x7fELF" + bytes(range(256)) * 400

# Taking the kernel out of its image


def lz4_legacy(data: bytes) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(packed)) + packed


@pytest.mark.parametrize(
    "payload",
    [
        lz4_legacy(KERNEL),
        zstandard.ZstdCompressor().compress(KERNEL),
        gzip.compress(KERNEL),
        lzma.compress(KERNEL),
        lzma.compress(KERNEL, format=lzma.FORMAT_ALONE),
        bz2.compress(KERNEL),
    ],
    ids=["lz4", "zstd", "gzip", "xz", "lzma", "bzip2"],
)
def test_a_kernel_is_taken_out_of_its_bzimage(payload: bytes) -> None:
    assert vmlinux.extract(bzimage(KERNEL, packed=payload)) == KERNEL


def test_an_elf_kernel_is_taken_as_it_is() -> None:
    assert vmlinux.extract(KERNEL) == KERNEL


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (b"", "no boot header"),
        (bytes(5000), "no boot header"),
        (bzimage(KERNEL, packed=gzip.compress(KERNEL))[:-100], "cut off"),
        (bzimage(KERNEL, packed=b"abcdefgh"), "compressed in a way not known"),
        (bzimage(KERNEL, packed=gzip.compress(KERNEL)[:50]), "does not decompress"),
        (bzimage(KERNEL, packed=gzip.compress(b"not an ELF file")), "does not hold an ELF kernel"),
        (bzimage(KERNEL, packed=b"\x28\xb5\x2f\xfd" + bytes(50)), "does not"),
        (bzimage(KERNEL, packed=b"\x02\x21\x4c\x18\xff\xff\x00\x00" + bytes(50)), "does not"),
    ],
)
def test_a_broken_image_is_refused_with_the_reason(broken: bytes, complaint: str) -> None:
    with pytest.raises(LabError, match=complaint):
        vmlinux.extract(broken)


# What it is


def test_a_kernel_says_its_release_itself() -> None:
    assert vmlinux.release(kernel_image()) == RELEASE
    assert vmlinux.release(bzimage(b"not even looked into")) == RELEASE
    silent = bytearray(bzimage(kernel_image("6.1.9")))
    silent[0x20E:0x210] = bytes(2)
    assert vmlinux.release(bytes(silent)) == "6.1.9"


def test_of_an_elf_kernel_is_kept_what_is_loaded() -> None:
    whole = kernel_image(debugging=bytes(100_000))
    part = vmlinux.loaded_part(whole)
    assert len(part) < len(whole) - 100_000
    assert vmlinux.release(part) == RELEASE
    assert vmlinux.has_pvh_entry(part)
    assert not vmlinux.has_pvh_entry(vmlinux.loaded_part(kernel_image(pvh=False)))


def test_code_that_is_built_in_is_known_by_its_parameters() -> None:
    kernel = kernel_image(inside=b"\0kvm_amd.npt\0kvm: no hardware\0")
    assert vmlinux.has_built_in(kernel, "kvm_amd")
    assert not vmlinux.has_built_in(kernel, "kvm")


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (b"", "not a kernel image"),
        (b"#!/bin/sh\n" * 1000, "not a kernel image"),
        (kernel_image(machine=AARCH64), "a kernel for AArch64: the lab's machines are x86-64"),
        (bzimage(kernel_image(machine=AARCH64)), "a kernel for AArch64"),
        (bytes(0x38) + b"ARM\x64" + bytes(5000), "a kernel for arm64"),
        (kernel_image(inside=bytes(9000))[:5000], "cut off"),
        (kernel_image()[:30], "not an ELF file that makes sense"),
        (b"\x7fELF" + bytes(range(256)) * 20, "not an ELF file that makes sense"),
        (module(), "no part that is loaded"),
        (bzimage(kernel_image())[:2100], "cut off"),
        (kernel_image("nothing"), "does not say of which release"),
        (kernel_image(pvh=False), r"no PVH entry \(CONFIG_PVH\) to start it by: give its bzImage"),
    ],
)
def test_what_the_lab_cannot_boot_is_refused_with_the_reason(
    image: bytes, complaint: str, cache_root: Path, tmp_path: Path
) -> None:
    path = put(tmp_path / "boot/vmlinuz", image)
    put_modules(tmp_path / "modules")
    with pytest.raises(LabError, match=f"^{path}: .*{complaint}"):
        kernels.find(str(path), tmp_path / "modules")


def test_a_mutated_image_or_module_is_taken_or_refused_but_never_crashes(
    cache_root: Path, tmp_path: Path
) -> None:
    chance = random.Random(217423)
    inside = b"IKCFG_ST" + gzip.compress(GOOD_CONFIG.encode()) + b"IKCFG_ED"
    images = [kernel_image(inside=inside), bzimage(kernel_image(inside=inside))]
    folder = put_modules(tmp_path / "modules")
    of_kvm = folder / "kernel/arch/x86/kvm/kvm.ko"
    whole = of_kvm.read_bytes()
    for _ in range(200):
        image, kvm = bytearray(chance.choice(images)), bytearray(whole)
        mutated = chance.choice([image, kvm])
        for _ in range(chance.randint(1, 4)):
            mutated[chance.randrange(min(chance.choice([64, 0x250, 99999]), len(mutated)))] = chance.choice(
                b"\0\xff\x80\x01"
            )
        del mutated[chance.choice([chance.randrange(len(mutated)), len(mutated)]) :]
        put(of_kvm, bytes(kvm))
        with contextlib.suppress(LabError):
            kernels.find(str(put(tmp_path / "vmlinux", bytes(image))), folder)
