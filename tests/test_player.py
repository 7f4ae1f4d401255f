# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts played on this machine's own /dev/kvm."""

import errno
import os
import time
from collections.abc import Iterator

import pytest

from kvmharness import script
from kvmharness.guests.layout import kvmclock_address
from kvmharness.kvm import KvmError, System, Vcpu, Vm, ioctls
from kvmharness.player import player
from kvmharness.script import (
    PVCLOCK_GUEST_STOPPED,
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    GuestWrite,
    KvmclockCtrl,
    MoveThread,
    Operation,
    Ppm,
    Read,
    ReadKvmclock,
    Run,
    SetClock,
    SetMsrs,
    SetTscKhz,
    SetVmTscKhz,
    Sleep,
    Time,
    WriteTogether,
)
from kvmharness.trace import Event, from_played

pytestmark = pytest.mark.kvm

WRITER = CreateVcpu(vcpu=0, guest="wrmsr-16")
A_SECOND = SetMsrs(vcpu=0, msrs=(("TSC", Time(10**9)),))


def play(system: System, *operations: Operation) -> tuple[Event, ...]:
    steps = player.Player(system).play([script.to_json(operation) for operation in operations])
    return from_played("test", "release", steps).events


def in_host_time(samples: tuple[int, ...], offset: Event) -> list[int]:
    if offset.error:
        pytest.skip("missing capability: KVM_VCPU_TSC_OFFSET")
    return [(sample - offset.values[0]) % 2**64 for sample in samples]


def lies_inside(samples: list[int], event: Event) -> bool:
    edges = [event.bracket.tsc_before, *samples, event.bracket.tsc_after]
    return edges == sorted(edges)


@pytest.fixture
def affinity() -> Iterator[set[int]]:
    """The CPUs the test may use, which are given back at its end."""
    cpus = os.sched_getaffinity(0)
    yield cpus
    os.sched_setaffinity(0, cpus)


@pytest.fixture
def two_cpus(affinity: set[int]) -> set[int]:
    if len(affinity) < 2:
        pytest.skip("missing capability: a second CPU")
    return affinity


# Frequencies


@pytest.mark.parametrize("ppm", [0, 200, -200])
def test_what_is_written_as_ppm_is_of_the_khz_the_vcpu_was_created_with(system: System, ppm: int) -> None:
    created, *both = play(
        system, CreateVcpu(vcpu=0), SetTscKhz(vcpu=0, khz=Ppm(ppm)), SetTscKhz(vcpu=0, khz=Ppm(ppm))
    )
    for event in both:
        assert event.values == (created.values[0] * (1_000_000 + ppm) // 1_000_000,)


def test_a_time_is_in_the_khz_that_were_set_last(system: System) -> None:
    created, rise, tsc, read = play(
        system, CreateVcpu(vcpu=0), SetTscKhz(vcpu=0, khz=Ppm(200)), A_SECOND, GetTscKhz(vcpu=0)
    )
    if rise.error:
        pytest.skip(f"missing capability: a vCPU 200 ppm faster ({rise.error})")
    assert rise.values[0] > created.values[0]
    assert read.values == rise.values
    assert tsc.values == (rise.values[0] * 1000,)


def test_a_time_stays_in_the_old_khz_when_new_ones_were_refused(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise KvmError(ioctls.VCPU_SET_TSC_KHZ, errno.EINVAL)

    monkeypatch.setattr(Vcpu, "set_tsc_khz", refuse)
    created, refused, tsc = play(system, CreateVcpu(vcpu=0), SetTscKhz(vcpu=0, khz=1), A_SECOND)
    assert (refused.values, refused.error) == ((1,), "EINVAL")
    assert tsc.values == (created.values[0] * 1000,)


def test_a_time_is_in_the_hosts_khz_when_zero_was_set(system: System) -> None:
    _, zero, tsc, read = play(
        system, CreateVcpu(vcpu=0), SetTscKhz(vcpu=0, khz=0), A_SECOND, GetTscKhz(vcpu=0)
    )
    if zero.error:
        pytest.skip(f"missing capability: setting a vCPU's kHz ({zero.error})")
    assert zero.values == (0,)
    assert read.values[0] > 0
    assert tsc.values == (read.values[0] * 1000,)


def test_the_khz_of_a_vm_are_what_its_vcpus_start_with(system: System) -> None:
    vm, created, read = play(system, SetVmTscKhz(khz=Ppm(0)), CreateVcpu(vcpu=0), GetTscKhz(vcpu=0))
    if vm.error:
        pytest.skip(f"missing capability: setting a VM's kHz ({vm.error})")
    assert vm.values == created.values == read.values


def test_a_vm_whose_khz_cannot_be_read_has_no_ppm_of_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise KvmError(ioctls.VM_GET_TSC_KHZ, errno.ENOTTY)

    monkeypatch.setattr(Vm, "tsc_khz", refuse)
    unknown, known, created = play(
        system, SetVmTscKhz(khz=Ppm(200)), SetVmTscKhz(khz=2**31), CreateVcpu(vcpu=0)
    )
    assert (unknown.values, unknown.error) == ((), "ENOTTY")
    assert known.values == (2**31,)
    assert created.operation == CreateVcpu(vcpu=0)


# Moving between CPUs


def test_a_thread_moves_and_is_free_again_at_the_end(
    system: System, two_cpus: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(time, "sleep", lambda _: seen.append(player._this_cpu(two_cpus)))
    wait = Sleep(ns=10**9)
    there, _, back, _ = play(system, MoveThread(to=1), wait, MoveThread(to=0), wait)
    begin, other = there.values
    assert begin != other
    assert {begin, other} <= two_cpus
    assert back.values == (other, begin)
    assert seen == [other, begin]
    assert os.sched_getaffinity(0) == two_cpus


def test_cpus_are_counted_from_where_the_script_began(
    system: System, two_cpus: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = min(two_cpus), max(two_cpus)
    monkeypatch.setattr(player, "_this_cpu", max)
    stay, move = play(system, MoveThread(to=0), MoveThread(to=1))
    assert stay.values == (last, last)
    assert move.values == (last, first)


def test_a_vcpu_runs_where_the_thread_has_moved_to(system: System, two_cpus: set[int]) -> None:
    assert len(two_cpus) > 1
    _, here, _, there = play(system, CreateVcpu(vcpu=0), Run(vcpu=0), MoveThread(to=1), Run(vcpu=0))
    assert len(here.values) == len(there.values) == 1
    assert here.values < there.values


def test_a_cpu_that_is_not_there_is_refused_and_the_script_goes_on(
    system: System, affinity: set[int]
) -> None:
    only = min(affinity)
    os.sched_setaffinity(0, {only})
    refused, stays = play(system, MoveThread(to=1), MoveThread(to=0))
    assert (refused.values, refused.error) == ((), "EINVAL")
    assert (stays.values, stays.error) == ((only, only), "")


# Writes at the same time


def test_vcpus_are_written_at_the_same_time_each_from_a_cpu_of_its_own(
    system: System, affinity: set[int]
) -> None:
    three = [CreateVcpu(vcpu=vcpu) for vcpu in range(3)]
    once = WriteTogether(vcpus=(2, 0, 1), values=(Time(10**9), 5, 7))
    *created, both, after = play(system, *three, once, Run(vcpu=0))
    assert not both.error
    assert both.values[1::2] == (created[0].values[0] * 1000, 5, 7)
    cpus = both.values[::2]
    assert set(cpus) == (affinity if len(affinity) < 3 else {*cpus})
    assert len(set(cpus)) == min(3, len(affinity))
    assert created[-1].bracket.tsc_after <= both.bracket.tsc_before
    assert both.bracket.tsc_before < both.bracket.tsc_after <= after.bracket.tsc_before
    assert os.sched_getaffinity(0) == affinity


def test_a_thread_that_cannot_write_does_not_keep_the_others_waiting(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise KvmError(ioctls.SET_MSRS, errno.EINVAL)

    monkeypatch.setattr(Vcpu, "set_msrs", refuse)
    *_, both, run = play(
        system,
        CreateVcpu(vcpu=0),
        CreateVcpu(vcpu=1),
        WriteTogether(vcpus=(0, 1), values=(5, 7)),
        Run(vcpu=0),
    )
    assert (both.error, both.values[1::2]) == ("EINVAL", (5, 7))
    assert run.values


# Scripts that wait together

A_WAIT = Sleep(ns=30_000_000)


def played_together(
    system: System, *scripts: tuple[Operation, ...]
) -> tuple[list[tuple[Event, ...]], list[str]]:
    """What each script left, and the order in which they were announced; "0" is the first's name."""
    order: list[str] = []
    data = [
        (str(number), [script.to_json(operation) for operation in each])
        for number, each in enumerate(scripts)
    ]
    steps = {name: each for name, _, each in player.Player(system).play_together(data, order.append)}
    return [from_played(name, "release", steps[name]).events for name, _ in data], order


def test_scripts_wait_at_the_same_time(system: System) -> None:
    one, other = played_together(system, *[(CreateVcpu(vcpu=0), A_WAIT, Run(vcpu=0))] * 2)[0]
    assert one[1].bracket.tsc_before < other[1].bracket.tsc_before < one[1].bracket.tsc_after
    assert len(one[2].values) == len(other[2].values) == 1
    for events in (one, other):
        assert events[1].bracket.ns_after - events[1].bracket.ns_before >= A_WAIT.ns
        assert [lies_inside([], event) for event in events] == [True] * 3


def test_the_wait_that_is_over_first_goes_on_first_and_before_what_has_not_begun(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = (Sleep(ns=200_000_000),), (Sleep(ns=10_000_000),)
    assert played_together(system, long, short, short)[1] == ["0", "1", "2", "1", "2", "0"]
    # One that is over when there is still something to begin: a run of the second outlasts the first's wait.
    create = CreateVcpu(vcpu=0, guest="ring-16")
    busy = (create, Run(vcpu=0, ns=50_000_000), *long)
    assert played_together(system, short, busy, long)[1] == ["0", "1", "0", "2", "1", "2"]
    monkeypatch.setattr(player, "MOST_VMS", 1)
    # One that goes on after itself is not announced again.
    assert played_together(system, short, short)[1] == ["0", "1"]


@pytest.mark.parametrize("cpus", [1, 2])
def test_no_more_vms_are_open_at_once_than_may_be(
    system: System, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    created: list[Vm] = []
    most = 0
    create = System.create_vm

    def count(self: System) -> Vm:
        nonlocal most
        created.append(create(self))
        most = max(most, sum(not vm.closed for vm in created))
        return created[-1]

    monkeypatch.setattr(System, "create_vm", count)
    monkeypatch.setattr(player, "MOST_VMS", 3)
    played, _ = played_together(system, *[(A_WAIT, A_WAIT)] * 8)
    assert [len(events) for events in played] == [2] * 8
    assert len(created) == 8
    # Three that are played with; with several CPUs three are being given back beside these.
    assert 3 <= most <= (3 if cpus == 1 else 6)
    assert all(vm.closed for vm in created)


def test_each_script_goes_on_where_it_had_moved_to(system: System, two_cpus: set[int]) -> None:
    moves = (MoveThread(to=1), A_WAIT, MoveThread(to=1))
    stays = (MoveThread(to=0), A_WAIT, MoveThread(to=0))
    (_, _, there), (_, _, here) = played_together(system, moves, stays)[0]
    assert there.values[0] == there.values[1] != here.values[0] == here.values[1]
    assert os.sched_getaffinity(0) == two_cpus


def test_scripts_that_nobody_waits_for_any_more_leave_nothing_open(
    system: System, affinity: set[int]
) -> None:
    before = os.listdir("/proc/self/fd")
    wait = [script.to_json(CreateVcpu(vcpu=0)), script.to_json(Sleep(ns=3600 * 10**9))]
    playing = player.Player(system).play_together([("long", wait), ("none", [])])
    name, _, steps = next(playing)
    assert (name, steps) == ("none", [])
    playing.close()
    assert os.listdir("/proc/self/fd") == before
    assert os.sched_getaffinity(0) == affinity


# Guests that write


def test_a_guest_writes_between_its_two_samples(system: System) -> None:
    _, wrote, read = play(
        system,
        WRITER,
        GuestWrite(vcpu=0, msr="WALL_CLOCK", value=0x3000),
        GetMsrs(vcpu=0, indices=("WALL_CLOCK",)),
    )
    written, before, after = wrote.values
    assert written == 0x3000
    assert before < after
    assert read.values == (0x3000,)


def test_what_a_guest_is_to_write_is_a_value_like_others(system: System) -> None:
    created, wrote = play(system, WRITER, GuestWrite(vcpu=0, msr="TSC", value=Time(10**9)))
    assert wrote.values[0] == created.values[0] * 1000
    assert len(wrote.values) == 3


def test_a_guest_that_does_not_write_is_refused_and_nothing_runs(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> int:
        raise AssertionError("the guest ran")

    monkeypatch.setattr(Vcpu, "run", run)
    _, refused, read = play(
        system, CreateVcpu(vcpu=0), GuestWrite(vcpu=0, msr="TSC", value=5), GetTscKhz(vcpu=0)
    )
    assert (refused.values, refused.error) == ((), "EINVAL")
    assert read.values


def test_a_step_without_an_ioctl_has_a_bracket_of_its_own(system: System) -> None:
    _, read, refused = play(
        system, CreateVcpu(vcpu=0), GetTscKhz(vcpu=0), GuestWrite(vcpu=0, msr="TSC", value=5)
    )
    assert read.bracket.tsc_after <= refused.bracket.tsc_before
    assert read.bracket.ns_after <= refused.bracket.ns_before


def test_a_guest_without_time_writes_nothing_now_or_later(system: System) -> None:
    _, late, run, read, offset = play(
        system,
        WRITER,
        GuestWrite(vcpu=0, msr="WALL_CLOCK", value=0x3000, ns=0),
        Run(vcpu=0),
        GetMsrs(vcpu=0, indices=("WALL_CLOCK",)),
        GetTscOffset(vcpu=0),
    )
    assert (late.values, late.error) == ((0x3000,), "")
    assert len(run.values) == 2
    assert read.values == (0,)
    assert lies_inside(in_host_time(run.values, offset), run)


def test_a_run_that_fails_leaves_what_was_to_be_written(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise KvmError(ioctls.RUN, errno.EFAULT)

    monkeypatch.setattr(Vcpu, "run", fail)
    _, failed = play(system, WRITER, GuestWrite(vcpu=0, msr="TSC", value=-1))
    assert (failed.values, failed.error) == ((2**64 - 1,), "EFAULT")


# Samples


def test_a_run_has_no_samples_of_an_earlier_one(system: System) -> None:
    _, long, none, again, offset = play(
        system,
        CreateVcpu(vcpu=0, guest="ring-16"),
        Run(vcpu=0, ns=20_000_000),
        Run(vcpu=0, ns=0),
        Run(vcpu=0, ns=20_000_000),
        GetTscOffset(vcpu=0),
    )
    assert len(long.values) == 255
    assert none.values == ()
    assert len(again.values) == 255
    assert lies_inside(in_host_time(again.values, offset), again)


# The VM's clock


def test_a_clock_that_is_set_goes_on_from_there(system: System) -> None:
    _, was_set, read = play(
        system, CreateVcpu(vcpu=0), SetClock(clock=Time(10**12), label="set"), GetClock(label="clock")
    )
    assert (was_set.values, was_set.error) == ((10**12,), "")
    passed = read.bracket.ns_after - was_set.bracket.ns_before
    assert 0 <= read.values[0] - 10**12 <= passed + passed // 100 + 1000


def test_a_clock_is_set_with_a_real_time_that_was_read(system: System) -> None:
    _, _, saved, *restored = play(
        system,
        CreateVcpu(vcpu=0),
        Run(vcpu=0),
        GetClock(label="saved"),
        SetClock(clock=Read("saved"), realtime=Read("saved", place=2), label="restored"),
    )
    if len(saved.values) < 4:
        assert not restored
        pytest.skip("missing capability: KVM_CLOCK_REALTIME")
    assert [each.values for each in restored] == [(saved.values[0], saved.values[2])]


def test_a_value_that_was_not_read_ends_the_script(system: System) -> None:
    events = play(
        system, CreateVcpu(vcpu=0, label="create"), SetClock(clock=Read("create", place=1)), GetClock()
    )
    assert len(events) == 1


def test_a_page_is_read_out_of_the_guests_memory(system: System) -> None:
    _, before, refused, _, _, page, told, _, after = play(
        system,
        CreateVcpu(vcpu=3),
        ReadKvmclock(vcpu=3),
        KvmclockCtrl(vcpu=3),
        SetMsrs(vcpu=3, msrs=(("SYSTEM_TIME", kvmclock_address(3) + 1),)),
        Run(vcpu=3),
        ReadKvmclock(vcpu=3),
        KvmclockCtrl(vcpu=3),
        Run(vcpu=3),
        ReadKvmclock(vcpu=3),
    )
    assert before.values == (0,) * 6
    assert (refused.error, told.error) == ("EINVAL", "")
    assert page.values[0] > 0
    assert page.values[0] % 2 == 0
    assert page.values[3] > 0
    assert page.values[5] & PVCLOCK_GUEST_STOPPED == 0
    assert after.values[0] > page.values[0]
    assert after.values[5] & PVCLOCK_GUEST_STOPPED
