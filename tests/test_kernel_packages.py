# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels from packages on the disk."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kvmharness.lab import kernels
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import debs
from tests.made_up_kernels import AMD_ORDER, RELEASE, bzimage, kernel_image, orders, put, put_modules


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
