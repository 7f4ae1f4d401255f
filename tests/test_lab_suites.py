# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of Debian's other suites, from the mirror that this machine's own apt sources name."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.lab import apt, kernels, play, suites
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machine import AMD
from kvmharness.scenarios import SCENARIOS
from kvmharness.session import settle

pytestmark = [pytest.mark.lab, pytest.mark.full]

Find = Callable[[str], Kernel]


@pytest.fixture(scope="session")
def mirror(kernel: Find) -> None:
    """A Debian mirror that answers."""
    try:
        apt.offered()
        suites._source("sid")
    except LabError as error:
        pytest.skip(f"missing capability Debian mirror: {error}")


def find(kernel: Find, spec: str) -> Kernel:
    """The kernel; a mirror may have dropped it, which is the only reason to go without."""
    try:
        return kernel(spec)
    except LabError as error:
        if re.match(r"(unknown|no) kernel", str(error)):
            pytest.skip(f"missing capability {spec} on this machine's mirror: {error}")
        raise


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize(
    ("spec", "young", "old"),
    [
        ("debian:5.10", "FAIL", "PASS"),
        ("debian:7.2", "PASS", "PASS"),
        ("debian:7.3", "PASS", "PASS"),
        ("debian:experimental", "PASS", "PASS"),
    ],
)
def test_a_kernel_of_another_suite_is_judged(kernel: Find, spec: str, young: str, old: str) -> None:
    found = find(kernel, spec)
    scenarios = [SCENARIOS["young-restore"], SCENARIOS["old-restore"]]
    outcome = settle(scenarios, lambda each: play.play(found, AMD, each))
    assert [result.verdict.value for result in outcome.results] == [young, old]


@pytest.mark.usefixtures("mirror")
def test_a_suite_and_its_kernels_version_name_the_same_kernel(kernel: Find) -> None:
    by_suite = find(kernel, "debian:bullseye")
    assert kernels.find(f"debian:{by_suite.release}").folder == by_suite.folder
    assert by_suite.release.startswith("5.10.")


@pytest.mark.usefixtures("mirror")
def test_a_suite_whose_key_is_not_here_is_refused_with_the_reason(
    cache_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "keyring.gpg"
    empty.touch()
    monkeypatch.setattr(suites, "_KEYRINGS", (empty,))
    with pytest.raises(LabError, match=r"no kernel 'debian:experimental': .*the keyrings here lack"):
        kernels.find("debian:experimental")


@pytest.mark.usefixtures("mirror")
def test_a_suite_the_mirror_lacks_is_named(cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.SUITES, "nosuch", ("nosuch",))
    with pytest.raises(LabError, match=r"no kernel 'debian:nosuch': nosuch: .* does not have a Release file"):
        kernels.find("debian:nosuch")
