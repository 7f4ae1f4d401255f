# SPDX-License-Identifier: GPL-2.0-or-later
"""What is missing is reported with the words of the machine's own distribution."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvmharness.lab import distribution
from kvmharness.lab.distribution import install
from kvmharness.lab.errors import LabError
from kvmharness.lab.machines import machine
from kvmharness.lab.machines.catalogue import AMD, INTEL
from tests.made_up_distribution import on_distribution
from tests.made_up_kernels import put

WANTED = ("qemu-system-x86", "libc6-dev", "util-linux")


@pytest.mark.parametrize(
    ("release", "command"),
    [
        (["debian"], "apt-get install qemu-system-x86 libc6-dev util-linux"),
        (["linuxmint", "ubuntu", "debian"], "apt-get install qemu-system-x86 libc6-dev util-linux"),
        (["fedora"], "dnf install qemu-system-x86 glibc-devel glibc-static util-linux"),
        (["rocky", "rhel", "centos", "fedora"], "dnf install qemu-kvm glibc-devel glibc-static util-linux"),
        (["arch"], "pacman -S --needed qemu-system-x86 glibc util-linux"),
        (
            ["opensuse-leap", "suse", "opensuse"],
            "zypper install qemu-x86 glibc-devel glibc-devel-static util-linux",
        ),
        (["plan9"], "install what Debian calls qemu-system-x86 libc6-dev util-linux"),
    ],
)
def test_each_distribution_has_its_own_command_and_names(
    release: list[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_distribution(monkeypatch, *release)
    assert install(*WANTED) == command


def test_a_package_that_others_do_not_have_is_left_out_and_none_is_named_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_distribution(monkeypatch, "arch")
    assert install("python3", "python3-dev", "bochs", "bochs-sdl") == "pacman -S --needed python bochs"


def test_a_machine_without_os_release_gets_debians_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr(platform, "freedesktop_os_release", none)
    assert install("gcc") == "install what Debian calls gcc"


def test_the_file_works_by_itself_before_anything_is_installed() -> None:
    path = str(Path(distribution.__file__))
    command = [sys.executable, "-I", "-S", path, "gcc"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.endswith(" gcc\n")


@pytest.mark.parametrize(
    ("on", "name"), [(AMD, "qemu-system-x86_64"), (AMD, "qemu-kvm"), (INTEL, "bochs"), (INTEL, "bochs-bin")]
)
def test_an_emulator_is_found_by_whichever_name_it_has(
    on: machine.Machine, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in (name, "setpriv"):
        put(tmp_path / "bin" / program, "#!/bin/sh\n").chmod(0o755)
    put(tmp_path / "lib64/bochs/plugins/libbx_sdl2_gui.so")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    machine.check_emulator(on)
    assert on.emulator.program == name


def test_a_missing_emulator_is_reported_in_the_distributions_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_distribution(monkeypatch, "fedora")
    put(tmp_path / "setpriv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"machine intel needs bochs: dnf install bochs$"):
        machine.check_emulator(INTEL)


@pytest.mark.parametrize(
    ("what", "lacking"),
    [
        ("run", ("gcc", "libc6-dev", "qemu-system-x86", "binutils", "util-linux")),
        ("host", ("gcc", "libc6-dev")),
    ],
)
def test_setup_without_apt_says_in_one_line_what_installs_all_that_is_missing(
    tmp_path: Path, what: str, lacking: tuple[str, ...]
) -> None:
    root = Path(__file__).parent.parent
    for name in ("scripts/setup", "kvmharness/lab/distribution.py"):
        put(tmp_path / name, (root / name).read_text())
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "dirname", "id"):
        (programs / name).symlink_to(shutil.which(name) or "")
    (programs / "python3").symlink_to(sys.executable)
    done = subprocess.run(
        ["bash", str(tmp_path / "scripts/setup"), what],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("kvmharness needs more of this machine: ")
    assert line.endswith(install(*lacking).partition("gcc")[2])
    assert not (tmp_path / ".venv").exists()
