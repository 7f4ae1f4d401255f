# SPDX-License-Identifier: GPL-2.0-or-later
"""`lab build host`: what the kernel that runs this machine was built from."""

from pathlib import Path

import pytest

from kvmharness.cli.main import main
from kvmharness.lab.build import host, make
from kvmharness.lab.errors import LabError
from tests.command_line import Capture, one_line
from tests.made_up_distribution import on_distribution
from tests.made_up_kernels import put

DEBIAN = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-02)"


@pytest.mark.parametrize(
    ("release", "spec"),
    [
        ("6.1.0-56-amd64", "debian:6.1.192-2:amd64"),
        ("6.1.0-56-cloud-amd64", "debian:6.1.192-2:cloud-amd64"),
    ],
)
def test_a_kernel_of_debians_is_its_package_and_its_flavour(tmp_path: Path, release: str, spec: str) -> None:
    assert host.spec(tmp_path, release, DEBIAN) == spec


def test_a_kernel_of_ones_own_is_the_tree_that_its_modules_name(tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    put(tree / "arch/x86/kvm/x86.c")
    release = put(tree / "include/config/kernel.release", "6.18.0-mine\n")
    put(tmp_path / "lib/modules/6.18.0-mine/modules.order")
    (tmp_path / "lib/modules/6.18.0-mine/build").symlink_to(tree)
    assert host.spec(tmp_path, "6.18.0-mine", "#3 SMP") == str(tree)
    release.write_text("6.19.0-mine\n")
    with pytest.raises(
        LabError, match=rf"^host runs 6\.18\.0-mine, but {tree} has gone on to 6\.19\.0-mine$"
    ):
        host.spec(tmp_path, "6.18.0-mine", "#3 SMP")


@pytest.mark.parametrize(
    ("release", "version", "complaint"),
    [
        ("6.18.44-fc", "#1 SMP", r"^host runs 6\.18\.44-fc, .* no kernel of Debian's, and .*: name the tree"),
        ("6.1.0-56-rt-amd64", DEBIAN, r"^host runs \S+-rt-amd64: of Debian's .* cloud-amd64 and amd64$"),
    ],
)  # fmt: skip
def test_any_other_kernel_is_refused_with_what_to_do(
    tmp_path: Path, release: str, version: str, complaint: str
) -> None:
    with pytest.raises(LabError, match=complaint):
        host.spec(tmp_path, release, version)


def test_the_command_says_it_in_one_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses() -> str:
        raise LabError("host runs 6.18.44-fc")

    monkeypatch.setattr(host, "spec", refuses)
    patch = put(
        tmp_path / "a.patch", "--- a/arch/x86/kvm/x86.c\n+++ b/arch/x86/kvm/x86.c\n@@ -1 +1 @@\n-a\n+b\n"
    )
    assert main(["lab", "build", "host", "--patch", str(patch)]) == 2
    assert one_line(capsys.readouterr().err) == "kvmharness: host runs 6.18.44-fc"


def test_all_that_a_build_lacks_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_distribution(monkeypatch, "debian")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError) as complaint:
        make.check_programs({"flex": "flex"}, {"gelf.h": "libelf-dev"})
    assert str(complaint.value) == (
        "there is no make and no gcc and no ld and no setpriv and no flex and no gelf.h on this machine to "
        "build with: apt-get install make gcc binutils util-linux flex libelf-dev"
    )
