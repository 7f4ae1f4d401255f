# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels from a built tree, a package and an image, booted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.lab import cache, kernels, play
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel, archive, debs, vmlinux
from kvmharness.lab.kernels.packages import matching
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.scenarios import SCENARIOS
from tests.made_up_kernels import put

Find = Callable[[str], Kernel]


@pytest.fixture(scope="session")
def packages(kernel: Find, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the .debs of debian:6.1, as apt fetched them."""
    folder = tmp_path_factory.mktemp("packages")
    try:
        package = matching("6.1", archive.offered())
        assert package is not None
        archive.download(package, folder)
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
