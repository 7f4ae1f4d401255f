# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels from anywhere: this host's own, an image with its modules, a built tree, a package on the disk."""

import contextlib
import gzip
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kvmharness.cli.main import main
from kvmharness.lab import apt, cache, debs, kernels, places, play, suites, vmlinux
from kvmharness.lab.apt import KernelPackage, State
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machine import AMD
from kvmharness.scenarios import SCENARIOS

RELEASE = "6.18.0-mine"
GOOD_CONFIG = "".join(
    f"CONFIG_{name}=y\n"
    for name in (
        *("64BIT", "BINFMT_ELF", "BLK_DEV_INITRD", "DEVTMPFS", "FUTEX", "PROC_FS"),
        *("SERIAL_8250", "SERIAL_8250_CONSOLE", "X86_IOPL_IOPERM", "KVM_AMD"),
    )
)
X86_64, AARCH64 = 62, 183

Find = Callable[[str], Kernel]


def elf(
    *sections: tuple[str, bytes], machine: int = X86_64, segments: tuple[tuple[int, bytes], ...] = ()
) -> bytes:
    """An ELF file of these segments (type and content) and sections (name and content)."""
    heads, body, place = b"", b"", 64 + 56 * len(segments)
    for kind, content in segments:
        heads += struct.pack("<IIQQQQQQ", kind, 0, place + len(body), 0, 0, len(content), len(content), 4)
        body += content
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _ in (*sections, (".shstrtab", b"")))
    rows = bytes(64)
    for name, content in (*sections, (".shstrtab", names)):
        kind = 3 if name == ".shstrtab" else 1
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        rows += struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, place + len(body), len(content), 0, 0, 1, 0)
        body += content
    header = struct.pack(
        *("<4sBBBB8sHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, bytes(8), 2, machine, 1, 0, 64),
        *(place + len(body), 0, 64, 56, len(segments), 64, len(rows) // 64, len(rows) // 64 - 1),
    )
    return header + heads + body + rows


def kernel_image(
    release: str = RELEASE,
    machine: int = X86_64,
    pvh: bool = True,
    inside: bytes = b"",
    debugging: bytes = b"",
) -> bytes:
    """An ELF kernel: a banner, what is `inside`, the note that says where to start it, and debugging."""
    banner = f"Linux version {release} (somebody@somewhere) #1 SMP\n".encode()
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x1000000)
    segments = ((1, banner + b"\0" + inside), *(((4, note),) if pvh else ()))
    return elf((".debug_info", debugging), machine=machine, segments=segments)


def bzimage(kernel: bytes, release: str = RELEASE) -> bytes:
    """A boot header that names the release, and the kernel behind it, compressed."""
    payload = gzip.compress(kernel) + struct.pack("<I", len(kernel))
    setup = bytearray(2048)
    setup[0x1F1] = 3
    setup[0x202:0x206] = b"HdrS"
    setup[0x20E:0x210] = struct.pack("<H", 0x300)
    text = f"{release} (somebody@somewhere) #1 SMP".encode()
    setup[0x500 : 0x500 + len(text)] = text
    setup[0x248:0x250] = struct.pack("<II", 0, len(payload))
    return bytes(setup) + payload


def module(release: str = RELEASE, depends: str = "", content: bytes = b"") -> bytes:
    """A module that was built for a release, and needs others."""
    modinfo = f"depends={depends}\0vermagic={release} SMP preempt mod_unload \0".encode()
    return elf((".modinfo", modinfo), (".text", content))


def put(path: Path, content: bytes | str = b"") -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def put_modules(folder: Path, release: str = RELEASE) -> Path:
    """KVM's modules for AMD in a folder such as /lib/modules/RELEASE."""
    put(folder / "kernel/arch/x86/kvm/kvm-amd.ko", module(release, "kvm,ccp"))
    put(folder / "kernel/arch/x86/kvm/kvm.ko", module(release, "irqbypass"))
    put(folder / "kernel/virt/lib/irqbypass.ko", module(release))
    put(folder / "modules.builtin", "kernel/drivers/crypto/ccp/ccp.ko\n")
    return folder


def put_tree(tree: Path, release: str = RELEASE) -> Path:
    """A tree as make leaves it."""
    put(tree / "vmlinux", kernel_image(release))
    put(tree / "arch/x86/boot/bzImage", bzimage(kernel_image(release), release))
    put(tree / "arch/x86/kvm/kvm.ko", module(release, "irqbypass"))
    put(tree / "arch/x86/kvm/kvm-amd.ko", module(release, "kvm"))
    put(tree / "virt/lib/irqbypass.ko", module(release))
    put(tree / "include/config/kernel.release", f"{release}\n")
    put(tree / "modules.order", "arch/x86/kvm/kvm.o\narch/x86/kvm/kvm-amd.o\nvirt/lib/irqbypass.o\n")
    put(tree / "modules.builtin", "")
    put(tree / ".config", GOOD_CONFIG)
    return tree


def orders(kernel: Kernel) -> dict[str, list[str]]:
    return {vendor: [path.name for path in kernel.modules_for(vendor)] for vendor in kernel.load_order}


AMD_ORDER = {"kvm_amd": ["irqbypass.ko", "kvm.ko", "kvm_amd.ko"]}

# The image itself


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


# An image with its modules


@pytest.mark.parametrize(
    ("image", "folder"),
    [
        (f"boot/vmlinuz-{RELEASE}", f"lib/modules/{RELEASE}"),
        (f"boot/vmlinuz-{RELEASE}", f"usr/lib/modules/{RELEASE}"),
        ("out/vmlinuz", f"out/lib/modules/{RELEASE}"),
        (f"lib/modules/{RELEASE}/vmlinuz", f"lib/modules/{RELEASE}"),
    ],
)
def test_an_images_modules_are_found_where_they_usually_are(
    image: str, folder: str, cache_root: Path, tmp_path: Path
) -> None:
    put_modules(tmp_path / folder)
    kernel = kernels.find(str(put(tmp_path / image, bzimage(kernel_image()))))
    assert kernel.release == RELEASE
    assert orders(kernel) == AMD_ORDER
    assert vmlinux.release(kernel.vmlinux.read_bytes()) == RELEASE


@pytest.mark.parametrize("named", ["", "..", "../../.."])
def test_modules_are_taken_from_the_folder_that_is_named(
    named: str, cache_root: Path, tmp_path: Path
) -> None:
    folder = put_modules(tmp_path / "elsewhere/lib/modules" / RELEASE)
    put_modules(tmp_path / "elsewhere/lib/modules/5.10.1", "5.10.1")
    kernel = kernels.find(str(put(tmp_path / "vmlinux", kernel_image())), folder / named)
    assert orders(kernel) == AMD_ORDER


def test_any_folder_with_kvms_modules_will_do_packed_or_not(cache_root: Path, tmp_path: Path) -> None:
    put(tmp_path / "m/kvm-amd.ko.gz", gzip.compress(module(depends="kvm")))
    put(tmp_path / "m/kvm.ko", module())
    kernel = kernels.find(str(put(tmp_path / "vmlinux", kernel_image())), tmp_path / "m")
    assert orders(kernel) == {"kvm_amd": ["kvm.ko", "kvm_amd.ko"]}
    assert kernel.modules_for("kvm_amd")[1].read_bytes() == module(depends="kvm")


def test_a_module_below_updates_comes_before_the_kernels_own(cache_root: Path, tmp_path: Path) -> None:
    folder = put_modules(tmp_path / "modules")
    put(folder / "updates/kvm.ko", module(content=b"mine"))
    kernel = kernels.find(str(put(tmp_path / "vmlinux", kernel_image())), folder)
    assert (kernel.folder / "kvm.ko").read_bytes() == module(content=b"mine")


def test_modules_of_another_kernel_are_refused(cache_root: Path, tmp_path: Path) -> None:
    folder = put_modules(tmp_path / "modules", "6.18.0-other")
    image = put(tmp_path / "vmlinux", kernel_image())
    with pytest.raises(
        LabError, match=rf"the kernel is {RELEASE}, .*irqbypass.ko was built for 6\.18\.0-other$"
    ):
        kernels.find(str(image), folder)


def test_a_module_that_another_one_needs_is_missed(cache_root: Path, tmp_path: Path) -> None:
    folder = put_modules(tmp_path / "modules")
    image = str(put(tmp_path / "vmlinux", kernel_image()))
    put(folder / "modules.builtin", "")
    with pytest.raises(LabError, match="module ccp is missing, which kvm_amd needs"):
        kernels.find(image, folder)
    (folder / "modules.builtin").unlink()
    kernels.find(image, folder)
    (folder / "kernel/arch/x86/kvm/kvm.ko").unlink()
    with pytest.raises(LabError, match="module kvm is missing, which kvm_amd needs"):
        kernels.find(image, folder)


def test_a_kernel_whose_modules_are_nowhere_says_where_they_were_looked_for(
    cache_root: Path, tmp_path: Path
) -> None:
    image = put(tmp_path / "boot/vmlinuz", bzimage(kernel_image()))
    looked = (
        rf"nor in a lib/modules/{RELEASE} beside {image} or above it \(--modules DIR names another place\)$"
    )
    with pytest.raises(LabError, match=looked):
        kernels.find(str(image))
    with pytest.raises(LabError, match=f"no folder {tmp_path}/nosuch"):
        kernels.find(str(image), tmp_path / "nosuch")


@pytest.mark.parametrize("evidence", ["modules.builtin", "the kernel's parameters"])
def test_nothing_is_loaded_where_kvm_is_built_in(evidence: str, cache_root: Path, tmp_path: Path) -> None:
    inside = b""
    if evidence == "modules.builtin":
        put(tmp_path / f"lib/modules/{RELEASE}/modules.builtin", "kernel/arch/x86/kvm/kvm-amd.ko\n")
    else:
        inside = b"\0kvm_amd.npt\0"
    kernel = kernels.find(str(put(tmp_path / "boot/vmlinuz", bzimage(kernel_image(inside=inside)))))
    assert kernel.modules_for("kvm_amd") == []
    with pytest.raises(LabError, match="has no module kvm_intel"):
        kernel.modules_for("kvm_intel")


def test_a_kernel_without_an_entry_for_elf_is_booted_as_its_bzimage(cache_root: Path, tmp_path: Path) -> None:
    image = bzimage(kernel_image(pvh=False))
    put_modules(tmp_path / "lib/modules" / RELEASE)
    assert kernels.find(str(put(tmp_path / "boot/vmlinuz", image))).vmlinux.read_bytes() == image


@pytest.mark.parametrize("place", ["beside the image", "among the modules", "in the kernel"])
def test_a_config_that_lacks_what_the_lab_needs_is_refused(
    place: str, cache_root: Path, tmp_path: Path
) -> None:
    bad = GOOD_CONFIG.replace("CONFIG_SERIAL_8250_CONSOLE=y", "# CONFIG_SERIAL_8250_CONSOLE is not set")
    bad = bad.replace("CONFIG_BLK_DEV_INITRD=y\n", "").replace("CONFIG_KVM_AMD=y", "CONFIG_KVM_AMD=n")
    folder = put_modules(tmp_path / "lib/modules" / RELEASE)
    inside = b""
    if place == "beside the image":
        put(tmp_path / f"boot/config-{RELEASE}", bad)
    elif place == "among the modules":
        put(folder / "config", bad)
    else:
        inside = b"IKCFG_ST" + gzip.compress(bad.encode()) + b"IKCFG_ED"
    image = put(tmp_path / "boot/vmlinuz", bzimage(kernel_image(inside=inside)))
    lacks = "BLK_DEV_INITRD, CONFIG_SERIAL_8250_CONSOLE, CONFIG_KVM_AMD or CONFIG_KVM_INTEL"
    with pytest.raises(LabError, match=f"its .config lacks CONFIG_{lacks} "):
        kernels.find(str(image))


def test_an_option_younger_than_the_kernel_is_not_asked_for(cache_root: Path, tmp_path: Path) -> None:
    put_modules(tmp_path / "lib/modules" / RELEASE)
    put(tmp_path / f"boot/config-{RELEASE}", GOOD_CONFIG.replace("CONFIG_X86_IOPL_IOPERM=y\n", ""))
    assert kernels.find(str(put(tmp_path / "boot/vmlinuz", bzimage(kernel_image())))).release == RELEASE


# This machine's own


def test_the_hosts_kernel_is_taken_with_its_modules(tmp_path: Path) -> None:
    put(tmp_path / f"boot/vmlinuz-{RELEASE}", bzimage(kernel_image()))
    put_modules(tmp_path / f"lib/modules/{RELEASE}")
    put_modules(tmp_path / "lib/modules/6.18.0-old", "6.18.0-old")
    parts = places.gather(places.of_host(tmp_path, RELEASE))
    assert parts.release == RELEASE
    assert [f"{name}.ko" for name in parts.load_order["kvm_amd"]] == AMD_ORDER["kvm_amd"]


@pytest.mark.parametrize("folder", ["lib", "usr/lib"])
def test_the_hosts_image_may_lie_beside_its_modules(folder: str, tmp_path: Path) -> None:
    modules_folder = put_modules(tmp_path / f"{folder}/modules/{RELEASE}")
    put(modules_folder / "vmlinuz", bzimage(kernel_image()))
    assert places.gather(places.of_host(tmp_path, RELEASE)).load_order.keys() == {"kvm_amd"}


def test_a_host_without_an_image_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(
        LabError, match=rf"kernel, {RELEASE}, is not on it: there is neither .*boot/vmlinuz-{RELEASE}"
    ):
        places.of_host(tmp_path, RELEASE)


def test_a_host_without_kvm_modules_is_refused_unless_kvm_is_built_in(tmp_path: Path) -> None:
    put(tmp_path / f"boot/vmlinuz-{RELEASE}", bzimage(kernel_image()))
    listed = put(tmp_path / f"lib/modules/{RELEASE}/modules.builtin", "kernel/fs/ext4/ext4.ko\n")
    with pytest.raises(LabError, match=f"{RELEASE} is without KVM: .* nor in {listed.parent}"):
        places.gather(places.of_host(tmp_path, RELEASE))
    put(listed, "kernel/arch/x86/kvm/kvm.ko\nkernel/arch/x86/kvm/kvm-intel.ko\n")
    assert places.gather(places.of_host(tmp_path, RELEASE)).load_order == {"kvm_intel": {}}


def test_a_hosts_image_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / f"boot/vmlinuz-{RELEASE}").symlink_to("gone")
    with pytest.raises(LabError, match=rf"cannot read {tmp_path}/boot/vmlinuz-{RELEASE}: No such file"):
        places.gather(places.of_host(tmp_path, RELEASE))


# A built tree


@pytest.mark.parametrize("of_tree", ["", "vmlinux", "arch/x86/boot/bzImage"])
def test_a_tree_is_taken_by_itself_or_by_one_of_its_images(
    of_tree: str, cache_root: Path, tmp_path: Path
) -> None:
    kernel = kernels.find(str(put_tree(tmp_path / "linux") / of_tree))
    assert kernel.release == RELEASE
    assert orders(kernel) == AMD_ORDER


@pytest.mark.parametrize("line", ["arch/x86/kvm/kvm-amd.o", "kernel/arch/x86/kvm/kvm-amd.ko"])
def test_a_trees_modules_are_those_it_lists(line: str, tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    put(tree / "drivers/crypto/ccp/ccp.ko", module(content=b"listed"))
    put(tree / "debian/stale/lib/modules/kvm.ko", module("5.10.1"))
    put(tree / "modules.order", f"{line}\n{line.replace('arch/x86/kvm/kvm-amd', 'drivers/crypto/ccp/ccp')}\n")
    found = places.of_path(tree).modules
    assert sorted(found) == ["ccp", "irqbypass", "kvm", "kvm_amd"]
    assert found["kvm"] == tree / "arch/x86/kvm/kvm.ko"


def test_of_a_trees_images_the_newer_one_counts(tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    now = time.time()
    os.utime(tree / "arch/x86/boot/bzImage", (now, now))
    os.utime(tree / "vmlinux", (now - 9, now - 9))
    assert places.of_path(tree).image.name == "bzImage"
    os.utime(tree / "vmlinux", (now + 9, now + 9))
    assert places.of_path(tree).image.name == "vmlinux"


def test_a_tree_that_is_not_built_or_gone_on_is_refused(tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    put(tree / "include/config/kernel.release", "6.19.0-rc1\n")
    with pytest.raises(
        LabError, match=rf"is {RELEASE}, but the tree has gone on to 6\.19\.0-rc1: run make there"
    ):
        places.of_path(tree)
    with pytest.raises(LabError, match="the folder is not built: run make there"):
        places.of_path(put(tmp_path / "source/Kconfig").parent)
    with pytest.raises(LabError, match="the folder holds no kernel"):
        places.of_path(tmp_path)


def test_a_tree_without_kvms_modules_is_refused(tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    (tree / "arch/x86/kvm/kvm-amd.ko").unlink()
    with pytest.raises(LabError, match=f"neither built in nor built as modules in {tree}"):
        places.gather(places.of_path(tree))


def test_a_tree_that_was_built_again_is_another_kernel_and_the_same_one_is_quick(
    cache_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = put_tree(tmp_path / "linux")
    first = kernels.find(str(tree))
    with monkeypatch.context() as patched:
        patched.setattr(kernels, "_keep", None)
        assert kernels.find(f"{tree}/.") == Kernel(f"{tree}/.", RELEASE, first.folder, first.load_order)
    put(tree / "arch/x86/kvm/kvm.ko", module(depends="irqbypass", content=b"patched"))
    second = kernels.find(str(tree))
    assert second.folder != first.folder
    assert (second.folder / "kvm.ko").read_bytes() == module(depends="irqbypass", content=b"patched")


def test_what_a_tree_was_before_is_kept_for_a_while_and_others_for_longer(
    cache_root: Path, tmp_path: Path
) -> None:
    def build(tree: Path, content: bytes) -> Path:
        put(put_tree(tree) / "arch/x86/kvm/kvm.ko", module(depends="irqbypass", content=content))
        return kernels.find(str(tree)).folder

    def age(folder: Path, seconds: float) -> None:
        os.utime(folder, (time.time() - seconds, time.time() - seconds))

    first, other = build(tmp_path / "linux", b"1"), build(tmp_path / "other", b"1")
    second = build(tmp_path / "linux", b"2")
    assert first.is_dir(), "a run may be about to boot it"
    age(first, kernels._SUPERSEDED_S + 60)
    age(other, kernels._SUPERSEDED_S + 60)
    third = build(tmp_path / "linux", b"3")
    assert [folder.is_dir() for folder in (first, second, third, other)] == [False, True, True, True]
    age(other, kernels._UNUSED_S + 60)
    build(tmp_path / "linux", b"3")
    assert not other.is_dir()
    gone = build(tmp_path / "gone", b"1")
    shutil.rmtree(tmp_path / "gone")
    age(gone, kernels._SUPERSEDED_S + 60)
    build(tmp_path / "linux", b"3")
    assert not gone.is_dir()


def test_debugging_information_of_modules_is_not_kept(cache_root: Path, tmp_path: Path) -> None:
    if shutil.which("strip") is None:
        pytest.skip("missing capability strip")
    tree = put_tree(tmp_path / "linux")
    name, modinfo = b".debug_info\0", b"vermagic=" + RELEASE.encode() + b" \0"
    put(tree / "arch/x86/kvm/kvm.ko", elf((".modinfo", modinfo), (".debug_info", name + bytes(100_000))))
    assert (kernels.find(str(tree)).folder / "kvm.ko").stat().st_size < 50_000


# A name for none of these


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("6.1", "unknown kernel '6.1': name it debian:VERSION, as in debian:6.1, or host, or by a path"),
        ("", "unknown kernel ''"),
        ("hots", "unknown kernel 'hots'"),
        ("/nosuch/vmlinuz", "/nosuch/vmlinuz: no such file"),
        ("nosuch.deb", "nosuch.deb: no such file"),
        ("/dev/null", "/dev/null: not a file"),
    ],
)
def test_a_kernel_that_is_not_there_is_one_line(spec: str, complaint: str, cache_root: Path) -> None:
    with pytest.raises(LabError, match=f"^{re.escape(complaint)}"):
        kernels.find(spec)


def test_bad_input_ends_the_command_with_status_2_and_one_line(
    cache_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmharness.cli.lab.check_emulator", lambda machine: None)
    text = str(put(tmp_path / "notes.txt", "hello"))
    folder = str(tmp_path)
    for arguments, said in (
        ((text, "--modules", folder), f"{text}: not a kernel image: no boot header"),
        (("debian:6.1", "--modules", folder), "--modules is for a KERNEL given as an image or a built tree"),
        (("debian:6.1", "--offline"), "debian:6.1 is not in the cache, which has none of Debian"),
    ):
        assert main(["lab", "run", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"kvmharness: {said}")
        assert error.count("\n") == 1


# Packages on the disk


@pytest.fixture(scope="session")
def dpkg_deb() -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("missing capability dpkg-deb")


def make_deb(
    folder: Path, package: str, root: Path, version: str = "6.18-1", architecture: str = "amd64"
) -> Path:
    """A package that holds what is below `root`."""
    control = f"Package: {package}\nVersion: {version}\nArchitecture: {architecture}\n"
    put(root / "DEBIAN/control", control + "Maintainer: me <me@example.org>\nDescription: a kernel\n")
    deb = folder / f"{package}_{version}_{architecture}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(root), str(deb)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(root)
    return deb


@pytest.mark.usefixtures("dpkg_deb")
def test_a_package_with_its_modules_is_taken_as_it_is(cache_root: Path, tmp_path: Path) -> None:
    put(tmp_path / f"root/boot/vmlinuz-{RELEASE}", bzimage(kernel_image()))
    put_modules(tmp_path / f"root/lib/modules/{RELEASE}")
    deb = make_deb(tmp_path, f"linux-image-{RELEASE}", tmp_path / "root")
    kernel = kernels.find(str(deb))
    assert kernel.release == RELEASE
    assert orders(kernel) == AMD_ORDER
    os.utime(deb)
    assert kernels.find(str(deb)).folder == kernel.folder


@pytest.mark.usefixtures("dpkg_deb")
@pytest.mark.parametrize("given", ["image", "binary", "modules"])
def test_a_kernel_in_several_packages_is_put_together_again(
    given: str, cache_root: Path, tmp_path: Path
) -> None:
    put(tmp_path / f"root/usr/lib/modules/{RELEASE}/vmlinuz.unsigned", bzimage(kernel_image()))
    made = {"binary": make_deb(tmp_path, f"linux-binary-unsigned-{RELEASE}", tmp_path / "root")}
    put_modules(tmp_path / f"root/usr/lib/modules/{RELEASE}")
    made["modules"] = make_deb(tmp_path, f"linux-modules-{RELEASE}", tmp_path / "root")
    put(tmp_path / "root/usr/share/doc/nothing")
    made["image"] = make_deb(tmp_path, f"linux-image-{RELEASE}", tmp_path / "root")
    put(tmp_path / f"root/boot/vmlinuz-{RELEASE}", bzimage(kernel_image("6.17.0")))
    make_deb(tmp_path, f"linux-binary-{RELEASE}", tmp_path / "root", version="6.17-1")
    put(tmp_path / f"linux-image-{RELEASE}-dbg_6.18-1_amd64.deb", "broken, and of no concern")
    assert orders(kernels.find(str(made[given]))) == AMD_ORDER
    assert sorted(debs.with_siblings(made[given])) == sorted(made.values())


@pytest.mark.usefixtures("dpkg_deb")
def test_a_package_without_the_others_it_needs_says_what_was_looked_into(
    cache_root: Path, tmp_path: Path
) -> None:
    put(tmp_path / f"root/boot/vmlinuz-{RELEASE}", bzimage(kernel_image()))
    deb = make_deb(tmp_path, f"linux-image-{RELEASE}", tmp_path / "root")
    with pytest.raises(
        LabError, match=rf"without KVM: .* nor in /lib/modules/.*; looked into {re.escape(deb.name)}$"
    ):
        kernels.find(str(deb))
    put_modules(tmp_path / f"root/lib/modules/{RELEASE}")
    deb = make_deb(tmp_path, f"linux-modules-{RELEASE}", tmp_path / "root", version="2")
    with pytest.raises(LabError, match="it holds no kernel image; looked into linux-modules-"):
        kernels.find(str(deb))
    deb = make_deb(tmp_path, "linux-image-arm", put(tmp_path / "root/x").parent, architecture="arm64")
    with pytest.raises(LabError, match="a package for arm64: the lab's machines are x86-64"):
        kernels.find(str(deb))


@pytest.mark.usefixtures("dpkg_deb")
def test_a_broken_package_is_one_line_wherever_it_breaks(cache_root: Path, tmp_path: Path) -> None:
    put(tmp_path / f"root/boot/vmlinuz-{RELEASE}", bzimage(kernel_image()))
    put_modules(tmp_path / f"root/lib/modules/{RELEASE}")
    deb = make_deb(tmp_path, f"linux-image-{RELEASE}", tmp_path / "root")
    whole = deb.read_bytes()
    for length in (0, 5, 30, 100, 1000, len(whole) // 2, len(whole) - 3000):
        deb.write_bytes(whole[:length])
        with pytest.raises(LabError) as raised:
            kernels.find(str(deb))
        assert "\n" not in str(raised.value)
        assert f"{deb.name} does not unpack: " in str(raised.value)
    assert kernels.cached() == []


# The cache alone

PACKAGE = KernelPackage("linux-image-6.1.0-9-cloud-amd64", "6.1.27-1", "6.1.0-9-cloud-amd64", usual=True)
NEWER = KernelPackage("linux-image-6.1.0-10-cloud-amd64", "6.1.38-1", "6.1.0-10-cloud-amd64", usual=True)


@pytest.fixture
def nobody_answers(cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No apt, so no network either."""

    def refuse(*arguments: Any, **options: Any) -> str:
        raise LabError("apt was asked")

    monkeypatch.setattr(State, "apt", refuse)


def put_kept(package: KernelPackage) -> Path:
    place = cache.root() / "kernels" / kernels.cache_name(package)
    description = {"release": package.release, "load_order": {"kvm_amd": []}, "sizes": {}}
    return put(place / "kernel.json", json.dumps(description)).parent


@pytest.mark.usefixtures("nobody_answers")
@pytest.mark.parametrize("name", ["6.1", "6.1.27", "6.1.0-9", "bookworm"])
def test_offline_a_kernel_in_the_cache_is_found_by_version_or_suite(name: str) -> None:
    place = put_kept(PACKAGE)
    # Looked up long ago; since then there is a newer one, which was never fetched.
    index = json.dumps([asdict(each) for each in (PACKAGE, NEWER)])
    os.utime(put(State("bookworm").root / "kernels.json", index), (0, 0))
    assert kernels.find(f"debian:{name}", offline=True).folder == place


@pytest.mark.usefixtures("nobody_answers")
@pytest.mark.parametrize("name", ["6.12", "sid"])
def test_offline_a_kernel_that_is_not_in_the_cache_is_answered_with_what_is(name: str) -> None:
    put_kept(PACKAGE)
    with pytest.raises(
        LabError, match=rf"^debian:{re.escape(name)} is not in the cache, which has debian:6\.1\.27-1, "
    ):
        kernels.find(f"debian:{name}", offline=True)


@pytest.mark.usefixtures("nobody_answers")
def test_the_list_of_kernels_offline_is_what_the_cache_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_kept(NEWER)
    put_kept(PACKAGE)
    tree = put_tree(tmp_path / "linux")
    kernels.find(str(tree))
    assert main(["list", "kernels", "--offline"]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["debian:6.1.27-1", PACKAGE.release, "in the cache"],
        ["debian:6.1.38-1", NEWER.release, "in the cache"],
        [str(tree), RELEASE, "in the cache"],
    ]
    assert main(["list", "kernels"]) == 2
    assert "in the cache" in capsys.readouterr().out
    for arguments in (["kernels", "--offline", "--all-suites"], ["machines", "--offline"]):
        assert main(["list", *arguments]) == 2


def test_the_list_of_kernels_says_where_each_is_to_be_had(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_kept(PACKAGE)
    of_sid = KernelPackage("linux-image-7.2-cloud-amd64", "7.2-1", "7.2-cloud-amd64")
    put(State("sid").root / "kernels.json", json.dumps([asdict(of_sid)]))
    monkeypatch.setattr(apt, "offered", lambda refresh=False: [PACKAGE])
    assert main(["list", "kernels"]) == 0
    listed = capsys.readouterr().out
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    own = ["debian:6.1.27-1", PACKAGE.release, "this machine's sources, in the cache"]
    assert rows == [own, ["debian:7.2-1", of_sid.release, "sid"]]
    answers = {"trixie": ([NEWER], []), "sid": ([], ["sid: no key"])}
    monkeypatch.setattr(suites, "offered", lambda suite, refresh=False: answers.get(suite, ([], [])))
    assert main(["list", "kernels", "--all-suites"]) == 0
    out, error = capsys.readouterr()
    newer = ["debian:6.1.38-1", NEWER.release, "trixie"]
    assert [line.split(maxsplit=2) for line in out.splitlines()] == [own, newer]
    assert error == "kvmharness: not asked: sid: no key\n"


def test_a_kernel_damaged_in_the_cache_is_built_again(cache_root: Path, tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    kernel = kernels.find(str(tree))
    whole = kernel.vmlinux.read_bytes()
    for damaged in (whole[:-1], b"\0" + whole[1:]):
        kernel.vmlinux.write_bytes(damaged)
        assert kernels.find(str(tree)).vmlinux.read_bytes() == whole


# Downloads


class Mirror(http.server.SimpleHTTPRequestHandler):
    """A mirror that serves one file, hangs up in the middle of it, and goes on where it is asked to."""

    content = bytes(range(256)) * 4000
    asked: list[str] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.asked.append(wanted)
        begin = int(wanted[6:].split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - begin))
        self.send_header("Last-Modified", self.date_time_string(1))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        part = self.content[begin:]
        self.wfile.write(part if wanted else part[: len(part) // 2])
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def mirror(cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a file of that mirror is."""
    if not Path(apt._HELPER).exists():
        pytest.skip("missing capability apt")
    monkeypatch.setattr(apt, "_CONFIGURATION", apt._CONFIGURATION + 'Acquire::http::Proxy "DIRECT";\n')
    Mirror.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/kernel.deb"
        server.shutdown()


def fetched(uri: str, file: Path) -> bytes:
    content = hashlib.sha256(Mirror.content).hexdigest()
    return State().fetch(uri, file, len(Mirror.content), f"SHA256:{content}").read_bytes()


def test_a_download_goes_on_where_it_was_interrupted(mirror: str, tmp_path: Path) -> None:
    put(State().root / "cache/archives/partial/kernel.deb", Mirror.content[:1000])
    assert fetched(mirror, tmp_path / "kernel.deb") == Mirror.content
    assert Mirror.asked[0] == "bytes=1000-"
    assert list((State().root / "cache/archives/partial").iterdir()) == []


def test_a_download_outlives_a_mirror_that_hangs_up(mirror: str, tmp_path: Path) -> None:
    assert fetched(mirror, tmp_path / "kernel.deb") == Mirror.content
    assert len(Mirror.asked) > 1


@pytest.mark.parametrize("length", [1000, len(Mirror.content), len(Mirror.content) + 1])
def test_what_is_left_of_another_download_is_not_taken_for_part_of_this_one(
    length: int, mirror: str, tmp_path: Path
) -> None:
    put(State().root / "cache/archives/partial/kernel.deb", b"x" * length)
    assert fetched(mirror, tmp_path / "kernel.deb") == Mirror.content


def test_a_download_that_is_not_what_the_index_names_is_refused(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"apt-helper download-file: .*Hash"):
        State().fetch(mirror, tmp_path / "kernel.deb", len(Mirror.content), "SHA256:" + "0" * 64)
    assert list((State().root / "cache/archives/partial").iterdir()) == []
    assert not (tmp_path / "kernel.deb").exists()


# Real kernels


@pytest.fixture(scope="session")
def packages(kernel: Find, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the .debs of debian:6.1, as apt fetched them."""
    folder = tmp_path_factory.mktemp("packages")
    try:
        package = apt.matching("6.1", apt.offered())
        assert package is not None
        apt.download(package, folder)
    except (LabError, AssertionError) as error:
        pytest.skip(f"missing capability debian:6.1 on this machine's mirror: {error}")
    return folder


def plays(kernel: Kernel) -> bool:
    """Whether a scenario can be played on a kernel, which then leaves the cache."""
    try:
        session = play.play(kernel, AMD, [SCENARIOS["young-restore"]])
    finally:
        cache.removed(kernel.folder)
    return session.probe.release == kernel.release and "young-restore" in session.traces


@pytest.mark.lab
def test_a_built_tree_boots(kernel: Find, tmp_path: Path) -> None:
    kept, tree = kernel("debian:6.1"), tmp_path / "linux"
    places_of = {
        "kvm": "arch/x86/kvm/kvm.ko",
        "kvm_amd": "arch/x86/kvm/kvm-amd.ko",
        "irqbypass": "virt/lib/irqbypass.ko",
    }
    put(tree / "vmlinux", kept.vmlinux.read_bytes())
    for path in kept.modules_for("kvm_amd"):
        put(tree / places_of[path.stem], path.read_bytes())
    put(tree / "include/config/kernel.release", kept.release)
    assert plays(kernels.find(str(tree)))


@pytest.mark.lab
@pytest.mark.full
def test_a_package_on_the_disk_boots(packages: Path) -> None:
    assert plays(kernels.find(str(next(packages.glob("linux-image-*.deb")))))


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize("image", ["vmlinux", "bzImage"])
def test_an_image_with_its_modules_boots_with_an_entry_for_elf_and_without(
    image: str, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debs.unpack(packages.glob("*.deb"), tmp_path / "root")
    (vmlinuz,) = (tmp_path / "root/boot").glob("vmlinuz-*")
    moved = vmlinuz.rename(tmp_path / "vmlinuz")
    (modules_folder,) = (tmp_path / "root/lib/modules").iterdir()
    if image == "bzImage":
        monkeypatch.setattr(vmlinux, "has_pvh_entry", lambda kernel: False)
    found = kernels.find(str(moved), modules_folder)
    assert found.image == image
    assert plays(found)
