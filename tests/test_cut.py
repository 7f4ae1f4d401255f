# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces that were cut off are told from those that a player ended early."""

import dataclasses

import pytest

from kvmharness.judging.cut import why_cut
from kvmharness.judging.judge import judge_scenario
from kvmharness.judging.kvm import seen
from kvmharness.judging.verdict import Verdict
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Trace
from tests.made_up import play, probe


def ending(trace: Trace, length: int, error: str = "", at: int = -1) -> Trace:
    """The trace's first steps; with an error, the one at `at` failed."""
    events = list(trace.events[:length])
    if error:
        events[at] = dataclasses.replace(events[at], error=error, values=(), exits=())
    return dataclasses.replace(trace, events=tuple(events))


def of(name: str) -> Trace:
    return play(name, SCENARIOS[name].script, host=SCENARIOS[name].host)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_no_trace_of_a_player_passes_for_cut_off_and_every_beginning_of_one_does(name: str) -> None:
    whole = of(name)
    script = SCENARIOS[name].script
    assert why_cut(whole, script) == ""
    for length in range(len(script)):
        assert "though the next one could have been played" in why_cut(ending(whole, length), script)


def test_a_player_ends_where_the_vcpu_it_needs_could_not_be_created() -> None:
    script = SCENARIOS["young-restore"].script
    created = next(place for place, each in enumerate(script) if each.creates_vcpu)
    assert why_cut(ending(of("young-restore"), created + 1, "ENOMEM"), script) == ""


def test_a_player_ends_where_the_value_to_write_was_not_read() -> None:
    # Counted from 0, steps 1 and 4 read what steps 3 and 5 write.
    scenario = SCENARIOS["offset-then-write"]
    whole = of(scenario.name)

    def ends_after(refused: int) -> list[int]:
        return [
            length
            for length in range(refused + 1, len(scenario.script))
            if not why_cut(ending(whole, length, "EINVAL", refused), scenario.script)
        ]

    assert [ends_after(step) for step in range(1, 8)] == [[3], [], [], [5], [], [], []]


def test_a_trace_that_was_cut_off_after_a_refused_reading_keeps_no_verdict() -> None:
    # Before 5.16 the offset attribute is EINVAL. That does not keep the player from what comes after it.
    scenario = SCENARIOS["young-restore"]
    played = play(scenario.name, scenario.script, attribute_errno="EINVAL")
    kvm = seen(probe(attribute_errno="EINVAL"))
    refused = next(place for place, each in enumerate(played.events) if each.error)
    assert judge_scenario(scenario, played, kvm).verdict is Verdict.PASS
    for length in range(refused + 1, len(played.events)):
        cut = dataclasses.replace(played, events=played.events[:length])
        assert judge_scenario(scenario, cut, kvm).verdict is Verdict.INCONCLUSIVE
