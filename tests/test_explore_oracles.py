# SPDX-License-Identifier: GPL-2.0-or-later
"""What the oracles say of a trace, and which breaks they know."""

from dataclasses import replace

import pytest

from kvmharness.explore.oracles import Oracles, difference
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST, SimulatedRules
from kvmharness.script import CreateVcpu, SetMsrs, Sleep, Time, WriteTogether
from kvmharness.trace import Bracket, DebugfsReading, Event, Trace
from tests.made_up_faults import play

MS = 1_000_000


def written_at_once(*ms: int, order: tuple[int, int] = (0, 1)) -> Trace:
    """Two vCPUs that were written 300 ms, and 10 s later so many ms at once: one after the other."""
    both = tuple(SetMsrs(vcpu=vcpu, msrs=(("TSC", Time(300 * MS)),)) for vcpu in (0, 1))
    later = tuple(SetMsrs(vcpu=vcpu, msrs=(("TSC", Time(ms[vcpu] * MS)),)) for vcpu in order)
    created = tuple(CreateVcpu(vcpu=vcpu) for vcpu in (0, 1))
    trace = play(SimulatedRules, "", (*created, *both, Sleep(ns=10_000 * MS), *later))
    first, last = trace.events[-2:]
    bracket = Bracket(*first.bracket[:2], *last.bracket[2:])
    at_once = WriteTogether(vcpus=(0, 1), values=(Time(ms[0] * MS), Time(ms[1] * MS)))
    first, last = (first, last) if order == (0, 1) else (last, first)
    values = 0, first.values[0], 1, last.values[0]
    event = Event(at_once, bracket, values, debugfs=(*first.debugfs, *last.debugfs))
    return replace(trace, events=(*trace.events[:-2], event))


@pytest.mark.parametrize(("ms", "broken"), [(-600, True), (600, False)])
def test_what_vcpus_written_at_once_break_because_one_is_the_first_is_known(ms: int, broken: bool) -> None:
    # The window around what is expected does not go on below 0: the second write begins a generation, too.
    oracles = Oracles(POLICIES["mainline-6.7"], HOST)
    found = [each for each in oracles.ask(written_at_once(ms, ms)).symptoms if each.what == "together"]
    assert [each.predicted for each in found] == ([True] if broken else [])


def test_two_kernels_whose_threads_write_in_another_order_do_not_differ() -> None:
    hosts, names = (HOST, HOST), ("first", "second")
    first, second = (written_at_once(0, 600, order=order) for order in ((0, 1), (1, 0)))
    assert first.events[-1].debugfs != second.events[-1].debugfs
    assert difference(first, second, hosts, names) == []
    last = first.events[-1]
    neither = replace(last, debugfs=tuple(DebugfsReading(each.offset + 10**8) for each in last.debugfs))
    other = replace(first, events=(*first.events[:-1], neither))
    assert [each.step for each in difference(first, other, hosts, names)] == [len(first.events)]
