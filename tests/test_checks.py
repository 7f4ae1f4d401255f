# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own checks fail when they did not run, or when they ran and nothing came of it."""

import importlib.util
import subprocess
import sys
import threading
from collections import Counter
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from kvmharness.judging.difference import Comparison, Difference
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.lab.executor import LocalExecutor
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.runs import Played
from scripts.kernel_faults import Fault
from tests.limits import GIVE_UP_S

pytest_plugins = "pytester"

ROOT = Path(__file__).parent.parent
DIFFERENCE = Difference("old-restore", 3, "read the TSC offset", "another", "the same")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """One of our scripts, as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    loader = SourceFileLoader("script_of_ours", str(ROOT / "scripts" / request.param))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, loader.name, module)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", ["false-alarms"], indirect=True)
def test_false_alarms_are_looked_for_at_least_once(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        script.main(["--times", "0"])
    assert left.value.code == 2
    assert "0 times shows nothing" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["false-alarms"], indirect=True)
@pytest.mark.parametrize(
    ("verdicts", "failed", "status"),
    [
        ({"PASS": 90, "SKIP": 20, "INCONCLUSIVE": 5}, 0, 0),
        ({"PASS": 90, "FAIL": 1, "LOST": 1}, 1, 1),
        ({"PASS": 90}, 1, 1),
        ({"PASS": 90, "LOST": 124}, 0, 3),
        ({"PASS": 1, "INCONCLUSIVE": 105}, 0, 4),
        ({"SKIP": 124}, 0, 4),
        ({}, 0, 4),
    ],
)
def test_no_false_alarm_among_what_was_not_judged_is_no_success(
    script: ModuleType, verdicts: dict[str, int], failed: int, status: int
) -> None:
    assert script.status(Counter(verdicts), failed) == status


@pytest.mark.parametrize("script", ["kernel-faults"], indirect=True)
def test_a_fault_that_is_to_survive_has_not_survived_where_nothing_was_judged(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault("made-up", "", "first", "a", "b", survives="nobody can see it")

    def came_to(verdict: Verdict) -> bool:
        played = Played((Result("old-restore", verdict, "It goes on.", "why"),), {})
        monkeypatch.setattr(script.kernel_faults, "without_fault", lambda on: played)
        _, right = script.described(fault, played)
        assert bool(script.play_without(["amd"])) is not right
        return bool(right)

    assert came_to(Verdict.PASS)
    assert not came_to(Verdict.INCONCLUSIVE)
    assert not came_to(Verdict.LOST)


@pytest.mark.parametrize("script", ["kernel-faults"], indirect=True)
@pytest.mark.parametrize(("differences", "right"), [((), False), ((DIFFERENCE,), True)])
@pytest.mark.parametrize("differs", [True, False])
def test_a_fault_that_fails_has_to_differ_from_the_kernel_without_it_unless_the_list_says_so(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    differences: tuple[Difference, ...],
    right: bool,
    differs: bool,
) -> None:
    fault = Fault("made-up", "It goes back.", "first", "a", "b", noticed_by="old-restore", differs=differs)
    played = Played((Result("old-restore", Verdict.FAIL, "It goes on.", "why", 3),), {})
    found = Comparison(1, differences)
    monkeypatch.setattr(script.kernel_faults, "compared", lambda *_: found)
    line, went_right = script.described(fault, played)
    where = "1: old-restore, step 3" if differences else "nothing"
    assert line == f"| made-up | It goes back. | amd | FAIL | old-restore, step 3 | 1 | {where} |"
    assert went_right is (right is differs)


@pytest.mark.parametrize("script", ["kernel-faults"], indirect=True)
def test_faults_are_reported_in_their_order_and_the_next_is_built_while_they_are_played(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faults = [Fault(f"fault-{number}", "", "first", "a", "b") for number in range(4)]
    second_is_built = threading.Event()
    forgotten: list[str] = []

    def faulty(fault: Fault) -> Kernel:
        if fault.name == "fault-1":
            second_is_built.set()
        return Kernel(fault.name, "6.12", tmp_path, {})

    def play_on(kernel: Kernel, *_: object) -> Played:
        assert second_is_built.wait(GIVE_UP_S)
        return Played((), {}, notes=(kernel.spec,))

    monkeypatch.setattr(script.kernel_faults, "faulty", faulty)
    monkeypatch.setattr(script.kernel_faults, "forget", lambda kernel: forgotten.append(kernel.spec))
    monkeypatch.setattr(script.runs, "play_on", play_on)
    executor = LocalExecutor(2)
    found = [(fault.name, played.notes) for fault, played in script.played(faults, executor, named=False)]
    executor.shutdown()
    assert found == [(fault.name, (fault.name,)) for fault in faults]
    assert sorted(forgotten) == [fault.name for fault in faults]


@pytest.mark.parametrize(
    ("report", "status", "good"),
    [
        (("FAIL  debian:6.1 on amd", "PASS  debian:6.12 on amd"), 1, True),
        (("FAIL  debian:6.1 on amd", "FAIL  debian:6.12 on amd"), 1, False),
        (("Traceback (most recent call last):",), 1, False),
        (("FAIL  debian:6.1 on amd", "PASS  debian:6.12 on amd"), 0, False),
    ],
)
def test_make_run_succeeds_only_if_the_old_kernel_fails_and_the_new_one_passes(
    tmp_path: Path, report: tuple[str, ...], status: int, good: bool
) -> None:
    program = tmp_path / "kvmharness"
    lines = "".join(f"echo '{line} (6) ...'\n" for line in report)
    program.write_text(f"#!/bin/sh\n{lines}exit {status}\n")
    program.chmod(0o755)
    command = ["make", "-s", "-o", "setup", f"BIN={tmp_path}", "run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is good, done
    assert report[0] in done.stdout


def test_a_bisect_that_could_not_start_is_no_answer(tmp_path: Path) -> None:
    # The shell makes 127 of it, which git would take for bad.
    place = tmp_path / "bisect-fix"
    place.write_bytes((ROOT / "scripts" / "bisect-fix").read_bytes())
    done = subprocess.run(["sh", str(place)], capture_output=True, check=False)
    assert done.returncode == 128


def test_a_bench_of_an_unknown_name_is_no_bench() -> None:
    command = [sys.executable, "bench/run.py", "no-such"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no bench is called 'no-such': ")


SKIPPED = """
import pytest

def test_with_a_tool():
    pytest.skip("missing capability: a C compiler")

def test_with_a_device():
    pytest.skip("missing capability /dev/kvm: it does not open")

@pytest.mark.xfail(reason="known")
def test_that_is_known_to_fail():
    assert False
"""


@pytest.mark.parametrize(("ci", "skipped", "failed"), [("true", 1, 1), ("", 2, 0)])
def test_in_ci_what_was_skipped_for_want_of_a_tool_has_failed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, skipped: int, failed: int
) -> None:
    monkeypatch.setenv("CI", ci)
    hook = (ROOT / "tests" / "conftest.py").read_text()
    begin, end = hook.index("# What a machine may lack"), hook.index("@pytest.fixture\ndef system()")
    imports = "import os\nfrom collections.abc import Generator\nimport pytest\n"
    pytester.makeconftest(imports + hook[begin:end])
    pytester.makepyfile(SKIPPED)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(
        skipped=skipped, failed=failed, xfailed=1
    )
