# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels from a tree in which make has run, and in which it runs again."""

import os
import shutil
import time
from pathlib import Path

import pytest

from kvmharness.lab import kernels
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel, locate, names, stored
from tests.made_up_kernels import AMD_ORDER, RELEASE, elf, module, orders, put, put_tree


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
    found = locate.of_path(tree).modules
    assert sorted(found) == ["ccp", "irqbypass", "kvm", "kvm_amd"]
    assert found["kvm"] == tree / "arch/x86/kvm/kvm.ko"


def test_of_a_trees_images_the_newer_one_counts(tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    now = time.time()
    os.utime(tree / "arch/x86/boot/bzImage", (now, now))
    os.utime(tree / "vmlinux", (now - 9, now - 9))
    assert locate.of_path(tree).image.name == "bzImage"
    os.utime(tree / "vmlinux", (now + 9, now + 9))
    assert locate.of_path(tree).image.name == "vmlinux"


def test_a_tree_that_is_not_built_or_gone_on_is_refused(tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    put(tree / "include/config/kernel.release", "6.19.0-rc1\n")
    with pytest.raises(
        LabError, match=rf"is {RELEASE}, but the tree has gone on to 6\.19\.0-rc1: run make there"
    ):
        locate.of_path(tree)
    with pytest.raises(LabError, match="the folder is not built: run make there"):
        locate.of_path(put(tmp_path / "source/Kconfig").parent)
    with pytest.raises(LabError, match="the folder holds no kernel"):
        locate.of_path(tmp_path)


def test_a_tree_without_kvms_modules_is_refused(tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    (tree / "arch/x86/kvm/kvm-amd.ko").unlink()
    with pytest.raises(LabError, match=f"neither built in nor built as modules in {tree}"):
        locate.gather(locate.of_path(tree))


def test_a_tree_that_was_built_again_is_another_kernel_and_the_same_one_is_quick(
    cache_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = put_tree(tmp_path / "linux")
    first = kernels.find(str(tree))
    with monkeypatch.context() as patched:
        patched.setattr(stored, "keep", None)
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
    age(first, names._SUPERSEDED_S + 60)
    age(other, names._SUPERSEDED_S + 60)
    third = build(tmp_path / "linux", b"3")
    assert [folder.is_dir() for folder in (first, second, third, other)] == [False, True, True, True]
    age(other, names._UNUSED_S + 60)
    build(tmp_path / "linux", b"3")
    assert not other.is_dir()
    gone = build(tmp_path / "gone", b"1")
    shutil.rmtree(tmp_path / "gone")
    age(gone, names._SUPERSEDED_S + 60)
    build(tmp_path / "linux", b"3")
    assert not gone.is_dir()


def test_debugging_information_of_modules_is_not_kept(cache_root: Path, tmp_path: Path) -> None:
    if shutil.which("strip") is None:
        pytest.skip("missing capability strip")
    tree = put_tree(tmp_path / "linux")
    name, modinfo = b".debug_info\0", b"vermagic=" + RELEASE.encode() + b" \0"
    put(tree / "arch/x86/kvm/kvm.ko", elf((".modinfo", modinfo), (".debug_info", name + bytes(100_000))))
    assert (kernels.find(str(tree)).folder / "kvm.ko").stat().st_size < 50_000
