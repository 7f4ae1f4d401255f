# SPDX-License-Identifier: GPL-2.0-or-later
"""What apt's answers are read as: the kernels that it offers, and its complaints."""

import os
import shutil
from pathlib import Path

import pytest
from debian.deb822 import Packages

from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import apt
from kvmharness.lab.kernels.apt import State
from kvmharness.lab.kernels.packages import KernelPackage, NoAnswerError, is_of_kernel, kernels_in
from tests.made_up_kernels import put

INDEX = """\
Package: linux-image-cloud-amd64
Version: 7.2.13-1
Depends: linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)

Package: linux-image-7.2-cloud-amd64
Version: 7.2.13-1
Depends: linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)

Package: linux-image-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1
Depends: dracut | linux-initramfs-tool, linux-modules-7.2.13+deb14-cloud-amd64 (= 7.2.13-1),
 linux-binary-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)

Package: linux-modules-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1

Package: linux-binary-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1

Package: linux-image-7.1.8+deb14-cloud-amd64
Version: 7.1.8-1
Depends: linux-binary-7.1.8+deb14-cloud-amd64 (= 7.1.8-1), linux-modules-7.1.8+deb14-cloud-amd64 (= 7.1.8-1)

Package: linux-binary-7.1.8+deb14-cloud-amd64
Version: 7.1.8-1

Package: linux-image-6.12.9+deb12-cloud-amd64
Version: 6.12.9-1
Depends: kmod

Package: linux-image-amd64
Version: 6.12.9-1
Depends: linux-image-6.12.9+deb12-amd64 (= 6.12.9-1)

Package: linux-image-6.12.9+deb12-amd64
Version: 6.12.9-1

Package: linux-image-6.12.9+deb12-rt-amd64
Version: 6.12.9-1

Package: linux-image-6.12.9+deb12-amd64-unsigned
Version: 6.12.9-1
"""


def test_apt_works_in_its_own_folder_and_not_in_the_users(
    cache_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt-get names no file of a package that lies in its folder already."""
    program = put(tmp_path / "bin/apt-get", "#!/bin/sh\npwd\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(put(tmp_path / "mine/linux-image_6.1_amd64.deb").parent)
    assert Path(State().apt("apt-get", "download").strip()) == cache_root / "apt"
    monkeypatch.setenv("XDG_CACHE_HOME", "of-mine")
    assert Path(State().apt("apt-get", "download").strip()) == tmp_path / "mine/of-mine/kvmharness/apt"


def paragraphs() -> list[Packages]:
    """What is shown of the index: those that may say which kernels there are."""
    every = Packages.iter_paragraphs(INDEX, use_apt_pkg=False)
    return [each for each in every if is_of_kernel(each["Package"])]


def test_both_flavours_are_offered_each_with_the_one_that_is_usual() -> None:
    physical = [each for each in kernels_in(paragraphs(), "sid") if each.flavour == "amd64"]
    name, version = "6.12.9+deb12-amd64", "6.12.9-1"
    assert physical == [KernelPackage(f"linux-image-{name}", version, name, usual=True, suite="sid")]


def test_a_kernel_is_offered_with_its_parts_and_not_without_one_of_them() -> None:
    found = [each for each in kernels_in(paragraphs(), "sid") if each.flavour == "cloud-amd64"]
    assert found == [
        KernelPackage(
            "linux-image-6.12.9+deb12-cloud-amd64", "6.12.9-1", "6.12.9+deb12-cloud-amd64", suite="sid"
        ),
        KernelPackage(
            "linux-image-7.2.13+deb14-cloud-amd64",
            "7.2.13-1",
            "7.2.13+deb14-cloud-amd64",
            ("linux-binary-7.2.13+deb14-cloud-amd64", "linux-modules-7.2.13+deb14-cloud-amd64"),
            True,
            "sid",
        ),
    ]


@pytest.mark.parametrize(
    ("said", "complaint", "kind"),
    [
        (
            "W: GPG error: ... not available: NO_PUBKEY 0E98404D\nE: The repository is not signed.",
            "apt-get update: the keyrings here lack the mirror's key 0E98404D: install a newer debian-arch",
            LabError,
        ),
        (
            "E: Failed to fetch http://mirror/InRelease  Temporary failure resolving 'mirror'",
            "apt-get update: Failed to fetch http://mirror/InRelease",
            NoAnswerError,
        ),
        ("E: Failed to fetch http://mirror/Packages  404  Not Found", "404 ", LabError),
        ("", "apt-get update: failed without a word", LabError),
    ],
)
def test_apt_complains_in_one_line(said: str, complaint: str, kind: type[LabError]) -> None:
    error = apt._error("apt-get update", said)
    assert complaint in str(error)
    assert "\n" not in str(error)
    assert type(error) is kind


def test_an_apt_that_waits_for_room_on_a_full_disk_is_ended_and_the_disk_is_named(
    cache_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = tmp_path / "apt-get"
    waiting.write_text("#!/bin/sh\nexec sleep 1000\n")
    waiting.chmod(0o755)
    monkeypatch.setattr(apt, "_LOOK_AFTER_S", 0.1)
    full = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(LabError, match=f"{cache_root / 'apt'} cannot be written: No space left on device"):
        State().apt(str(waiting), "update")
