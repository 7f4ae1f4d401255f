# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin, as the project of a VMM would use it: each test here runs a pytest of its own."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.lab.kernels import Kernel
from kvmharness.recording import vmms

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
(LISTING,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/pytest.md").read_text(), re.DOTALL | re.M)
FOUR = ["debian:5.10", "debian:6.1", "debian:6.12", "debian:7.2"]

MADE_UP = """
from kvmharness import host
from tests.made_up import on_host, session
host.play = lambda scenarios: session(scenarios, {policy!r}, place=on_host())
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The folder of a project that has nothing to do with this one's settings."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    return pytester


def test_without_a_fixture_nothing_of_the_package_is_imported(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_nothing():
            ours = {each for each in sys.modules if each.startswith("kvmharness.")}
            assert ours == {"kvmharness.pytest_plugin"}
        """
    )
    project.runpytest_subprocess("--strict-markers").assert_outcomes(passed=1)


def test_a_contract_is_asserted_and_a_failure_shows_what_was_played(project: pytest.Pytester) -> None:
    project.makeconftest(MADE_UP.format(policy="mainline-before-6.7"))
    shutil.copy(vmms.FOLDER / "qemu-loadvm-old.jsonl", project.path / "our-vmm.jsonl")
    project.makepyfile(
        """
        def test_an_old_snapshot(kvm_host):
            (result,) = kvm_host.keeps("qemu-pair-old")
            assert result.kept

        def test_a_young_snapshot(kvm_host):
            kvm_host.keeps("young-restore")

        def test_its_rule(kvm_host):
            kvm_host.follows("young-restore", "mainline-before-6.7")

        def test_another_rule(kvm_host):
            kvm_host.follows("young-restore", "mainline-6.7")

        def test_a_recording(kvm_host):
            kvm_host.keeps("our-vmm.jsonl")

        def test_no_such_scenario(kvm_host):
            kvm_host.keeps("yung-restore")

        def test_what_one_asserts_oneself(kvm_host):
            assert kvm_host.run("young-restore", expect="mainline-6.7").result("young-restore").conforms
        """
    )
    found = project.runpytest_subprocess("--kvm-traces=kept")
    found.assert_outcomes(passed=3, failed=4)
    found.stdout.fnmatch_lines(
        [
            "*_ test_a_young_snapshot _*",
            "young-restore FAIL on host (/dev/kvm): step 'offset'*",
            "*- kvmharness on host (/dev/kvm) -*",
            "FAIL young-restore, *",
            "trace of young-restore on *",
            "   4  write TSC = 900 ms to vCPU 0: 1800000000 at TSC *",
            "*_ test_no_such_scenario _*",
            "unknown scenario 'yung-restore': did you mean young-restore*",
        ]
    )
    assert "kept/host.young-restore.jsonl" in {
        str(path.relative_to(project.path)) for path in project.path.rglob("*.jsonl")
    }


def test_what_a_kvm_lacks_skips_a_test_by_its_name(project: pytest.Pytester) -> None:
    project.makeconftest(MADE_UP.format(policy="tsc-protected"))
    project.makepyfile(
        """
        def test_a_young_snapshot(kvm_host):
            kvm_host.keeps("young-restore")
        """
    )
    found = project.runpytest_subprocess("-ra")
    found.assert_outcomes(skipped=1)
    found.stdout.fnmatch_lines(["SKIPPED * young-restore SKIP on host *missing capability tsc-write: *"])


def test_a_test_without_a_kernel_is_an_error_that_says_what_to_do(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(kvm_kernel):\n    kvm_kernel.keeps('young-restore')\n")
    found = project.runpytest_subprocess()
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*test_it: no kernel to play on: mark it with @pytest.mark.kvm_kernels(*"])


def test_a_test_is_made_for_each_kernel_and_each_machine(project: pytest.Pytester) -> None:
    project.makepyfile(LISTING)
    listed = project.runpytest_subprocess("--collect-only", "-q", "--kvm-machine=amd", "--kvm-machine=intel")
    name = "test_a_restored_guest_continues_from_its_saved_tsc"
    wanted = [f"{name}[{kernel}-{machine}]" for kernel in FOUR for machine in ("amd", "intel")]
    assert [line.partition("::")[2] for line in listed.outlines if "::" in line] == wanted


def test_a_vm_on_this_host_is_given_and_taken_back(project: pytest.Pytester, system: object) -> None:
    project.makepyfile("def test_it(kvm_vm):\n    assert kvm_vm.create_vcpu(0).tsc_khz() > 0\n")
    project.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.lab
def test_the_listing_holds_a_restore_on_a_kernel(
    project: pytest.Pytester, kernel: Callable[[str], Kernel]
) -> None:
    kernel("debian:6.1")
    project.makepyfile(LISTING)
    project.runpytest_subprocess("--kvm-kernel=debian:6.1").assert_outcomes(passed=1)


@pytest.mark.lab
@pytest.mark.full
def test_the_listing_holds_a_restore_on_four_kernels_in_several_processes(
    project: pytest.Pytester, kernel: Callable[[str], Kernel]
) -> None:
    for spec in FOUR:
        kernel(spec)
    project.makepyfile(LISTING + "\n\ndef test_young(kvm_kernel):\n    kvm_kernel.keeps('young-restore')\n")
    marks = [f"--kvm-kernel={spec}" for spec in FOUR]
    found = project.runpytest_subprocess("-n2", *marks)
    found.assert_outcomes(passed=6, failed=2)
    found.stdout.fnmatch_lines(["*- kvmharness on debian:* (amd) -*", "trace of young-restore on *"])
