# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of Debian's other suites, from the mirror that this machine's own apt sources name."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.judging.session import settle
from kvmharness.judging.verdict import Expectation, Verdict
from kvmharness.lab import kernels, play
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel, archive, suites
from kvmharness.lab.machines.catalogue import AMD, AMD_SMP, INTEL
from kvmharness.lab.machines.machine import Machine, check_emulator
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import SCENARIOS
from tests.foretold import not_foretold

pytestmark = [pytest.mark.lab, pytest.mark.full]

Find = Callable[[str], Kernel]


@pytest.fixture(scope="session")
def mirror(kernel: Find) -> None:
    """A Debian mirror that answers."""
    try:
        archive.offered()
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
@pytest.mark.parametrize("on", [AMD, AMD_SMP, INTEL], ids=lambda machine: machine.name)
@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ("debian:5.10", "mainline-before-6.7"),
        ("debian:7.2", "mainline-6.7"),
        ("debian:7.3", "mainline-6.7"),
        ("debian:experimental", "mainline-6.7"),
    ],
)
def test_a_kernel_of_another_suite_comes_to_what_the_model_foretells_of_its_policy(
    kernel: Find, spec: str, policy: str, on: Machine
) -> None:
    found = find(kernel, spec)
    try:
        check_emulator(on)
    except LabError as error:
        pytest.skip(f"missing capability {on.name}: {error}")
    outcome = settle(
        list(SCENARIOS.values()),
        lambda each: play.play(found, on, each),
        Expectation(POLICIES[policy]),
        confirm=not on.counts_instructions,
    )
    assert outcome.identity is not None
    # One CPU, or no offset attribute, cannot tell the kernels before 6.7 from the first proposal.
    assert set(outcome.identity.behaves_as) - {"like-xu-v1"} == {policy}
    odd = not_foretold(outcome, policy)
    # In real time a busy host may be too slow for a scenario, and the kernel may correct its own rate in the
    # middle of one, and then refuse what it had offered.
    in_real_time = {Verdict.INCONCLUSIVE.value, Verdict.XFAIL.value}
    assert {verdict for verdict, _ in odd.values()} <= (set() if on.counts_instructions else in_real_time), (
        odd
    )


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
