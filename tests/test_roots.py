# SPDX-License-Identifier: GPL-2.0-or-later
"""A stranger's first quarter of an hour: from bare systems to the two verdicts, by one command."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmharness.lab.kernels import mirror
from tests.roots import USER, Root, debian

pytestmark = [pytest.mark.lab, pytest.mark.full]

VERDICTS = ("FAIL  debian:6.1 on amd ", "PASS  debian:6.12 on amd ")
# What apt and dpkg are, as far as a program could start them.
_REMOVE = "rm -f /usr/bin/apt* /usr/bin/dpkg* /usr/lib/apt/apt-helper"


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """A bare Debian 12 (Python 3.11) or 13 (3.13), with a user, that has nothing but make."""
    folder = tmp_path_factory.mktemp("roots")
    made = debian(request.param, folder)
    made.install("make")
    made.said(f"useradd --create-home {USER}")
    yield made
    shutil.rmtree(made.path)


def has_both_verdicts(report: str) -> bool:
    """Whether a report says of both kernels what it has to."""
    return all(any(line.startswith(each) for line in report.splitlines()) for each in VERDICTS)


def test_a_user_without_qemu_is_told_what_to_install_in_one_line(root: Root) -> None:
    root.put_checkout(USER)
    done = root.run("cd kvmharness && make -s run", USER)
    assert done.returncode == 2
    first = done.stderr.splitlines()[0]
    assert first.startswith("kvmharness needs more of this machine: ")
    assert "qemu-system-x86" in first


def test_root_comes_from_nothing_to_the_two_verdicts_without_developers_tools(root: Root) -> None:
    root.put_checkout()
    assert has_both_verdicts(root.said("cd kvmharness && make -s run"))
    there = root.said("ls kvmharness/.venv/bin").split()
    assert not {"mypy", "ruff", "pytest"} & {*there}


def test_a_user_who_has_qemu_comes_to_the_two_verdicts(root: Root) -> None:
    assert has_both_verdicts(root.said("cd kvmharness && make -s run", USER))


def test_without_apt_and_dpkg_kernels_come_from_the_mirror_that_is_named(root: Root) -> None:
    root.install("gpgv")
    root.said(_REMOVE)
    root.said("rm -r /root/.cache/kvmharness; mv /etc/apt/sources.list* /root")
    done = root.run("cd kvmharness && make -s run")
    assert "set KVMHARNESS_DEBIAN_MIRROR to a mirror's URL" in done.stderr
    report = root.said("cd kvmharness && make -s run", KVMHARNESS_DEBIAN_MIRROR=" ".join(mirror.of_sources()))
    assert has_both_verdicts(report)


def test_ci_passes_on_debian_13(tmp_path: Path) -> None:
    root = debian("trixie", tmp_path)
    root.put_checkout()
    root.install("git")
    assert "passed" in root.said("bash kvmharness/.ci/run").splitlines()[-1]
    shutil.rmtree(root.path)
