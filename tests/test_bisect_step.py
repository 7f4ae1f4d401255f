# SPDX-License-Identifier: GPL-2.0-or-later
"""`bisect-step`: what git is told of a step, with a make and machines that are made up."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kvmharness import host
from kvmharness.cli import bisect_step
from kvmharness.judging.bisection import BAD, GIVE_UP, GOOD, SKIP
from kvmharness.kvm import KvmUnavailableError
from kvmharness.lab import cache, runs
from kvmharness.lab.build.incremental_tree import Tree
from kvmharness.lab.errors import LabError
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.runs import Played
from kvmharness.scenarios import Scenario
from tests.command_line import Capture, one_line, status_of
from tests.made_up_bisection import commits, run_step
from tests.made_up_builds import SPEC, needs_a_compiler
from tests.made_up_history import git
from tests.made_up_kernels import put
from tests.made_up_mails import SOURCE, SOURCE_PATH

# A step, built by a made-up make and played by a made-up machine


def step(*arguments: str) -> int:
    return status_of("bisect-step", "--kernel", SPEC, "--offline", "--scenario", "young-restore", *arguments)


@needs_a_compiler
@pytest.mark.parametrize(
    ("said", "status", "line"),
    [
        ("love", GOOD, "good: young-restore PASS"),
        ("frozen", BAD, "bad: young-restore FAIL, step 3: so it is"),
        ("panics", SKIP, "skip: the machine was lost: so it is"),
        ("crashes", SKIP, "skip: the machine was lost: so it is"),
        ("hate", SKIP, f"skip: {SPEC} does not build with this: arch/x86/kvm/clock.c:3: expected love"),
    ],
)
def test_a_step_is_good_bad_or_skipped(
    repository: Path, capsys: Capture, said: str, status: int, line: str
) -> None:
    put(repository / SOURCE_PATH, f"{SOURCE}/* {said} */\n")
    assert step() == status
    assert one_line(capsys.readouterr().out).startswith(line)


@needs_a_compiler
def test_what_the_compiler_says_is_on_stderr_and_the_log_is_named(
    repository: Path, tree: Tree, capsys: Capture
) -> None:
    put(repository / SOURCE_PATH, f"{SOURCE}/* hate */\n")
    assert step() == SKIP
    said = capsys.readouterr()
    assert "    hate" in said.err.splitlines()
    assert f"(the whole log: {tree.log})" in said.out


@needs_a_compiler
def test_the_next_step_compiles_only_what_differs_and_what_is_gone_is_gone(
    repository: Path, tree: Tree
) -> None:
    def compiled() -> list[str]:
        return sorted(line.split()[-1] for line in tree.log.read_text().splitlines() if "CC [M]" in line)

    other = put(repository / "arch/x86/kvm/other.h", "once\n")
    assert step() == GOOD
    assert len(compiled()) == 2
    put(repository / SOURCE_PATH, f"{SOURCE}/* frozen */\n")
    other.unlink()
    assert step() == BAD
    assert compiled() == [SOURCE_PATH]
    assert not (tree.source / "arch/x86/kvm/other.h").exists()
    assert step("--tree", str(repository)) == BAD
    assert compiled() == []


@needs_a_compiler
def test_a_file_of_kvms_that_a_step_lacks_is_not_the_distributions_either(
    repository: Path, tree: Tree
) -> None:
    put(tree.source / "arch/x86/kvm/theirs.h", "theirs\n")
    put(tree.source / "virt/kvm/theirs.h", "theirs\n")
    put(tree.source / "include/linux/theirs.h", "theirs\n")
    assert step() == GOOD
    there = [(tree.source / folder / "theirs.h").exists() for folder in ("arch/x86/kvm", "virt/kvm")]
    assert (there, (tree.source / "include/linux/theirs.h").exists()) == ([False, True], True)


@needs_a_compiler
def test_of_a_whole_kernels_headers_only_kvms_are_taken(repository: Path, tree: Tree) -> None:
    for name in ("Kconfig", "include/linux/kvm_host.h", "include/linux/sched.h"):
        put(repository / name, "new\n")
    assert step() == GOOD
    taken = [(tree.source / "include/linux" / name).exists() for name in ("kvm_host.h", "sched.h")]
    assert taken == [True, False]


def test_a_kernel_without_the_machines_module_is_skipped(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def lacks(*_: object) -> Played:
        raise LabError("it has no module kvm_amd")

    monkeypatch.setattr(runs, "play_on", lacks)
    assert step() == SKIP
    assert one_line(capsys.readouterr().out) == "skip: it has no module kvm_amd"


# What would be wrong at every step


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--scenario", "no-such"], "unknown scenario 'no-such'"),
        (["--expect", "no-such"], "unknown policy 'no-such'"),
        (["--policy-file", "/no/such"], "cannot read /no/such"),
        (["--machine", "no-such"], "unknown machine 'no-such'"),
        (["--kernel", "debian:99"], "debian:99 is not in the cache"),
        (["--tree", "/no/such"], "/no/such has no source of KVM"),
        (["--judge", "luck"], "invalid choice: 'luck'"),
        (["--no-such"], "unrecognized arguments: --no-such"),
        (["--host"], "--host judges the running kernel and cannot be combined with --kernel"),
    ],
)
def test_git_gives_up_where_every_step_would_meet_it(
    repository: Path, capsys: Capture, arguments: list[str], reason: str
) -> None:
    assert step(*arguments) == GIVE_UP
    said = capsys.readouterr()
    assert reason in one_line(said.err)
    assert said.out == ""


def test_git_gives_up_without_an_emulator_or_a_kernel_to_build_for(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert status_of("bisect-step") == GIVE_UP
    assert "holds only KVM: name the kernel to build it for" in one_line(capsys.readouterr().err)

    def lacks(machine: Machine) -> None:
        raise LabError("machine amd needs qemu-system-x86_64")

    monkeypatch.setattr(bisect_step, "check_emulator", lacks)
    assert step() == GIVE_UP
    assert "needs qemu" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("debugging", ["", "1"])
@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), ZeroDivisionError("what")])
def test_a_fault_of_the_harness_is_no_answer(
    repository: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, debugging: str
) -> None:
    def fails(*_: object) -> Played:
        raise trouble

    monkeypatch.setattr(runs, "play_on", fails)
    monkeypatch.setenv("KVMHARNESS_DEBUG", debugging)
    assert step() == GIVE_UP


@needs_a_compiler
def test_git_gives_up_when_the_disk_is_full_whatever_the_compiler_says(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    put(repository / SOURCE_PATH, f"{SOURCE}/* hate */\n")
    monkeypatch.setattr(cache, "is_full", lambda folder: True)
    assert step() == GIVE_UP
    assert "does not build" in one_line(capsys.readouterr().err)


# The kernel that runs here


def test_the_running_kernel_is_judged_and_nothing_is_built(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("mainline-before-6.7")
    asked = ("bisect-step", "--host", "--scenario", "young-restore")
    assert status_of(*asked) == BAD
    assert one_line(capsys.readouterr().out).startswith("bad: young-restore FAIL, step 5: ")
    assert status_of(*asked, "--expect", "mainline-before-6.7") == GOOD
    assert status_of(*asked, "--expect", "mainline-before-6.7", "--judge", "contract") == BAD


def test_a_kernel_that_ignores_writes_is_good_only_for_who_expects_it(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("tsc-protected")
    assert status_of("bisect-step", "--host") == SKIP
    assert one_line(capsys.readouterr().out) == "skip: this KVM ignores writes of MSR_IA32_TSC"
    assert status_of("bisect-step", "--host", "--expect", "tsc-protected") == GOOD
    assert status_of("bisect-step", "--host", "--scenario", "protected-write") == GOOD


@pytest.mark.parametrize(("number", "status"), [(2, SKIP), (13, GIVE_UP)])
def test_a_kernel_whose_kvm_is_not_there_is_skipped_but_not_one_that_may_not_be_used(
    monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def unavailable(scenarios: Sequence[Scenario]) -> None:
        raise KvmUnavailableError(number, os.strerror(number))

    monkeypatch.setattr(host, "play", unavailable)
    assert status_of("bisect-step", "--host") == status


# git


@pytest.fixture
def history(repository: Path, command: Path) -> list[str]:
    """Ten commits: one that panics, two that do not build, one that freezes the clock, one that mends it."""
    said = ["one", "two", "panics", "three", "frozen", "frozen ones", "frozen hate", "frozen", "four", "hate"]
    return commits(repository, *said)


@needs_a_compiler
def test_git_finds_the_commit_that_broke_it_and_the_one_that_mended_it(
    repository: Path, history: list[str]
) -> None:
    git(repository, "bisect", "start", history[7], history[0])
    done = run_step(repository, "bisect-fault")
    assert f"{history[4]} is the first bad commit" in done.stdout, done.stderr
    git(repository, "bisect", "reset")
    git(repository, "bisect", "start", "--term-old=broken", "--term-new=mended", history[8], history[5])
    done = run_step(repository, "bisect-fix")
    assert f"{history[8]} is the first mended commit" in done.stdout, done.stderr


@needs_a_compiler
def test_git_marks_nothing_where_the_harness_cannot_answer(
    repository: Path, history: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def marked() -> list[str]:
        return git(repository, "for-each-ref", "--format=%(refname)", "refs/bisect").split()

    git(repository, "bisect", "start", history[7], history[0])
    before = marked()
    assert run_step(repository, "bisect-fault", "--scenario", "no-such").returncode != 0
    broken = put(tmp_path / "broken", f"#!{sys.executable}\nimport no_such_module\n")
    broken.chmod(0o755)
    monkeypatch.setenv("KVMHARNESS", str(broken))
    assert run_step(repository, "bisect-fault").returncode != 0
    assert marked() == before
