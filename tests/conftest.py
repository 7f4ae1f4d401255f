# SPDX-License-Identifier: GPL-2.0-or-later
"""Capabilities that tests need. Where one is missing the test is skipped by its name; in CI the lab
may not be missing, and then the test fails."""

import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kvmharness import host
from kvmharness.cli import bisect_step
from kvmharness.judging.session import SessionResult, settle
from kvmharness.kvm import KvmUnavailableError, System, Vm
from kvmharness.lab import kernels, play, runs
from kvmharness.lab.build.incremental_tree import Tree
from kvmharness.lab.kernels import Kernel, mirror
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.scenarios import SCENARIOS
from tests.made_up import on_host, session
from tests.made_up_bisection import SCRIPTS, STEP
from tests.made_up_builds import put_debian
from tests.made_up_kernels import put
from tests.made_up_mails import SOURCE, SOURCE_PATH
from tests.made_up_steps import play_on

# `make test` plays the same examples every time; --hypothesis-profile nightly plays many, and new ones.
# How long it takes to make one says how busy the machine is.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", untimed, derandomize=True, max_examples=100)
settings.register_profile("nightly", untimed, max_examples=20_000)
settings.load_profile("default")


# What a machine may lack though everything was installed that tests need.
_OF_THE_MACHINE = (
    *("/dev/kvm", "a second CPU", "user namespaces", "KVM_", "setting a v", "setting a VM", "a vCPU 200 ppm"),
    *("Debian mirror", "this machine's mirror", "sshd"),
)


# Lab tests that share what one of them made: kernels that were booted for all of them, builds by one name.
_SHARING = ("outcome", "built_again")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share something expensive run in one process, wherever the others run."""
    for item in items:
        if group := _group(item):
            item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item) -> str:
    assert isinstance(item, pytest.Function)
    if any(name in item.fixturenames or name in vars(item.module) for name in _SHARING):
        return "shared kernels"
    scopes = {each[-1].scope for each in item._fixtureinfo.name2fixturedefs.values()}
    return item.module.__name__ if "module" in scopes else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that is skipped for want of a tool has failed: it would pass without ever running."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2]
        if os.environ.get("CI") and not any(each in reason for each in _OF_THE_MACHINE):
            report.outcome, report.longrepr = "failed", f"not run in CI: {reason}"
    return report


@pytest.fixture
def system() -> Iterator[System]:
    """An open /dev/kvm."""
    try:
        opened = System()
    except KvmUnavailableError as error:
        pytest.skip(f"missing capability /dev/kvm: {error}")
    with opened:
        yield opened


@pytest.fixture
def vm(system: System) -> Iterator[Vm]:
    """A VM without memory or vCPUs."""
    with system.create_vm() as created:
        yield created


@pytest.fixture
def made_up_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces this host's KVM by a made-up one, with a policy."""

    def use(policy: str = "mainline-6.7") -> None:
        monkeypatch.setattr(host, "play", lambda scenarios: session(scenarios, policy, place=on_host()))

    return use


@pytest.fixture(scope="session")
def kernel() -> Callable[[str], Kernel]:
    """Finds a kernel for the lab, by its name."""
    for program in (AMD.emulator.program, "cc", "tar", "gpgv" if mirror.is_used() else "apt-get"):
        if shutil.which(program) is None:
            message = f"missing capability lab: there is no {program}"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)
    return kernels.find


@pytest.fixture(scope="session")
def outcome(kernel: Callable[[str], Kernel]) -> Callable[[str], SessionResult]:
    """What all scenarios came to on a kernel, booted once for all tests that ask."""
    known: dict[str, SessionResult] = {}

    def ask(spec: str) -> SessionResult:
        if spec not in known:
            found = kernel(spec)
            known[spec] = settle(list(SCENARIOS.values()), lambda each: play.play(found, AMD, each))
        return known[spec]

    return ask


@pytest.fixture
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kvmharness"


@pytest.fixture
def tree(cache_root: Path, tmp_path: Path) -> Tree:
    """A made-up kernel of Debian's in the cache, and the tree that its modules are built in."""
    return put_debian(tmp_path / "linux")


@pytest.fixture
def command(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A kvmharness with a made-up machine, which the scripts for git start."""
    made = put(tmp_path / "kvmharness-made-up", f"#!{sys.executable}\n{STEP}")
    made.chmod(0o755)
    monkeypatch.setenv("KVMHARNESS", str(made))
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS.parent))
    return made


@pytest.fixture
def repository(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of KVM's sources, in which this process stands."""
    monkeypatch.setattr(runs, "play_on", play_on)
    monkeypatch.setattr(bisect_step, "check_emulator", lambda machine: None)
    folder = tmp_path / "repository"
    put(folder / SOURCE_PATH, SOURCE)
    put(folder / "arch/x86/kvm/amd.c")
    monkeypatch.chdir(folder)
    return folder
