# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of one vCPU that nothing has set in between are on one line."""

from dataclasses import replace

import pytest

from kvmharness.contract import EntitledClaim
from kvmharness.contract.entitled import ENTITLEMENTS, breaches
from kvmharness.guests.layout import kvmclock_address
from kvmharness.model.policies import POLICIES
from kvmharness.reproduce import CannotExpressError, plain
from kvmharness.reproduce.oracle import with_claims
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.script import CreateVcpu, Operation, ReadKvmclock, Run, Script, SetClock, SetMsrs, Sleep, Time
from kvmharness.trace import Trace
from tests.made_up import play

SECOND = 1_000_000_000
MAINLINE = POLICIES["mainline-6.7"]


def page_on(address: int = kvmclock_address(0)) -> SetMsrs:
    return SetMsrs(vcpu=0, msrs=(("SYSTEM_TIME", address + 1),), label="on")


def look(label: str) -> Script:
    return Run(vcpu=0, label=f"run-{label}"), ReadKvmclock(vcpu=0, label=label)


def twice(*between: Operation, on: SetMsrs | None = None) -> Script:
    return (CreateVcpu(vcpu=0, label="create"), on or page_on(), *look("one"), *between, *look("two"))


def later_by(trace: Trace, ns: int) -> Trace:
    """The trace with the second page's time that much later."""
    events = [
        replace(each, values=(*each.values[:2], each.values[2] + ns, *each.values[3:]))
        if each.operation.label == "two"
        else each
        for each in trace.events
    ]
    return replace(trace, events=tuple(events))


def lines_left(script: Script, ns: int) -> list[int]:
    """The steps at which a page is off its line, when the second page is so many ns late."""
    return [each.step for each in breaches(later_by(play("", script), ns)) if each.rule == "line"]


def test_two_pages_tell_one_time_at_one_tsc_to_two_ns_of_rounding() -> None:
    script = twice(Sleep(ns=SECOND))
    assert lines_left(script, 0) == []
    assert lines_left(script, 50) == []  # a new masterclock may be off by a part in 2**24 of the second
    assert lines_left(script, 80) == lines_left(script, -80) == [len(script)]
    assert lines_left(twice(), 5) == [len(twice())]


@pytest.mark.parametrize(
    "between",
    [
        SetClock(clock=Time(5 * SECOND), label="set"),
        SetMsrs(vcpu=0, msrs=(("TSC", Time(100 * SECOND)),), label="write"),
    ],
)
def test_a_clock_or_tsc_that_is_set_begins_another_line(between: Operation) -> None:
    assert lines_left(twice(between), SECOND) == []


def test_a_page_of_before_the_clock_was_set_is_on_no_line() -> None:
    old = SetClock(clock=Time(5 * SECOND), label="set"), ReadKvmclock(vcpu=0, label="old")
    trace = play("", twice(*old))
    one, old_page, two = (each for each in trace.events if each.value("version") is not None)
    assert one.values[1:3] == old_page.values[1:3] != two.values[1:3]
    assert [each for each in breaches(trace) if each.rule == "line"] == []
    claim = EntitledClaim(text=ENTITLEMENTS["line"], rule="line")
    scenario = Scenario(name="made-up", contract="Something.", script=twice(*old), claims=(claim,))
    with pytest.raises(CannotExpressError):
        plain(with_claims(scenario, MAINLINE))


def test_of_a_page_that_others_may_have_written_to_nothing_is_said() -> None:
    assert lines_left(twice(on=page_on(kvmclock_address(1))), SECOND) == []


def test_the_test_in_c_asks_for_the_same() -> None:
    claim = EntitledClaim(text=ENTITLEMENTS["line"], rule="line")
    scenario = Scenario(name="made-up", contract="Something.", script=twice(Sleep(ns=1)), claims=(claim,))
    assert "page_on_line(&two, &one)" in plain(with_claims(scenario, MAINLINE))


@pytest.mark.parametrize("name", [name for name in SCENARIOS if "page" in name or "line" in name])
def test_no_scenario_leaves_a_line_as_the_model_plays_it(name: str) -> None:
    scenario = SCENARIOS[name]
    trace = play(name, scenario.script, host=scenario.host)
    assert [each for each in breaches(trace) if each.rule == "line"] == []
