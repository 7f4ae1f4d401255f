# SPDX-License-Identifier: GPL-2.0-or-later
"""Bisections in which another fault takes part: bad is the same failure as at the bad end."""

import json
from pathlib import Path

import pytest

from kvmharness.judging.bisection import BAD, GIVE_UP, GOOD, SKIP, BisectAnswer, Failure, unless_another
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.lab import bisection, runs
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.patches.commits import Repository
from kvmharness.lab.runs import Played
from kvmharness.scenarios import Scenario
from tests.command_line import Capture, one_line, status_of
from tests.made_up_bisection import commits, run_step
from tests.made_up_builds import SPEC, needs_a_compiler
from tests.made_up_history import git
from tests.made_up_kernels import put
from tests.made_up_mails import SOURCE, SOURCE_PATH

pytestmark = needs_a_compiler


def fail(scenario: str, kind: str = "set-msrs", explained: tuple[str, ...] = ()) -> Result:
    return Result(scenario, Verdict.FAIL, "", "why", 4, kind=kind, consistent_with=explained)


@pytest.mark.parametrize(
    ("here", "same"),
    [
        ([fail("a"), fail("b")], True),
        ([fail("a"), fail("other", "run")], True),
        ([fail("a", "run"), fail("b", "run")], False),
        ([fail("c")], False),
        ([fail("a", explained=("mainline-6.7",)), fail("b", explained=("mainline-6.7",))], False),
        ([Result("a", Verdict.PASS, ""), Result("b", Verdict.PASS, ""), fail("c")], False),
    ],
)
def test_it_is_the_same_failure_if_half_of_it_comes_in_the_same_way(here: list[Result], same: bool) -> None:
    known = [Failure.of(fail("a")), Failure.of(fail("b"))]
    found = unless_another(BisectAnswer(BAD, "why"), here, known)
    assert found.status == (BAD if same else SKIP)
    assert found.reason.startswith("why" if same else "another failure than at the bad end (a, step 4)")


def test_what_is_known_of_a_failure_outlives_a_process(tmp_path: Path) -> None:
    known = [Failure.of(fail("a", explained=("x", "y")))]
    findings = bisection.Findings("search", True, known, {"c": "hash"})
    bisection.save(tmp_path / "file", findings)
    assert bisection.load(tmp_path / "file", "search") == findings
    assert bisection.load(tmp_path / "file", "another") == bisection.Findings("another")


@pytest.mark.usefixtures("command")
def test_git_finds_the_commit_though_another_fault_fills_half_of_the_history(repository: Path) -> None:
    names = commits(repository, "one", "stuck", "stuck", "stuck", "two", "three", "frozen", "frozen")
    git(repository, "bisect", "start", names[7], names[0])
    done = run_step(repository, "bisect-fault", "--scenario", "young-restore")
    assert f"{names[6]} is the first bad commit" in done.stdout, done.stdout + done.stderr
    assert "kvmharness: at the bad end" in done.stderr
    assert "skip: another failure than at the bad end (young-restore, step 3): " in done.stdout


@pytest.mark.usefixtures("command")
def test_what_another_fault_hides_is_left_open_and_not_called_bad(repository: Path) -> None:
    names = commits(repository, "one", "two", "stuck", "stuck", "frozen", "frozen")
    git(repository, "bisect", "start", names[5], names[0])
    done = run_step(repository, "bisect-fault", "--scenario", "young-restore")
    assert "is the first bad commit" not in done.stdout
    assert names[4] in done.stdout[done.stdout.index("only 'skip'ped commits left") :]


@pytest.mark.usefixtures("command")
def test_the_commit_that_mended_it_is_found_past_another_fault(repository: Path) -> None:
    names = commits(repository, "frozen", "frozen", "mended", "four", "stuck", "five")
    git(repository, "bisect", "start", "--term-old=broken", "--term-new=mended", names[5], names[0])
    done = run_step(repository, "bisect-fix", "--scenario", "young-restore")
    assert f"{names[2]} is the first mended commit" in done.stdout, done.stdout + done.stderr


@pytest.mark.usefixtures("command")
def test_a_bad_end_that_does_not_fail_ends_the_search_before_anything_is_marked(repository: Path) -> None:
    names = commits(repository, "one", "two", "three", "four")
    git(repository, "bisect", "start", names[3], names[0])
    before = git(repository, "for-each-ref", "refs/bisect")
    done = run_step(repository, "bisect-fault", "--scenario", "young-restore")
    assert f"{names[3][:12]}, which is marked as bad, does not fail" in done.stderr
    assert git(repository, "for-each-ref", "refs/bisect") == before


def test_without_a_search_the_first_failure_counts_and_a_file_keeps_it(
    repository: Path, tmp_path: Path, capsys: Capture
) -> None:
    def step(said: str) -> tuple[int, str]:
        put(repository / SOURCE_PATH, f"{SOURCE}/* {said} */\n")
        asked = ("--kernel", SPEC, "--offline", "--scenario", "young-restore", "--failure", str(kept))
        return status_of("bisect-step", *asked), one_line(capsys.readouterr().out)

    kept = tmp_path / "failure.json"
    assert step("love")[0] == GOOD
    first = "bad: young-restore FAIL, step 3: so it is"
    assert step("frozen") == (BAD, f"{first} (from here on this failure alone is bad)")
    assert step("frozen again") == (BAD, first)
    assert step("stuck")[0] == SKIP
    kept.write_text("{")
    asked = ("--kernel", SPEC, "--offline", "--failure", str(kept))
    assert status_of("bisect-step", *asked) == GIVE_UP
    assert "failure.json was damaged" in one_line(capsys.readouterr().err)


def test_a_culprit_whose_modules_are_its_parents_is_doubted(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    names = commits(repository, "one", "two", "three", path="arch/x86/kvm/amd.c")
    git(repository, "bisect", "start", names[2], names[0])
    git(repository, "checkout", "--quiet", names[1])

    def moody(kernel: Kernel, machine: object, scenarios: list[Scenario], expectation: object) -> Played:
        return Played(tuple(fail(each.name) for each in scenarios), {})

    monkeypatch.setattr(runs, "play_on", moody)
    assert status_of("bisect-step", "--kernel", SPEC, "--offline", "--scenario", "young-restore") == BAD
    line = one_line(capsys.readouterr().out)
    assert f"DOUBTFUL: git will name {names[1][:12]}, but its modules are its parent's, byte for byte" in line
    kept = json.loads((repository / ".git" / bisection.NAME).read_text())
    assert (kept["modules"].keys(), len({*kept["modules"].values()})) == ({*names}, 1)


def test_a_culprit_is_known_when_one_commit_is_left(repository: Path) -> None:
    names = commits(repository, "one", "two", "three", "four")
    git(repository, "bisect", "start", names[3], names[0])
    search = bisection.Search(Repository(repository))
    assert search.failing_end == names[3]
    assert search.culprit(names[1], fails=True) == names[1]
    assert not search.culprit(names[1], fails=False)
    assert search.culprit(names[2], fails=False) == names[3]
    assert search.parent(names[3]) == names[2]
    git(repository, "bisect", "reset")
    git(repository, "bisect", "start", "--term-old=broken", "--term-new=mended", names[3], names[0])
    search = bisection.Search(Repository(repository), fix=True)
    assert search.failing_end == names[0]
    assert search.culprit(names[1], fails=False) == names[1]
    assert search.culprit(names[2], fails=True) == names[3]
