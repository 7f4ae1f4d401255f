# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel may be called on the command line, and which one is meant."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kvmharness.cli.main import main
from kvmharness.lab import kernels
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import archive, packages, suites
from kvmharness.lab.kernels.packages import KernelPackage
from tests.made_up_kernels import put

# Versions and suites

PACKAGES = [
    KernelPackage("linux-image-6.1.0-9-cloud-amd64", "6.1.27-1", "6.1.0-9-cloud-amd64"),
    KernelPackage("linux-image-6.1.0-10-cloud-amd64", "6.1.38-1", "6.1.0-10-cloud-amd64"),
    KernelPackage("linux-image-6.12.9+deb12-cloud-amd64", "6.12.9-1~deb12u1", "6.12.9+deb12-cloud-amd64"),
]
Mirror = dict[str, list[KernelPackage]]


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror of this test's own: what the machine's sources ("") and each suite offer, by its name."""
    there: Mirror = {"": PACKAGES}
    monkeypatch.setattr(archive, "offered", lambda refresh=False: there[""])
    monkeypatch.setattr(suites, "offered", lambda suite, refresh=False: (there.get(suite, []), []))
    return there


@pytest.mark.parametrize(
    ("prefix", "version"),
    [
        ("6.1", "6.1.38-1"),
        ("6.12", "6.12.9-1~deb12u1"),
        ("6", "6.12.9-1~deb12u1"),
        ("6.1.27", "6.1.27-1"),
        ("6.1.0-9", "6.1.27-1"),
        ("6.12.9+deb12", "6.12.9-1~deb12u1"),
        ("6.2", None),
        ("6.1.2", None),
    ],
)
def test_a_version_means_the_newest_that_begins_with_its_parts(prefix: str, version: str | None) -> None:
    found = packages.matching(prefix, PACKAGES)
    assert (found and found.version) == version


def test_an_unknown_kernel_is_answered_with_what_there_is(mirror: Mirror) -> None:
    mirror["sid"] = [KernelPackage("linux-image-7.2.1-cloud-amd64", "7.2.1-1", "7.2.1-cloud-amd64")]
    with pytest.raises(
        LabError, match=r"unknown kernel 'debian:6\.2': .* offers debian:6\.1, debian:6\.12, debian:7\.2"
    ):
        kernels.find("debian:6.2")
    with pytest.raises(LabError, match=r"did you mean debian:6\.1\?"):
        kernels.find("6.1")
    with pytest.raises(LabError, match=r"or debian:SUITE, which is one of bullseye, .*experimental"):
        kernels.find("debian:bullsey")


def test_a_suite_that_cannot_be_asked_is_named_when_a_kernel_is_unknown(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "offered", lambda suite, refresh=False: ([], [f"{suite}: no key"]))
    with pytest.raises(LabError, match=r"unknown kernel 'debian:7\.2': .*; not asked: bullseye: no key$"):
        kernels.find("debian:7.2")
    with pytest.raises(LabError, match=r"no kernel 'debian:sid': sid: no key$"):
        kernels.find("debian:sid")


def test_the_machines_own_sources_come_before_the_other_suites(mirror: Mirror) -> None:
    newer = KernelPackage("linux-image-6.1.0-99-cloud-amd64", "6.1.99-1", "6.1.0-99-cloud-amd64")
    mirror["bookworm"] = [newer]
    assert kernels.package_of("debian:6.1") == PACKAGES[1]
    assert kernels.package_of("debian:6.1.99") == newer


def test_a_suites_name_means_the_kernel_it_installs(mirror: Mirror) -> None:
    old = KernelPackage("linux-image-5.10.0-1-cloud-amd64", "5.10.1-1", "5.10.0-1-cloud-amd64", usual=True)
    mirror["bullseye"] = [
        old,
        KernelPackage("linux-image-6.1.0-1-cloud-amd64", "6.1.1-1", "6.1.0-1-cloud-amd64"),
    ]
    assert kernels.package_of("debian:bullseye") == old


def test_a_flavour_may_be_named_and_is_that_of_the_cloud_by_itself(mirror: Mirror) -> None:
    physical = [
        KernelPackage("linux-image-6.1.0-10-amd64", "6.1.38-1", "6.1.0-10-amd64"),
        KernelPackage("linux-image-6.1.0-11-amd64", "6.1.39-1", "6.1.0-11-amd64"),
    ]
    mirror[""] = [*PACKAGES, *physical]
    mirror["sid"] = [replace(each, usual=True, suite="sid") for each in (PACKAGES[2], physical[0])]
    assert kernels.package_of("debian:6.1:amd64") == physical[1]
    assert kernels.package_of("debian:6.1.0-10:amd64") == physical[0]
    assert kernels.package_of("debian:6.1.0-10-amd64") == physical[0]
    assert kernels.package_of("debian:6.1") == kernels.package_of("debian:6.1:cloud-amd64") == PACKAGES[1]
    assert kernels.package_of("debian:sid:amd64") == mirror["sid"][1]
    assert [each.spec for each in physical] == ["debian:6.1.38-1:amd64", "debian:6.1.39-1:amd64"]
    with pytest.raises(LabError, match=r"unknown kernel 'debian:6\.12:amd64': .* offers debian:6\.1:amd64$"):
        kernels.find("debian:6.12:amd64")


@pytest.mark.parametrize("spec", ["debian:6.1:", "debian:6.1:rt-amd64", "debian:sid:amd64:x"])
def test_an_unknown_flavour_is_answered_with_those_there_are(mirror: Mirror, spec: str) -> None:
    with pytest.raises(LabError, match=f"unknown kernel '{spec}': its flavour is one of cloud-amd64, amd64$"):
        kernels.find(spec)


# What is neither


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("6.1", "unknown kernel '6.1': did you mean debian:6.1?"),
        ("v6.12.5", "unknown kernel 'v6.12.5': did you mean debian:6.12.5?"),
        ("linux-7.2", "unknown kernel 'linux-7.2': did you mean debian:7.2?"),
        (
            "trixie",
            "unknown kernel 'trixie': name it debian:VERSION, as in debian:6.1, or host",
        ),
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
    monkeypatch.setattr("kvmharness.cli.lab_options.check_emulator", lambda machine: None)
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
