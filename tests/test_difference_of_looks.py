# SPDX-License-Identifier: GPL-2.0-or-later
"""Two kernels held against each other by when they looked at the masterclock, as their guests' pages show."""

from dataclasses import replace
from typing import Any

import pytest

from kvmharness.judging.difference import Difference, first_difference, of_one_policy
from kvmharness.judging.relations import Reading
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import Pace, simulate
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import KvmclockCtrl, ReadKvmclock, SetClocksource, SetMsrs
from kvmharness.trace import Event, Trace

SUBJECT = "the masterclock in the kvmclock page of vCPU"


def renewed_by(renews: str, name: str = "line-across-hotplug", *, wait: int = 10_000, **host: Any) -> Trace:
    """A scenario on a kernel that looks at the masterclock again for this; `wait` cycles between steps."""
    policy = replace(POLICIES["mainline-6.7"], renews_masterclock=renews)
    scenario = SCENARIOS[name]
    known = replace(scenario.host, **host)
    pace = Pace(pause=wait)
    return simulate(name, scenario.script, policy, known, pace=lambda _: pace, debugfs=True)


def found_between(first: Trace, second: Trace) -> Difference:
    found = first_difference(first, second)
    assert found is not None
    return found


def test_a_kernel_that_looks_again_when_a_vcpu_is_plugged_in_differs_from_one_that_does_not() -> None:
    found = found_between(renewed_by("write"), renewed_by("generation"))
    assert (found.step, found.operation) == (9, "read the kvmclock page of vCPU 1")
    assert found.first == f"{SUBJECT} 1 was last looked at in step 8"
    assert found.second == f"{SUBJECT} 1 was last looked at in step 3"


@pytest.mark.parametrize("renews", ["write", "generation", "neither"])
def test_one_kernel_looks_in_the_same_steps_however_fast_the_player_is(renews: str) -> None:
    for name in ("line-across-hotplug", "twenty-vcpus", "xen-hotplug", "hyperv-hotplug"):
        assert first_difference(renewed_by(renews, name), renewed_by(renews, name, wait=90_000)) is None


def test_a_look_that_naming_xens_page_again_brings_is_a_difference() -> None:
    older, newer = (renewed_by("generation", "xen-shared-again", xen_renews=each) for each in (True, False))
    found = found_between(older, newer)
    assert (found.step, found.first) == (24, f"{SUBJECT} 0 was last looked at in step 23")
    assert found.second == f"{SUBJECT} 0 was last looked at in step 12"


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("line-across-hotplug", {"renews": "write"}, {"renews": "generation"}),
        (
            "xen-shared-again",
            {"renews": "generation", "xen_renews": True},
            {"renews": "generation", "xen_renews": False},
        ),
    ],
)
def test_a_player_that_was_held_up_explains_no_other_look(
    name: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    policies, host = [POLICIES["mainline-6.7"]], SCENARIOS[name].host
    one, other = renewed_by(name=name, **first), renewed_by(name=name, **second)
    late = renewed_by(name=name, **first, wait=5_000_000)
    assert of_one_policy(policies, (one, host), (late, host))
    assert not of_one_policy(policies, (one, host), (other, host))
    assert not of_one_policy(policies, (late, host), (other, host))


def test_without_the_vms_creation_or_a_vcpus_offset_nothing_is_said_of_a_look() -> None:
    first, second = renewed_by("write"), renewed_by("generation")
    assert first_difference(replace(first, created=None), replace(second, created=None)) is None
    unshown = [
        replace(each, events=tuple(replace(event, debugfs=()) for event in each.events))
        for each in (first, second)
    ]
    assert first_difference(*unshown) is None


def test_a_page_of_no_masterclock_says_nothing_of_a_look() -> None:
    unstable = [_with_flags(renewed_by(each), 0) for each in ("write", "generation")]
    found = first_difference(*unstable)
    assert found is None or "looked at" not in found.first


def test_once_the_hosts_clock_leaves_the_tsc_nothing_is_said_of_a_look() -> None:
    left = [_with_step(renewed_by(each), SetClocksource(tsc=False)) for each in ("write", "generation")]
    assert first_difference(*left) is None
    # Another step in its place changes nothing.
    stays = [_with_step(renewed_by(each), KvmclockCtrl(vcpu=0)) for each in ("write", "generation")]
    assert "looked at" in found_between(*stays).first


def test_after_a_step_in_which_two_threads_were_at_work_nothing_is_said_of_a_look() -> None:
    trace = renewed_by("write", "clock-set-during-run")
    at_once = next(i for i, each in enumerate(trace.events) if each.operation.sets_clock)
    reading = Reading(trace, stable=True, created=trace.created)
    said = [[aspect for _, aspect in reading.relations(event)] for event in trace.events]
    assert any("looked at" in each for each in said[:at_once])
    assert not any("looked at" in each for each in said[at_once:])
    assert any("line" in each for each in said[at_once:])


def _with_flags(trace: Trace, flags: int) -> Trace:
    """The trace with these flags in each kvmclock page."""
    return replace(
        trace,
        events=tuple(
            replace(each, values=(*each.values[:5], flags))
            if isinstance(each.operation, ReadKvmclock)
            else each
            for each in trace.events
        ),
    )


def _with_step(trace: Trace, operation: SetClocksource | KvmclockCtrl) -> Trace:
    """The trace with this step in the place of the first write of an MSR."""
    place = next(i for i, each in enumerate(trace.events) if isinstance(each.operation, SetMsrs))
    event = trace.events[place]
    other = Event(operation, event.bracket, (), debugfs=event.debugfs if operation.vcpu_numbers else ())
    return replace(trace, events=(*trace.events[:place], other, *trace.events[place + 1 :]))
