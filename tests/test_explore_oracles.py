# SPDX-License-Identifier: GPL-2.0-or-later
"""What the oracles say of a trace, and which breaks they know."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest

from kvmharness.explore.oracles import Oracles, difference
from kvmharness.guests.layout import kvmclock_address
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST, Pace, SimulatedRules, simulate
from kvmharness.script import (
    CreateVcpu,
    GuestWrite,
    Operation,
    ReadKvmclock,
    Run,
    Script,
    SetMsrs,
    Sleep,
    Time,
    WriteTogether,
)
from kvmharness.trace import Bracket, DebugfsReading, Event, Trace
from tests.made_up_faults import play

MS = 1_000_000


def written_at_once(*ms: int, order: Sequence[int] = (0, 1), after: Script = (), apart: Script = ()) -> Trace:
    """vCPUs that were written 300 ms, and 10 s later so many ms at once: one after the other, with these
    steps between them; and what comes after that."""
    vcpus = tuple(range(len(ms)))
    first = tuple(SetMsrs(vcpu=vcpu, msrs=(("TSC", Time(300 * MS)),)) for vcpu in vcpus)
    writes = [SetMsrs(vcpu=vcpu, msrs=(("TSC", Time(ms[vcpu] * MS)),)) for vcpu in order]
    later: Script = tuple(step for write in writes for step in (*apart, write))[len(apart) :]
    created = tuple(CreateVcpu(vcpu=vcpu) for vcpu in vcpus)
    before = (*created, *first, Sleep(ns=10_000 * MS))
    events = play(SimulatedRules, "", (*before, *later, *after)).events
    begin, end = len(before), len(before) + len(later)
    bracket = Bracket(*events[begin].bracket[:2], *events[end - 1].bracket[2:])
    written = dict(zip(order, events[begin : end : len(apart) + 1], strict=True))
    event = Event(
        WriteTogether(vcpus=vcpus, values=tuple(Time(each * MS) for each in ms)),
        bracket,
        tuple(value for vcpu in vcpus for value in (vcpu, *written[vcpu].values)),
        debugfs=tuple(each for vcpu in vcpus for each in written[vcpu].debugfs),
    )
    return Trace("", "", (*events[:begin], event, *events[end:]))


@pytest.mark.parametrize(("ms", "broken"), [(-600, True), (600, False)])
def test_what_vcpus_written_at_once_break_because_one_is_the_first_is_known(ms: int, broken: bool) -> None:
    # The window around what is expected does not go on below 0: the second write begins a generation, too.
    oracles = Oracles(POLICIES["mainline-6.7"], HOST)
    found = [each for each in oracles.ask(written_at_once(ms, ms)).symptoms if each.what == "together"]
    assert [each.predicted for each in found] == ([True] if broken else [])


@pytest.mark.parametrize("apart_ms", [1, 5, 50])
def test_threads_that_took_long_to_write_at_once_meant_one_timeline_all_the_same(apart_ms: int) -> None:
    # A busy machine with fewer CPUs than threads: seen with 5.5 ms between two of three.
    oracles, apart = Oracles(POLICIES["mainline-6.7"], HOST), (Sleep(ns=apart_ms * MS),)
    trace = written_at_once(-600, -600, -600, order=(2, 0, 1), apart=apart)
    found = [each.predicted for each in oracles.ask(trace).symptoms if each.what == "together"]
    assert found == [True, True]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_what_is_broken_after_writes_at_once_is_known_in_whichever_order_they_came(
    order: tuple[int, ...],
) -> None:
    # A 0 that comes last joins the vCPU before it, and what is written after it joins both.
    ones = tuple(SetMsrs(vcpu=vcpu, msrs=(("TSC", 1),)) for vcpu in range(3))
    ms = [0, 0, 0]
    for vcpu, each in zip(order, (1_250, -9_700, 0), strict=True):
        ms[vcpu] = each
    found = (
        Oracles(POLICIES["mainline-6.7"], HOST).ask(written_at_once(*ms, order=order, after=ones)).symptoms
    )
    broken = [each.predicted for each in found if each.what == "timeline"]
    assert broken
    assert all(broken)


def page_renewed_late(until: int) -> Trace:
    """A guest sets its TSC ahead and reads its kvmclock page twice. Up to that step KVM has not written the
    page again, as it asked itself to when the page was switched on."""
    script = (
        CreateVcpu(vcpu=0, guest="wrmsr-16"),
        GuestWrite(vcpu=0, msr="SYSTEM_TIME", value=kvmclock_address(0) + 1),
        GuestWrite(vcpu=0, msr="TSC", value=2**33),
        Run(vcpu=0),
        ReadKvmclock(vcpu=0),
        Sleep(ns=300 * MS),
        Run(vcpu=0),
        ReadKvmclock(vcpu=0),
    )
    step = 0

    def pace(operation: Operation) -> Pace:
        nonlocal step
        step += 1
        return Pace(2_000, 0, 2_000, 200_000)

    return simulate(
        *("", script, POLICIES["mainline-before-6.7"]),
        pace=pace,
        choose=lambda count: count - 1 if step <= until else 0,
        debugfs=True,
    )


def test_a_page_that_kvm_wrote_between_two_readings_is_a_break_that_is_known() -> None:
    oracles = Oracles(POLICIES["mainline-before-6.7"], HOST)
    for until in (3, 6):
        found = oracles.ask(page_renewed_late(until)).symptoms
        lines = [each.predicted for each in found if each.what == "line"]
        assert lines == ([True] if until == 6 else [])


def test_two_kernels_whose_threads_write_in_another_order_do_not_differ() -> None:
    hosts, names = (HOST, HOST), ("first", "second")
    first, second = (written_at_once(0, 600, order=order) for order in ((0, 1), (1, 0)))
    assert first.events[-1].debugfs != second.events[-1].debugfs
    assert difference(first, second, hosts, names) == []
    last = first.events[-1]
    neither = replace(last, debugfs=tuple(DebugfsReading(each.offset + 10**8) for each in last.debugfs))
    other = replace(first, events=(*first.events[:-1], neither))
    assert [each.step for each in difference(first, other, hosts, names)] == [len(first.events)]
