# SPDX-License-Identifier: GPL-2.0-or-later
"""One verdict of several attempts at the same script, in one place. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from kvmharness.judging.verdict import JUDGED, Result, Verdict


def is_decided(results: Sequence[Result], *, confirm: bool) -> bool:
    """Whether no further attempt is needed: the last one says something, and is no FAIL to be confirmed."""
    last = results[-1]
    if last.verdict is Verdict.INCONCLUSIVE:
        return False
    return not confirm or last.verdict is not Verdict.FAIL or _is_confirmed(results)


def decide(results: Sequence[Result], *, confirm: bool) -> tuple[int, Result]:
    """Which attempt the verdict rests on, and the verdict.

    The last attempt's counts. With `confirm` a FAIL is one only if another attempt failed in the same way
    (Result.is_same_failure()). Else it is INCONCLUSIVE, with the results of the other attempts, and rests on
    the attempt that failed first.
    """
    place = len(results) - 1
    failed = [number for number, each in enumerate(results) if each.verdict is Verdict.FAIL]
    if not confirm and failed:
        return failed[-1], results[failed[-1]]
    if not failed or (failed[-1] == place and _is_confirmed(results)):
        return place, results[place]
    return failed[0], _not_confirmed(results[failed[0]], results[failed[0] + 1 :])


def _is_confirmed(results: Sequence[Result]) -> bool:
    return any(results[-1].is_same_failure(each) for each in results[:-1])


def _not_confirmed(first: Result, later: Sequence[Result]) -> Result:
    """The failure that did not come again, and what came instead of it."""
    instead = "; ".join(filter(None, map(_in_words, later)))
    again = f" ({instead})" if instead else ""
    ended = "did not fail again" if later else "could not be played again"
    reason = f"it failed once and {ended}{again}: {first.reason}"
    return replace(first, verdict=Verdict.INCONCLUSIVE, reason=reason)


def _in_words(result: Result) -> str:
    """The result of another attempt, where that was neither a PASS nor an XFAIL."""
    if result.verdict is Verdict.FAIL:
        return f"played again, it failed otherwise, at step {result.step}: {result.reason}"
    judged = result.verdict in JUDGED
    return "" if judged else f"played again, it was {result.verdict.value}: {result.reason}"
