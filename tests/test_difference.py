# SPDX-License-Identifier: GPL-2.0-or-later
"""Two kernels held against each other without any policy."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.contract.clock import page_khz
from kvmharness.judging.difference import compare, compare_sessions, first_difference
from kvmharness.model import masterclock
from kvmharness.model.identify import distinguishes
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import HOST, Pace, simulate
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.trace import Bracket, DebugfsReading, Event, Place, Trace
from tests.made_up import play, session

STABLE = {name: each for name, each in SCENARIOS.items() if "stable-tsc" not in each.lacks}
CATCHES_UP = POLICIES["like-xu-v1"]
RULES = [policy for policy in POLICIES.values() if policy.honours_writes]


def played(scenario: Scenario, policy: str, *, shown: bool = True) -> Trace:
    return simulate(scenario.name, scenario.script, POLICIES[policy], scenario.host, debugfs=shown)


def test_a_restore_that_one_kernel_honours_and_the_other_drops_is_the_first_difference() -> None:
    scenario = SCENARIOS["young-restore"]
    found = first_difference(played(scenario, "mainline-before-6.7"), played(scenario, "mainline-6.7"))
    assert found is not None
    assert (found.step, found.operation) == (4, "write TSC of vCPU 0")
    assert found.first == "vCPU 0 keeps the offset that it had"
    assert found.second == "vCPU 0 honours what was written"
    assert found.distance.endswith("850.0 ms")


def test_without_debugfs_the_difference_shows_at_the_next_reading() -> None:
    scenario = SCENARIOS["young-restore"]
    traces = [played(scenario, each, shown=False) for each in ("mainline-before-6.7", "mainline-6.7")]
    found = first_difference(*traces)
    assert found is not None
    assert found.step == 5
    assert (found.first, found.second) == (
        "vCPU 0 keeps the offset that it had",
        "vCPU 0 honours what was written",
    )


def test_two_vcpus_that_count_together_on_one_kernel_alone_are_a_difference() -> None:
    scenario = SCENARIOS["qemu-pair-old"]
    found = first_difference(played(scenario, "sean-christopherson"), played(scenario, "mainline-6.7"))
    assert found is not None
    assert (found.first, found.second) == (
        "vCPU 1 honours what was written",
        "vCPU 1 has the offset of vCPU 0",
    )


def test_how_two_kernels_refuse_what_no_release_knows_is_no_difference() -> None:
    scenario = SCENARIOS["scale-of-half-rate"]
    host = replace(scenario.host, has_scale=False)
    older = simulate(scenario.name, scenario.script, POLICIES["mainline-6.7"], host, debugfs=True)
    newer = replace(
        older,
        events=tuple(
            replace(each, error="ENXIO") if each.operation.label.startswith("scale") else each
            for each in older.events
        ),
    )
    assert {each.error for each in older.events} == {"", "EINVAL"}
    assert first_difference(older, newer) is None
    # Nor is it one that only one of them knows it: that is a capability, and is reported as one.
    knows = simulate(scenario.name, scenario.script, POLICIES["mainline-6.7"], scenario.host, debugfs=True)
    assert first_difference(older, knows) is None
    # What fails for another reason is one.
    odd = replace(older, events=tuple(replace(each, error=each.error and "EFAULT") for each in older.events))
    assert first_difference(older, odd) is not None


@pytest.mark.parametrize("name", STABLE)
def test_two_policies_differ_in_a_scenario_just_where_the_judge_tells_them_apart(name: str) -> None:
    scenario = SCENARIOS[name]
    traces = {policy: played(scenario, policy.name) for policy in RULES}
    for one, other in combinations(RULES, 2):
        found = first_difference(traces[one], traces[other])
        apart = distinguishes(scenario.script, one, other, scenario.host, debugfs=True)
        assert found is not None or not apart
        # When KVM catches a TSC up by itself the judge knows only bounds of what that comes to.
        assert apart or found is None or CATCHES_UP in (one, other)


@given(st.sampled_from(sorted(STABLE)), st.sampled_from(RULES), st.integers(1, 40), st.integers(1, 40))
def test_two_kernels_with_one_policy_show_no_difference_whatever_their_pace(
    name: str, policy: Policy, slow: int, slower: int
) -> None:
    scenario = SCENARIOS[name]

    def at(times: int) -> Trace:
        pace = Pace(*(times * each for each in Pace()[:4]))
        return simulate(
            name, scenario.script, policy, scenario.host, pace=lambda operation: pace, debugfs=True
        )

    assert first_difference(at(slow), at(slower)) is None


def test_a_step_that_fails_on_one_kernel_alone_is_a_difference_unless_the_machine_was_short() -> None:
    trace = played(SCENARIOS["young-restore"], "mainline-6.7")

    def failing(error: str) -> Trace:
        last = trace.events[-1]
        events = (*trace.events[:-1], Event(last.operation, last.bracket, error=error))
        return Trace(trace.scenario, trace.release, events)

    found = first_difference(trace, failing("ENXIO"))
    assert found is not None
    assert (found.first, found.second) == ("succeeds", "fails with ENXIO")
    assert first_difference(trace, failing("EINTR")) is None


def test_the_contracts_that_one_kernel_alone_keeps_are_named() -> None:
    names = ("young-restore", "old-restore", "qemu-pair-old")
    first, second = (
        {name: played(SCENARIOS[name], policy) for name in names}
        for policy in ("mainline-before-6.7", "sean-christopherson")
    )
    found = compare(first, second, SCENARIOS, stable=True)
    assert found.compared == 3
    assert (found.kept_by_first, found.kept_by_second) == (("qemu-pair-old",), ("young-restore",))


def test_a_clock_that_is_stable_on_one_kernel_alone_is_a_difference() -> None:
    scenario = next(each for each in STABLE.values() if any(step.name == "get_clock" for step in each.script))
    trace = played(scenario, "mainline-6.7")
    place = next(n for n, each in enumerate(trace.events) if each.value("clock_flags"))
    event = trace.events[place]
    values = (event.values[0], event.values[1] ^ 2, *event.values[2:])
    events = (*trace.events[:place], replace(event, values=values), *trace.events[place + 1 :])
    found = first_difference(trace, Trace(trace.scenario, trace.release, events))
    assert found is not None
    assert (found.step, found.first, found.second) == (
        place + 1,
        "the VM's clock is stable",
        "the VM's clock is not stable",
    )


def test_a_player_that_was_held_up_explains_no_error() -> None:
    scenario = SCENARIOS["vm-khz-after-vcpu"]
    trace = played(scenario, "mainline-6.7")
    place = next(n for n, each in enumerate(trace.events) if each.operation.name == "set_vm_tsc_khz")
    late = [replace(each, bracket=later(each.bracket, 5_000_000)) for each in trace.events[place:]]
    late[0] = replace(late[0], values=(), error="EINVAL")
    other = replace(trace, events=(*trace.events[:place], *late))
    found = compare(
        {scenario.name: trace}, {scenario.name: other}, SCENARIOS, stable=True, explained=lambda *_: True
    )
    assert [(each.first, each.second) for each in found.differences] == [("succeeds", "fails with EINVAL")]


def later(bracket: Bracket, ns: int) -> Bracket:
    """A bracket of a machine of 2 GHz so much later."""
    cycles = 2 * ns
    return Bracket(
        bracket.tsc_before + cycles,
        bracket.ns_before + ns,
        bracket.ns_after + ns,
        bracket.tsc_after + cycles,
    )


def test_a_kernel_that_shows_nothing_in_debugfs_is_compared_by_what_both_show() -> None:
    scenario = SCENARIOS["young-restore"]
    before = played(scenario, "mainline-before-6.7")
    found = first_difference(before, played(scenario, "mainline-6.7", shown=False))
    assert found is not None
    assert (found.step, found.second) == (5, "vCPU 0 honours what was written")
    assert first_difference(before, played(scenario, "mainline-before-6.7", shown=False)) is None


@pytest.mark.parametrize("jump", [0, 100_000_000])
def test_a_tsc_that_kvm_catches_up_is_compared_by_how_it_goes_on(jump: int) -> None:
    scenario = SCENARIOS["khz-double-parted"]
    trace = played(scenario, "mainline-6.7")
    last = trace.events[-1]
    moved = replace(last, values=tuple(value - jump for value in last.values))
    other = replace(trace, events=(*trace.events[:-1], moved))
    found = first_difference(trace, other)
    assert (found is not None) is bool(jump)
    if found:
        assert found.step == 8
        assert found.first == "the TSC of vCPU 1 goes on from what was written, at its own rate"
        assert found.distance


def test_a_clock_that_cannot_be_set_is_a_difference() -> None:
    trace = played(SCENARIOS["set-clock"], "mainline-6.7")
    names = [event.operation.name for event in trace.events]
    place = names.index("get_clock", names.index("set_clock"))
    read = trace.events[place]
    moved = replace(read, values=(read.values[0] - 3_000_000_000, *read.values[1:]))
    other = replace(trace, events=(*trace.events[:place], moved, *trace.events[place + 1 :]))
    found = first_difference(trace, other)
    assert found is not None
    assert (found.step, found.first) == (place + 1, "the VM's clock goes on from what was set")
    assert found.second == "the VM's clock is neither what it was nor what was set, gone on"


def test_a_clock_that_a_real_time_to_come_sets_back_is_a_difference() -> None:
    right = played(SCENARIOS["set-clock-ahead-of-realtime"], "mainline-6.7")
    last = [event for event in right.events if event.value("clock_flags") is not None][-1]
    wrong = with_step(right, last.operation.label, values=(last.values[0] - 3_000_000_000, *last.values[1:]))
    found = first_difference(right, wrong)
    assert found is not None
    assert found.first == "the VM's clock goes on from what was set"


def with_multiplier(trace: Trace, ppm: int) -> Trace:
    """The trace of a kernel whose pages have the TSC count at a rate so many millionths off."""
    events = list(trace.events)
    for place, event in enumerate(events):
        names = event.operation.value_names
        if "multiplier" in names and event.values:
            at = names.index("multiplier")
            wrong = event.values[at] * (1_000_000 + ppm) // 1_000_000
            events[place] = replace(event, values=(*event.values[:at], wrong, *event.values[at + 1 :]))
    return replace(trace, events=tuple(events))


@pytest.mark.parametrize("ppm", [-5000, -100, -2, 2, 100, 5000])
def test_a_page_at_another_rate_is_a_difference(ppm: int) -> None:
    scenario = SCENARIOS["page-after-run"]
    right = played(scenario, "mainline-6.7")
    found = first_difference(right, with_multiplier(right, ppm))
    assert found is not None
    assert found.first == "the kvmclock page of vCPU 0 has the TSC count as the first vCPU's"
    assert found.second == "the kvmclock page of vCPU 0 has the TSC count at another rate"


@pytest.mark.parametrize(
    ("off", "differs"), [(-2_000, True), (-2, False), (0, False), (2, False), (2_000, True)]
)
def test_a_clock_that_is_not_what_the_page_says_at_its_tsc_is_a_difference(off: int, differs: bool) -> None:
    right = played(SCENARIOS["page-after-run"], "mainline-6.7")
    read = [event for event in right.events if event.value("host_tsc") is not None][-1]
    wrong = with_step(right, read.operation.label, values=(read.values[0] + off, *read.values[1:]))
    found = first_difference(right, wrong)
    assert (found is not None) is differs
    if found is not None:
        assert found.first == "the VM's clock agrees with the page of vCPU 0"
        assert found.second == "the VM's clock disagrees with the page of vCPU 0"


@pytest.mark.parametrize(
    ("version", "differs"),
    [
        (3, "is left open, as if it were still written to"),
        (2, "is changed under its old version"),
        (40, ""),
    ],
)
def test_a_page_that_a_guest_could_not_read_is_a_difference(version: int, differs: str) -> None:
    right = played(SCENARIOS["page-after-run"], "mainline-6.7")
    first, later = (event for event in right.events if event.value("version") is not None)
    assert (first.value("version"), later.value("version")) == (2, 2)
    # In the traces of both the page was written again meanwhile; a version may have grown by any even number.
    again = (later.values[1] + 1_000, *later.values[2:])
    sound = with_step(right, later.operation.label, values=(4, *again))
    wrong = with_step(right, later.operation.label, values=(version, *again))
    found = first_difference(sound, wrong)
    assert (found is not None) is bool(differs)
    if found is not None:
        assert found.second == f"the kvmclock page of vCPU 0 {differs}"


@pytest.mark.parametrize("counts", [True, False])
def test_what_a_write_leaves_on_an_unstable_tsc_is_compared_where_all_cpus_share_it(counts: bool) -> None:
    place = Place("k", "amd-unstable", "1", False, counts, False)
    right = replace(played(SCENARIOS["unstable-pair"], "mainline-6.7"), place=place)
    (write,) = [event for event in right.events if event.operation.label == "restore-1"]
    # The same value was written 5 ms later, and the time was not added.
    shown = write.debugfs[0]._replace(offset=(write.values[0] - write.bracket.tsc_after) % 2**64)
    wrong = with_step(right, "restore-1", debugfs=(shown,))
    found = first_difference(right, wrong, stable=False)
    assert (found is not None) is counts
    if found is not None:
        assert found.first == "vCPU 1 has the offset of vCPU 0"
        assert found.second == "vCPU 1 honours what was written"
    # A load within the write's bracket moves the offset by as much.
    within = shown._replace(offset=write.debugfs[0].offset - 1_000)
    assert first_difference(right, with_step(right, "restore-1", debugfs=(within,)), stable=False) is None


@pytest.mark.parametrize("khz", [1_000, 999_999, 1_000_000, 2_399_999, 5_000_000])
def test_a_page_as_kvm_makes_it_is_at_its_rate(khz: int) -> None:
    multiplier, shift = masterclock.scale(khz)
    assert abs(page_khz(multiplier, shift) - khz) * 2**30 <= khz
    assert page_khz(0, 0) == 0


def with_step(trace: Trace, label: str, **changes: Any) -> Trace:
    """The trace, but for what happened in one step."""
    assert label in {each.operation.label for each in trace.events}
    events = [replace(each, **changes) if each.operation.label == label else each for each in trace.events]
    return replace(trace, events=tuple(events))


@pytest.mark.parametrize("label", ["create-0", "create-1"])
def test_a_vcpu_that_is_not_created_with_its_vms_rate_is_a_difference(label: str) -> None:
    trace = played(SCENARIOS["vm-khz"], "mainline-6.7")
    found = first_difference(trace, with_step(trace, label, values=(2_000_000,)))
    assert found is not None
    number = label[-1]
    assert found.first == f"the rate of vCPU {number} is what was set for the VM"
    assert found.second == f"the rate of vCPU {number} is another"


@pytest.mark.parametrize("shown", [True, False])
def test_a_tsc_that_the_guest_writes_moves_tsc_adjust_by_as_much(shown: bool) -> None:
    trace = played(SCENARIOS["guest-writes-tsc"], "mainline-6.7", shown=shown)
    place = [each.operation.label for each in trace.events].index("adjust")
    (grown,) = trace.events[place].values
    assert 0 < grown < 2**63
    for backwards in (2**64 - grown, grown + 1_000_000):
        found = first_difference(trace, with_step(trace, "adjust", values=(backwards,)))
        assert found is not None
        assert found.step == place + 1
        assert found.first == "TSC_ADJUST of vCPU 0 is by how much writes moved it and the TSC"
        assert found.second == "TSC_ADJUST of vCPU 0 is another"
        assert found.distance


def guest_adjusts(trace: Trace, times: int) -> Trace:
    """The trace of a kernel that moves a TSC by so many times what the guest asks for with TSC_ADJUST = 0."""
    events = list(trace.events)
    place = [each.operation.label for each in events].index("back")
    labelled = {each.operation.label: each for each in events}
    asked = -(labelled["adjust"].value("TSC_ADJUST") or 0)
    wrong = (times - 1) * asked
    for number, event in enumerate(events[place:], place):
        names = event.operation.value_names
        tscs = [names.index("TSC")] if "TSC" in names else []
        tscs = tscs or [at for at, _ in enumerate(event.values) if event.operation.by_guest]
        if event.operation.label == "back":
            tscs = [2]
        if event.operation.label == "offset":
            tscs = [0]
        values = tuple((each + wrong * (at in tscs)) % 2**64 for at, each in enumerate(event.values))
        shown = tuple(DebugfsReading((each.offset + wrong) % 2**64, each.ratio) for each in event.debugfs)
        events[number] = replace(event, values=values, debugfs=shown)
    return replace(trace, events=tuple(events))


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize(("times", "second"), [(-1, "neither"), (0, "keeps the offset that it had")])
def test_a_tsc_adjust_that_the_guest_writes_moves_its_tsc_by_what_it_grows(
    shown: bool, times: int, second: str
) -> None:
    trace = played(SCENARIOS["guest-writes-adjust"], "mainline-6.7", shown=shown)
    found = first_difference(trace, guest_adjusts(trace, times))
    assert found is not None
    assert found.first == "vCPU 0 honours what was written"
    assert second in found.second
    assert first_difference(trace, guest_adjusts(trace, 1)) is None


def test_a_player_that_was_held_up_explains_no_masterclock_that_never_comes() -> None:
    scenario = SCENARIOS["qemu-start"]
    with_clock = session([scenario])
    held_up = play(scenario.name, scenario.script, held_up=("zero-0", 5_000_000))
    no_clock = with_step(held_up, "clock", values=(30_000_000, 0))
    other = replace(with_clock, traces={scenario.name: no_clock})
    found = compare_sessions([with_clock], [other])
    assert [(each.first, each.second) for each in found.differences] == [
        ("the VM's clock is stable", "the VM's clock is not stable")
    ]
    lately = replace(with_clock, traces={scenario.name: held_up})
    assert compare_sessions([with_clock], [lately]).differences == ()
    # Nor where the probe of that kernel saw no masterclock either.
    never = session([], host=replace(HOST, tsc_clocksource=False))
    other = replace(never, traces={scenario.name: no_clock})
    assert len(compare_sessions([with_clock], [other]).differences) == 1
