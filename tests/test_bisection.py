# SPDX-License-Identifier: GPL-2.0-or-later
"""What git is told of a step, by the verdicts that were reached."""

import pytest

from kvmharness.judging.bisection import BAD, GOOD, SKIP, answer
from kvmharness.judging.verdict import Result, Verdict

PASS, XFAIL, FAIL = Verdict.PASS, Verdict.XFAIL, Verdict.FAIL
UNCLEAR, LOST = Verdict.INCONCLUSIVE, Verdict.LOST


def results(*verdicts: Verdict) -> list[Result]:
    return [Result(f"s{number}", each, "", "why", 4) for number, each in enumerate(verdicts)]


@pytest.mark.parametrize(
    ("verdicts", "by_name", "status", "line"),
    [
        ([PASS], True, GOOD, "good: s0 PASS"),
        ([PASS, XFAIL, Verdict.SKIP, PASS], False, GOOD, "good: 2 PASS, 1 XFAIL, 1 SKIP"),
        ([PASS, FAIL], True, BAD, "bad: s1 FAIL, step 4: why"),
        ([FAIL, UNCLEAR, FAIL, LOST], True, BAD, "bad: s0 FAIL, step 4: why And 1 more FAIL: s2"),
        ([FAIL] * 7, True, BAD, "bad: s0 FAIL, step 4: why And 6 more FAIL: s1, s2, s3, s4, s5, ..."),
        ([PASS, UNCLEAR], False, SKIP, "skip: s1 INCONCLUSIVE: why"),
        ([LOST, LOST], False, SKIP, "skip: the machine was lost: why"),
        ([PASS, Verdict.SKIP], True, SKIP, "skip: s1 SKIP: why"),
        ([Verdict.SKIP, Verdict.SKIP], False, SKIP, "skip: nothing could be judged"),
        ([], False, SKIP, "skip: nothing could be judged"),
    ],
)
def test_only_a_failure_is_bad_and_only_what_was_judged_is_good(
    verdicts: list[Verdict], by_name: bool, status: int, line: str
) -> None:
    given = answer(results(*verdicts), by_name)
    assert (given.status, given.line) == (status, line)


def test_every_verdict_has_an_answer() -> None:
    statuses = {each: answer(results(each), True).status for each in Verdict}
    assert {each for each, status in statuses.items() if status == GOOD} == {PASS, XFAIL}
    assert {each for each, status in statuses.items() if status == BAD} == {FAIL}
    assert set(statuses.values()) == {GOOD, BAD, SKIP}


def test_a_fault_that_the_probe_finds_is_not_the_one_that_is_looked_for_by_name() -> None:
    found = [Result("probe-khz", FAIL, "", "odd", 2), Result("young-restore", PASS, "")]
    assert answer(found, True).line == "good: young-restore PASS"
    assert answer(found, False).line == "bad: probe-khz FAIL, step 2: odd"
