# SPDX-License-Identifier: GPL-2.0-or-later
"""What several attempts at one script come to, where no two runs are the same."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from kvmharness.judging.decision import decide, is_decided
from kvmharness.judging.session import Session, SessionResult, settle
from kvmharness.judging.verdict import Result, Verdict, exit_status
from kvmharness.scenarios import SCENARIOS, Scenario
from tests.made_up import session, with_step

YOUNG = SCENARIOS["young-restore"]

PASSED = Result("s", Verdict.PASS, "")
SKIPPED = Result("s", Verdict.SKIP, "", "there is no attribute")
OPEN = Result("s", Verdict.INCONCLUSIVE, "", "too wide")
KNOWN = Result(
    *("s", Verdict.FAIL, "", "it snapped", 4),
    kind="set_msrs",
    conforms=False,
    consistent_with=("mainline-before-6.7", "like-xu-v1"),
)
KNOWN_LESS = dataclasses.replace(KNOWN, consistent_with=("like-xu-v1",), step=5)
OTHER_POLICY = dataclasses.replace(KNOWN, consistent_with=("oliver-upton",))
ODD = dataclasses.replace(KNOWN, consistent_with=(), reason="it is odd")
ODD_READING = dataclasses.replace(ODD, kind="get_msrs", reason="it reads odd", step=7)

# The attempts, then the verdict and the attempt it rests on.
CASES = {
    "passes": ((PASSED,), Verdict.PASS, 0),
    "is judged when played again": ((OPEN, PASSED), Verdict.PASS, 1),
    "stays open": ((OPEN, OPEN, OPEN), Verdict.INCONCLUSIVE, 2),
    "fails twice alike": ((KNOWN, KNOWN), Verdict.FAIL, 1),
    "fails twice, with fewer policies to explain it": ((KNOWN, KNOWN_LESS), Verdict.FAIL, 1),
    "fails twice, no policy explains it": ((ODD, ODD), Verdict.FAIL, 1),
    "fails once": ((KNOWN, PASSED), Verdict.INCONCLUSIVE, 0),
    "fails once, and its machine is lost": ((KNOWN,), Verdict.INCONCLUSIVE, 0),
    "fails once, then is skipped": ((ODD, SKIPPED), Verdict.INCONCLUSIVE, 0),
    "fails, is open, fails": ((ODD, OPEN, ODD), Verdict.FAIL, 2),
    "fails as two policies would": ((KNOWN, OTHER_POLICY, PASSED), Verdict.INCONCLUSIVE, 0),
    "fails in two steps": ((ODD, ODD_READING, PASSED), Verdict.INCONCLUSIVE, 0),
    "fails in two steps, then again": ((ODD, ODD_READING, ODD), Verdict.FAIL, 2),
}


@pytest.mark.parametrize(("attempts", "verdict", "place"), CASES.values(), ids=CASES)
def test_in_real_time_a_script_that(attempts: tuple[Result, ...], verdict: Verdict, place: int) -> None:
    where, found = decide(attempts, confirm=True)
    assert (where, found.verdict) == (place, verdict)


@pytest.mark.parametrize("failed", [KNOWN, ODD])
def test_a_failure_is_played_again_until_it_is_confirmed(failed: Result) -> None:
    assert not is_decided([failed], confirm=True)
    assert is_decided([failed, failed], confirm=True)
    assert is_decided([failed], confirm=False)
    assert not is_decided([KNOWN, ODD], confirm=True)


def test_a_failure_that_did_not_come_again_says_what_came_instead() -> None:
    assert decide([ODD, PASSED], confirm=True)[1].reason == (
        "it failed once and did not fail again: it is odd"
    )
    assert decide([ODD, SKIPPED], confirm=True)[1].reason == (
        "it failed once and did not fail again (played again, it was SKIP: there is no attribute): it is odd"
    )
    said = decide([ODD, ODD_READING, OPEN], confirm=True)[1].reason
    assert "(played again, it failed otherwise, at step 7: it reads odd; " in said
    assert "played again, it was INCONCLUSIVE: too wide): it is odd" in said


def with_probes(*odd: bool) -> tuple[list[int], Callable[[Sequence[Scenario]], Session]]:
    """How many scenarios were played each time, and a player whose nth probe reads a rate that is none."""
    played: list[int] = []

    def play(wanted: Sequence[Scenario]) -> Session:
        made = session(wanted)
        probe = with_step(made.probe, "host-khz", values=(7,)) if odd[len(played)] else made.probe
        played.append(len(wanted))
        return Session(probe, made.traces)

    return played, play


def verdicts(outcome: SessionResult) -> dict[str, Verdict]:
    return {each.scenario: each.verdict for each in outcome.results}


def test_what_the_probe_finds_once_in_real_time_has_to_come_again() -> None:
    played, play = with_probes(True, False)
    outcome = settle([YOUNG], play, confirm=True)
    assert played == [1, 0]
    assert verdicts(outcome) == {"probe-khz": Verdict.INCONCLUSIVE, "young-restore": Verdict.PASS}
    # And does not make the kernel one that no policy explains.
    assert outcome.identity
    assert "mainline-6.7" in outcome.identity.behaves_as
    assert exit_status(outcome.results) == 0


@pytest.mark.parametrize("confirm", [True, False])
def test_what_the_probe_finds_every_time_is_a_failure(confirm: bool) -> None:
    played, play = with_probes(True, True)
    outcome = settle([YOUNG], play, confirm=confirm)
    assert played == ([1, 0] if confirm else [1])
    assert verdicts(outcome) == {"probe-khz": Verdict.FAIL, "young-restore": Verdict.PASS}
    assert outcome.sessions.keys() == {"young-restore"}
