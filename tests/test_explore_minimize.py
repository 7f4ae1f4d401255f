# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts made smaller, without any kernel: what is asked of the predicate, and what is left."""

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from kvmharness.explore.minimize import MOST_SCRIPTS, MOST_STEPS, minimize
from kvmharness.script import (
    AwaitTimer,
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscOffset,
    GuestWrite,
    Operation,
    Read,
    Run,
    RunL2,
    Script,
    SetMsrs,
    SetTscOffset,
    Sleep,
    Time,
    Value,
    WriteTogether,
)
from tests.model_strategies import scripts

MS = 1_000_000


def write(value: Value, vcpu: int = 0) -> SetMsrs:
    return SetMsrs(vcpu=vcpu, msrs=(("TSC", value),), label="write")


def where(condition: Callable[[Script], bool]) -> Callable[[Sequence[Script]], list[bool]]:
    return lambda scripts: [condition(each) for each in scripts]


LONG: Script = (
    CreateVcpu(vcpu=0, guest="wrmsr-16", label="create-0"),
    CreateVcpu(vcpu=1, guest="rdtsc-64", label="create-1"),
    GetMsrs(vcpu=1, indices=("TSC", "TSC_ADJUST"), label="read"),
    Sleep(ns=123_456_789),
    SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", 5), ("TSC", Read("read", Time(987_654_321)))), label="write"),
    Run(vcpu=1),
    GetClock(label="clock"),
    Run(vcpu=0),
)


def test_only_the_steps_that_matter_are_left() -> None:
    small = minimize(LONG, where(lambda script: any(isinstance(step, GetClock) for step in script)))
    assert small.script == (GetClock(label="clock"),)


def test_an_l2_is_left_at_l1s_rate_where_that_does_and_goes_on_without_an_offset() -> None:
    def runs_l2_twice(script: Script) -> bool:
        return sum(isinstance(step, RunL2) for step in script) == 2

    script = (
        CreateVcpu(vcpu=0, guest="nested-64"),
        RunL2(vcpu=0, offset=Time(1_234 * MS), rate_ppm=500_000),
        RunL2(vcpu=0, rate_ppm=500_000),
    )
    small = minimize(script, where(runs_l2_twice)).script
    assert [step for step in small if isinstance(step, RunL2)] == [
        RunL2(vcpu=0, offset=Time(1_000 * MS)),
        RunL2(vcpu=0),
    ]


def test_a_guest_becomes_one_that_only_reads_its_tsc_where_that_does() -> None:
    def runs_both(script: Script) -> bool:
        return {step.vcpu_numbers for step in script if step.enters_guest} == {(0,), (1,)}

    def awaits(script: Script) -> bool:
        return any(isinstance(step, AwaitTimer) for step in script)

    script = (
        CreateVcpu(vcpu=0, guest="timer-16"),
        CreateVcpu(vcpu=1, guest="wrmsr-16"),
        AwaitTimer(vcpu=0, deadline=Time(MS), label="timer"),
        GuestWrite(vcpu=1, msr="TSC", value=0, label="guest"),
    )
    plain = tuple(CreateVcpu(vcpu=number, guest="rdtsc-16") for number in (0, 1))
    found = minimize(script, where(runs_both)).script
    assert found == (*plain, Run(vcpu=0, label="timer"), Run(vcpu=1, label="guest"))
    assert any(isinstance(step, AwaitTimer) for step in minimize(script, where(awaits)).script)


def test_an_offset_that_was_read_does_not_become_a_plain_one() -> None:
    def sets_offset(script: Script) -> bool:
        return any(isinstance(step, SetTscOffset) for step in script)

    script = (
        CreateVcpu(vcpu=0),
        GetTscOffset(vcpu=0, label="read"),
        SetTscOffset(vcpu=0, offset=Read("read", Time(300 * MS))),
    )
    small = minimize(script, where(sets_offset)).script
    assert small == (*script[:2], SetTscOffset(vcpu=0, offset=Read("read", 0)))


def test_what_a_step_rests_on_stays_with_it() -> None:
    def reads_vcpu_1(script: Script) -> bool:
        return any(isinstance(step, GetMsrs) and step.vcpu == 1 for step in script)

    created, read = minimize(LONG, where(reads_vcpu_1)).script
    assert isinstance(created, CreateVcpu)
    assert created.vcpu == 1
    assert isinstance(read, GetMsrs)
    assert len(read.indices) == 1


def test_values_and_waits_become_round_and_one_msr_of_several_is_left() -> None:
    def waits_and_writes(script: Script) -> bool:
        written = [step for step in script if isinstance(step, SetMsrs) and "TSC" in step.value_names]
        return bool(written) and sum(step.waits_ns for step in script) > 90 * MS

    small = minimize(LONG, where(waits_and_writes)).script
    assert [step.waits_ns for step in small if isinstance(step, Sleep)] == [100 * MS]
    assert [step.msrs for step in small if isinstance(step, SetMsrs)] == [(("TSC", Time(1000 * MS)),)]


def test_a_script_that_cannot_be_smaller_stays_as_it_is() -> None:
    asked: list[Script] = []

    def only_this(scripts: Sequence[Script]) -> list[bool]:
        asked.extend(scripts)
        return [each == LONG for each in scripts]

    small = minimize(LONG, only_this)
    assert small.script == LONG
    assert small.tried == len(asked) == len(set(asked)), "nothing is asked twice"


def test_no_more_is_asked_than_may_be() -> None:
    batches: list[int] = []

    def holds(scripts: Sequence[Script]) -> list[bool]:
        batches.append(len(scripts))
        return [True] * len(scripts)

    small = minimize(LONG, holds, most_rounds=2)
    assert small.rounds == len(batches) == 2
    assert max(batches) <= MOST_SCRIPTS
    assert len(small.script) < len(LONG)


def test_the_longer_the_scripts_are_the_fewer_a_round_plays() -> None:
    batches: list[list[int]] = []

    def holds(scripts: Sequence[Script]) -> list[bool]:
        batches.append([len(each) for each in scripts])
        return [False] * len(scripts)

    minimize(tuple(Sleep(ns=number) for number in range(1, MOST_STEPS // 10)), holds, most_rounds=3)
    assert 1 < max(len(batch) for batch in batches) < MOST_SCRIPTS
    assert all(sum(batch) <= MOST_STEPS for batch in batches)


def test_two_steps_that_only_go_together_are_spared_together() -> None:
    def both_or_none(script: Script) -> bool:
        kinds = [type(step) for step in script]
        return GetClock in kinds and kinds.count(Run) in {0, 2}

    script = (
        CreateVcpu(vcpu=0, guest="rdtsc-16"),
        Run(vcpu=0),
        GetClock(label="clock"),
        Run(vcpu=0, label="2"),
    )

    def keeps_vcpu(script: Script) -> bool:
        return both_or_none(script) and any(step.creates_vcpu for step in script)

    assert minimize(script, where(keeps_vcpu)).script == (script[0], script[2])


def test_what_a_step_wrote_comes_in_place_of_what_a_later_one_reads_of_it() -> None:
    def ns(script: Script, value: Value) -> int:
        if isinstance(value, Read):
            (read,) = (step for step in script if step.label == value.label and isinstance(step, SetMsrs))
            return ns(script, read.msrs[0][1]) + ns(script, value.plus)
        return value.ns if isinstance(value, Time) else 0

    def writes_more_than_a_second(script: Script) -> bool:
        last = script[-1] if script else None
        return isinstance(last, SetMsrs) and ns(script, last.msrs[0][1]) > 1000 * MS

    script = (
        CreateVcpu(vcpu=0, guest="rdtsc-16", label="create"),
        SetMsrs(vcpu=0, msrs=(("TSC", Time(800 * MS)),), label="first"),
        SetMsrs(vcpu=0, msrs=(("TSC", Read("first")),), label="second"),
        SetMsrs(vcpu=0, msrs=(("TSC", Read("second", Time(300 * MS))),), label="third"),
    )
    small = minimize(script, where(writes_more_than_a_second)).script
    assert [step.describe() for step in small] == ["creation of vCPU 0", "write TSC of vCPU 0"]


def test_one_long_sleep_comes_in_place_of_two() -> None:
    def sleeps_a_second(script: Script) -> bool:
        return sum(step.waits_ns for step in script) >= 1000 * MS

    script = (Sleep(ns=400 * MS), GetClock(label="clock"), Sleep(ns=600 * MS))
    assert minimize(script, where(sleeps_a_second)).script == (Sleep(ns=1000 * MS),)


def _writes(script: Script) -> int:
    return sum(step.sets_tsc and not step.creates_vcpu for step in script)


def _is_playable(script: Script) -> bool:
    created: set[int] = set()
    for step in script:
        if step.creates_vcpu:
            created |= {*step.vcpu_numbers}
        elif not {*step.vcpu_numbers} <= created:
            return False
    return True


@given(scripts(most=10), st.integers(0, 3))
def test_what_is_left_still_holds_is_no_longer_and_can_be_played(script: Script, least: int) -> None:
    least = min(least, _writes(script))

    def holds(each: Script) -> bool:
        return _writes(each) >= least

    small = minimize(script, where(holds)).script
    assert holds(small)
    assert len(small) <= len(script)
    assert _is_playable(small)
    needed: list[Operation] = [step for step in small if step.sets_tsc and not step.creates_vcpu]
    assert len(needed) >= least


def test_of_several_vcpus_that_are_written_at_once_one_is_left_where_that_will_do() -> None:
    script = (
        *(CreateVcpu(vcpu=vcpu, guest="rdtsc-16", label=f"create-{vcpu}") for vcpu in (0, 1)),
        WriteTogether(vcpus=(0, 1), values=(7, 0), label="at-once"),
    )

    def writes(script: Script) -> bool:
        return any(not step.creates_vcpu and 1 in step.vcpu_numbers for step in script)

    small = minimize(script, where(writes))
    assert [step.describe() for step in small.script] == ["creation of vCPU 1", "write TSC of vCPU 1"]
