# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: whether the first generation begins with the VM or with its first vCPU."""

from dataclasses import replace
from typing import Any

import pytest

from kvmharness.judging.difference import first_difference
from kvmharness.model.judge import Judgement, Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import simulate
from kvmharness.model.state import Host
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import TSC_STABLE, SetVmTscKhz
from kvmharness.trace import Bracket, Event, Trace
from tests.hand_worked import HOST, MS, NEW, OLD, WIDTH, clock, create, offset, run, step, tsc, write

# The VM is created between 900 ms and 1000 cycles later.
CREATED = Bracket(900 * MS, 900 * MS, 900 * MS + WIDTH, 900 * MS + WIDTH)


def judged(
    *events: Event, created: Bracket | None = CREATED, like: str = NEW, host: Host = HOST, **keys: Any
) -> Judgement:
    policy = replace(POLICIES[like], **{"epoch": "vm", **keys})
    return judge(Trace("hand-worked", "none", events, created=created), policy, host)


def possible(*events: Event, **about: Any) -> bool:
    judgement = judged(*events, **about)
    assert judgement.possibility is not Possibility.UNDECIDED, judgement
    return judgement.possibility is Possibility.POSSIBLE


@pytest.mark.parametrize(
    ("value", "of_vm"),
    [
        # Created at 900 ms, read at 1002 ms: each is known to 1000 cycles.
        (102 * MS - WIDTH, True),
        (102 * MS + WIDTH, True),
        (102 * MS - WIDTH - 1, False),
        (102 * MS + WIDTH + 1, False),
    ],
)
def test_the_first_vcpu_counts_from_the_vms_creation_to_the_cycle(value: int, of_vm: bool) -> None:
    assert possible(create(1000 * MS), tsc(1002 * MS, value)) is of_vm


def test_it_counts_from_its_own_creation_where_the_first_generation_begins_with_it() -> None:
    of_vm, of_vcpu = tsc(1002 * MS, 102 * MS), tsc(1002 * MS, 2 * MS)
    assert possible(create(1000 * MS), of_vcpu, epoch="first-vcpu")
    assert not possible(create(1000 * MS), of_vm, epoch="first-vcpu")
    assert not possible(create(1000 * MS), of_vcpu)


def test_why_is_said() -> None:
    mismatch = judged(create(1000 * MS), tsc(1002 * MS, 2 * MS)).mismatch
    assert mismatch
    assert "it counts from the VM's creation, with which the first generation began" in mismatch.because


def test_the_second_vcpu_gets_the_same_offset_and_both_are_matched() -> None:
    pair = (create(1000 * MS), create(1005 * MS, 1), offset(1010 * MS, -900 * MS))
    assert possible(*pair, offset(1011 * MS, -900 * MS, 1))
    assert not possible(*pair, offset(1011 * MS, -900 * MS - 1, 1))
    ran = (*pair, run(1012 * MS, 112 * MS))
    assert possible(*ran, clock(1013 * MS, TSC_STABLE))
    assert not possible(*ran, clock(1013 * MS, 0))


def test_a_lone_first_vcpu_has_a_masterclock() -> None:
    ran = (create(1000 * MS), run(1001 * MS, 101 * MS))
    assert possible(*ran, clock(1002 * MS, TSC_STABLE))
    assert not possible(*ran, clock(1002 * MS, 0))


def test_a_write_near_the_last_one_snaps_to_the_vms_offset() -> None:
    # 300 ms at 1100 ms are within a second of the creation's 0: the vCPU goes on with its 201 ms.
    written = (create(1000 * MS), write(1100 * MS, 300 * MS))
    assert possible(*written, tsc(1101 * MS, 201 * MS), like=OLD)
    assert not possible(*written, tsc(1101 * MS, 301 * MS), like=OLD)


def set_vm_khz(at: int, khz: int) -> Event:
    return step(SetVmTscKhz(khz=khz), at, khz)


def test_a_first_vcpu_of_another_rate_than_the_vm_began_with_counts_from_its_creation() -> None:
    # 200 ppm need no scaling, but are another rate.
    other = (set_vm_khz(950 * MS, 1_000_200), create(1000 * MS, khz=1_000_200))
    assert possible(*other, tsc(1002 * MS, 2 * MS))
    assert not possible(*other, tsc(1002 * MS, 102 * MS))
    same = (set_vm_khz(950 * MS, 1_000_000), create(1000 * MS))
    assert possible(*same, tsc(1002 * MS, 102 * MS))


def test_where_the_hosts_rate_is_not_known_exactly_a_rate_near_it_leaves_both_open() -> None:
    host = replace(HOST, khz_exact=False, tolerance_ppm=None)
    near = (set_vm_khz(950 * MS, 1_000_200), create(1000 * MS, khz=1_000_200))
    for value in (2 * MS, 102 * MS):
        assert judged(*near, tsc(1002 * MS, value), host=host).possibility is not Possibility.IMPOSSIBLE


def test_a_trace_that_does_not_say_when_the_vm_was_created_leaves_it_open() -> None:
    for value in (2 * MS, 102 * MS, 1002 * MS):
        assert possible(create(1000 * MS), tsc(1002 * MS, value), created=None)
    # It was not created before the host was booted.
    assert not possible(create(1000 * MS), tsc(1002 * MS, 1003 * MS), created=None)


def test_a_vm_that_ignores_writes_has_an_offset_that_is_not_ours_to_know() -> None:
    assert possible(create(1000 * MS), tsc(1002 * MS, 7_000 * MS), honours_writes=False)


def test_two_kernels_that_begin_the_first_generation_otherwise_differ_at_the_first_reading() -> None:
    scenario = SCENARIOS["young-restore"]
    policies = [replace(POLICIES[NEW], epoch=each) for each in ("first-vcpu", "vm")]
    traces = [simulate(scenario.name, scenario.script, each, scenario.host) for each in policies]
    assert [judge(trace, policies[0], scenario.host).possibility for trace in traces] == [
        Possibility.POSSIBLE,
        Possibility.IMPOSSIBLE,
    ]
    found = first_difference(*traces)
    assert found is not None
