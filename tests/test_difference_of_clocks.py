# SPDX-License-Identifier: GPL-2.0-or-later
"""Two kernels held against each other by their guests' clocks, timers and Hyper-V reference times."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from kvmharness.judging.difference import compare_sessions, first_difference
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import simulate
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Place, Trace
from tests.made_up import play, session

COUNTS_INSTRUCTIONS = Place("k", "amd", "1", may_protect_tscs=False, counts_instructions=True)


def played(name: str) -> Trace:
    """A scenario on a machine that counts instructions."""
    scenario = SCENARIOS[name]
    trace = simulate(name, scenario.script, POLICIES["mainline-6.7"], scenario.host, debugfs=True)
    return replace(trace, place=COUNTS_INSTRUCTIONS)


def changed(trace: Trace, label: str, **values: Callable[[int], int]) -> Trace:
    """The trace, but for some values of the step with this label."""
    events = list(trace.events)
    (place,) = [number for number, event in enumerate(events) if event.operation.label == label]
    names = events[place].operation.value_names
    assert values.keys() <= {*names}
    read = zip(names, events[place].values, strict=False)
    now = (values[name](value) % 2**64 if name in values else value for name, value in read)
    events[place] = replace(events[place], values=tuple(now))
    return replace(trace, events=tuple(events))


def difference(name: str, label: str, **values: Callable[[int], int]) -> tuple[str, str] | None:
    """What differs, in words, where a kernel reads other values at the step with this label; or None."""
    trace = played(name)
    found = first_difference(trace, changed(trace, label, **values))
    assert found is None or trace.events[found.step - 1].operation.label == label
    return (found.first, found.second) if found else None


@pytest.mark.parametrize(("off", "differs"), [(-3, True), (-2, False), (2, False), (3, True), (400, True)])
def test_a_clock_is_what_the_page_says_at_its_tsc_to_2_ns(off: int, differs: bool) -> None:
    found = difference("page-after-run", "clock", clock=lambda clock: clock + off)
    assert found == (
        ("the VM's clock agrees with the page of vCPU 0", "the VM's clock disagrees with the page of vCPU 0")
        if differs
        else None
    )


def test_a_real_time_in_whole_seconds_is_a_difference() -> None:
    trace = played("set-clock-with-realtime")
    read = [event for event in trace.events if event.value("realtime") and event.value("clock_flags")]
    label = read[-1].operation.label
    found = difference(
        "set-clock-with-realtime", label, realtime=lambda ns: ns // 1_000_000_000 * 1_000_000_000
    )
    assert found == (
        "the host's real time goes on from what it was",
        "the host's real time is not what it was, gone on",
    )


def test_a_clock_that_is_set_goes_on_by_the_real_time_that_had_passed() -> None:
    trace = played("set-clock-with-realtime")
    label = [event for event in trace.events if event.value("clock_flags")][-1].operation.label
    found = difference("set-clock-with-realtime", label, clock=lambda ns: ns - 1_000_000)
    assert found is not None
    assert found[0] == "the VM's clock goes on from what was set and the real time that had passed"


def test_a_real_time_without_its_tsc_is_a_difference() -> None:
    trace = played("clock-flags")
    read = next(event for event in trace.events if event.value("host_tsc"))
    events = [
        replace(event, values=(event.values[0], event.values[1] & ~8)) if event is read else event
        for event in trace.events
    ]
    found = first_difference(trace, replace(trace, events=tuple(events)))
    assert found is not None
    assert found.second == "the host's real time is not reported with its TSC"


@pytest.mark.parametrize(
    ("label", "units", "differs"),
    [
        ("guest-0-after", 8, True),
        ("guest-0-after", 1, False),
        ("host-after", -8, True),
        ("host-after", 0, False),
    ],
)
def test_a_reference_counter_is_the_vms_clock(label: str, units: int, differs: bool) -> None:
    name = "reference" if label.startswith("guest") else "HV_TIME_REF_COUNT"
    found = difference("hyperv-page", label, **{name: lambda count: count + units})
    assert bool(found) is differs
    if found:
        assert found[1].startswith("the Hyper-V reference counter is not the time of ")


@pytest.mark.parametrize(
    ("name", "change", "second"),
    [
        ("hv_sequence", lambda _: 0, "the Hyper-V TSC page is not in use"),
        ("hv_offset", lambda offset: offset + 1, "the Hyper-V TSC page is changed under its old sequence"),
        ("hv_scale", lambda scale: scale + 1, "the Hyper-V TSC page is changed under its old sequence"),
    ],
)
def test_a_tsc_page_that_nobody_had_to_write_stays_as_it_was(
    name: str, change: Callable[[int], int], second: str
) -> None:
    found = difference("hyperv-page", "guest-0-after", **{name: change})
    assert found is not None
    assert found[1] == second


def test_a_tsc_page_that_is_written_again_is_a_difference_where_the_guest_has_copied_it() -> None:
    assert difference("hyperv-page", "guest-0-after", hv_sequence=lambda sequence: sequence + 1) is None
    labels = [event.operation.label for event in played("hyperv-copied").events]
    assert labels.index("emulation") < labels.index("guest-0-kept")
    found = difference("hyperv-copied", "guest-0-kept", hv_sequence=lambda sequence: sequence + 1)
    assert found == ("the Hyper-V TSC page is as it was", "the Hyper-V TSC page is another")


@pytest.mark.parametrize(
    ("name", "off", "second"),
    [
        ("hv_offset", 5, "tells another time"),
        ("hv_offset", 0, ""),
        ("hv_scale", 1, "is another"),
    ],
)
def test_a_tsc_page_tells_the_time_of_the_kvmclock_page(name: str, off: int, second: str) -> None:
    # It is read by the host after the guest and its kvmclock page, and for the first time.
    trace = played("hyperv-page")
    before = [event.operation.label for event in trace.events].index("guest-0-before")
    unread = [
        replace(event, values=()) if place == before or event.operation.label == "tsc-page-off" else event
        for place, event in enumerate(trace.events)
    ]
    trace = replace(trace, events=tuple(unread))
    found = first_difference(trace, changed(trace, "tsc-page", **{name: lambda value: value + off}))
    assert bool(found) is bool(second)
    if found:
        assert found.second == f"the Hyper-V TSC page, beside the kvmclock page of vCPU 0, {second}"


def test_a_tsc_page_that_is_written_again_needs_another_sequence() -> None:
    trace = played("hyperv-set-clock")
    pages = [event for event in trace.events if event.value("hv_sequence")]
    label = next(
        each.operation.label for each in pages if each.value("hv_offset") != pages[0].value("hv_offset")
    )
    kept = pages[0].value("hv_sequence") or 0
    found = difference("hyperv-set-clock", label, hv_sequence=lambda _: kept)
    assert found is not None
    assert found[1] == "the Hyper-V TSC page is changed under its old sequence"


def test_the_frequency_that_a_guest_reads_is_that_of_its_tsc() -> None:
    found = difference("hyperv-counter", "frequency", HV_TSC_FREQUENCY=lambda hz: hz * 2)
    assert found == (
        "the TSC frequency that the guest of vCPU 0 reads is that of its creation",
        "the TSC frequency that the guest of vCPU 0 reads is another",
    )


@pytest.mark.parametrize(
    ("scenario", "label", "change", "words"),
    [
        (
            "timer-restored",
            "timer",
            lambda _: 0,
            ("interrupts its guest", "does not interrupt its guest"),
        ),
        (
            "timer-restored",
            "timer",
            lambda tsc: tsc - 400_000,
            ("does not interrupt its guest before its time", "interrupts its guest before its time"),
        ),
        (
            "timer-disarmed",
            "timer",
            lambda _: 5_000_000_000,
            ("does not interrupt its guest", "interrupts its guest"),
        ),
        ("timer-restored", "timer", lambda tsc: tsc + 2_000_000, None),
    ],
)
def test_a_timer_is_compared_by_whether_it_fires_and_whether_that_is_early(
    scenario: str, label: str, change: Callable[[int], int], words: tuple[str, str] | None
) -> None:
    found = difference(scenario, label, fired=change)
    assert found == (words and tuple(f"the timer of vCPU 0 {each}" for each in words))


def test_a_player_that_was_held_up_explains_no_timer_that_is_lost() -> None:
    scenario = SCENARIOS["timer-expires-unrun"]
    right = session([scenario], place=COUNTS_INSTRUCTIONS)
    held_up = play(scenario.name, scenario.script, held_up=("deadline", 5_000_000))
    held_up = replace(held_up, place=COUNTS_INSTRUCTIONS)
    lately = replace(right, traces={scenario.name: held_up})
    assert compare_sessions([right], [lately]).differences == ()
    lost = replace(right, traces={scenario.name: changed(held_up, "timer", fired=lambda _: 0)})
    (found,) = compare_sessions([right], [lost]).differences
    assert found.second == "the timer of vCPU 0 does not interrupt its guest"


def test_a_deadline_reads_as_it_was_written_or_as_0() -> None:
    trace = played("timer-expires-while-saved")
    read = next(
        event
        for event in trace.events
        if event.value("TSC_DEADLINE") and event.operation.only_reads_tsc(event.values, "")
    )
    found = difference("timer-expires-while-saved", read.operation.label, TSC_DEADLINE=lambda _: 0)
    assert found == ("the deadline of vCPU 0 is what was written", "the deadline of vCPU 0 is 0")


@pytest.mark.parametrize(("place", "differs"), [(None, False), (COUNTS_INSTRUCTIONS, True)])
def test_in_real_time_a_deadline_that_comes_just_then_may_read_as_either(
    place: Place | None, differs: bool
) -> None:
    # It is 2 ms ahead when it is written, and read 5 us later.
    trace = replace(played("timer-expires-while-saved"), place=place)
    found = first_difference(trace, changed(trace, "armed", TSC_DEADLINE=lambda _: 0))
    assert bool(found) is differs
