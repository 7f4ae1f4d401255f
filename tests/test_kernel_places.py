# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels from an image with its modules, and this machine's own."""

import gzip
from pathlib import Path

import pytest

from kvmharness.lab import kernels
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import locate, vmlinux
from tests.made_up_kernels import (
    AMD_ORDER,
    GOOD_CONFIG,
    RELEASE,
    bzimage,
    kernel_image,
    module,
    orders,
    put,
    put_modules,
)

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
    parts = locate.gather(locate.of_host(tmp_path, RELEASE))
    assert parts.release == RELEASE
    assert [f"{name}.ko" for name in parts.load_order["kvm_amd"]] == AMD_ORDER["kvm_amd"]


@pytest.mark.parametrize("folder", ["lib", "usr/lib"])
def test_the_hosts_image_may_lie_beside_its_modules(folder: str, tmp_path: Path) -> None:
    modules_folder = put_modules(tmp_path / f"{folder}/modules/{RELEASE}")
    put(modules_folder / "vmlinuz", bzimage(kernel_image()))
    assert locate.gather(locate.of_host(tmp_path, RELEASE)).load_order.keys() == {"kvm_amd"}


def test_a_host_without_an_image_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(
        LabError, match=rf"kernel, {RELEASE}, is not on it: there is neither .*boot/vmlinuz-{RELEASE}"
    ):
        locate.of_host(tmp_path, RELEASE)


def test_a_host_without_kvm_modules_is_refused_unless_kvm_is_built_in(tmp_path: Path) -> None:
    put(tmp_path / f"boot/vmlinuz-{RELEASE}", bzimage(kernel_image()))
    listed = put(tmp_path / f"lib/modules/{RELEASE}/modules.builtin", "kernel/fs/ext4/ext4.ko\n")
    with pytest.raises(LabError, match=f"{RELEASE} is without KVM: .* nor in {listed.parent}"):
        locate.gather(locate.of_host(tmp_path, RELEASE))
    put(listed, "kernel/arch/x86/kvm/kvm.ko\nkernel/arch/x86/kvm/kvm-intel.ko\n")
    assert locate.gather(locate.of_host(tmp_path, RELEASE)).load_order == {"kvm_intel": {}}


def test_a_hosts_image_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / f"boot/vmlinuz-{RELEASE}").symlink_to("gone")
    with pytest.raises(LabError, match=rf"cannot read {tmp_path}/boot/vmlinuz-{RELEASE}: No such file"):
        locate.gather(locate.of_host(tmp_path, RELEASE))
