# SPDX-License-Identifier: GPL-2.0-or-later
"""vCPUs that run at once: the judge and the claims on hand-worked traces, and the player."""

import errno
import os
import threading

import pytest

from kvmharness import script
from kvmharness.contract import NoWarpClaim, Status
from kvmharness.kvm import System
from kvmharness.player import player, threads
from kvmharness.script import CreateVcpu, GetClock, Operation, Run, RunTogether
from kvmharness.trace import Event, Trace, from_played
from tests.hand_worked import MS, create, judged, possible, run, set_offset, step, tsc, write

CLAIM = NoWarpClaim(text="none", seen="meet")


def meet(at: int, *values: int, vcpus: tuple[int, ...] = (0, 1), error: str = "") -> Event:
    """Each vCPU's CPU, handovers, warps, and the largest."""
    return step(RunTogether(vcpus=vcpus, label="meet"), at, *values, width=MS, error=error)


def clock(at: int, flags: int) -> Event:
    return step(GetClock(), at, at, flags)


NO_WARP = (0, 50, 0, 0, 1, 50, 0, 0)
A_WARP = (0, 50, 0, 0, 1, 50, 3, 700)


# The judge


def test_vcpus_of_one_generation_see_no_warp() -> None:
    pair = (create(1000 * MS), create(1001 * MS, 1))
    assert possible(*pair, meet(1002 * MS, *NO_WARP))
    judgement = judged(*pair, meet(1002 * MS, *A_WARP))
    assert judgement.mismatch
    assert judgement.mismatch[:2] == ("run vCPUs 0, 1 at once", "0, 50, 0, 0, 1, 50, 3, 700")
    # Equal offsets by the attribute are no other thing.
    same = (*pair, set_offset(1003 * MS, 5), set_offset(1004 * MS, 5, 1))
    assert possible(*same, meet(1005 * MS, *NO_WARP))
    assert not possible(*same, meet(1005 * MS, *A_WARP))


def test_vcpus_that_were_set_apart_may_see_anything() -> None:
    apart = (create(1000 * MS), create(1001 * MS, 1), write(1002 * MS, 100_000 * MS, 1))
    assert possible(*apart, meet(1003 * MS, *NO_WARP))
    assert possible(*apart, meet(1003 * MS, *A_WARP))


def test_running_at_once_is_a_run_of_each() -> None:
    # Sean Christopherson's rule asks whether a vCPU has run; and the masterclock is looked at.
    pair = (create(1000 * MS), create(1001 * MS, 1))
    met = (*pair, meet(1002 * MS, *NO_WARP))
    for vcpu in (0, 1):
        snapped = (*met, write(1010 * MS, 500 * MS, vcpu), tsc(1011 * MS, 11 * MS, vcpu))
        assert possible(*snapped, policy="sean-christopherson")
        assert not possible(*pair, *snapped[3:], policy="sean-christopherson")
    assert possible(*met, clock(1010 * MS, 2))
    assert not possible(*met, clock(1010 * MS, 0))


def test_a_vcpu_that_followed_no_other_may_not_have_run_at_all() -> None:
    alone = (create(1000 * MS), create(1001 * MS, 1), meet(1002 * MS, 0, 0, 0, 0, 1, 0, 0, 0))
    for flags in (0, 2):
        assert possible(*alone, clock(1010 * MS, flags))


def test_each_runs_on_its_own_cpu_and_the_thread_stays_where_it_was() -> None:
    # By Like Xu's rule a load on another CPU before the first run sets the TSC back; vCPU 1 was created on
    # CPU 7, and runs on 8 for the first time.
    pair = (create(1000 * MS), create(1001 * MS, 1), write(1002 * MS, 100_000 * MS, 1))
    met = (*pair, meet(1100 * MS, 7, 50, 0, 0, 8, 50, 0, 0))
    assert possible(*met, tsc(1200 * MS, 100_100 * MS, 1), policy="like-xu-v1")
    assert possible(*met, tsc(1200 * MS, 200 * MS), policy="like-xu-v1")


def test_too_few_cpus_or_another_guest_are_refused() -> None:
    pair = (create(1000 * MS), create(1001 * MS, 1))
    assert possible(*pair, meet(1002 * MS, error="EINVAL"), run(1010 * MS, 10 * MS))
    assert judged(*pair, meet(1002 * MS, error="EFAULT")).doubt == "it failed with EFAULT"
    assert judged(create(1000 * MS), meet(1002 * MS, *NO_WARP)).doubt == "vCPU 1 was never created"


# The claim


def status(event: Event) -> tuple[Status, str]:
    finding = CLAIM.check(Trace("test", "test", (event,)))
    return finding.status, finding.reason


def test_a_warp_breaks_the_claim_and_not_having_met_says_nothing() -> None:
    assert status(meet(MS, *NO_WARP)) == (Status.KEPT, "")
    assert status(meet(MS, *A_WARP)) == (
        Status.BROKEN,
        "vCPU 1 read a TSC less than one that another vCPU had read before: 3 of 50 times, by up to 700 "
        "cycles",
    )
    assert status(meet(MS, 0, 50, 0, 0, 1, 0, 0, 0))[0] is Status.UNDECIDED
    assert status(meet(MS, error="EINVAL"))[0] is Status.UNDECIDED
    assert status(step(Run(vcpu=0, label="meet"), MS, 5))[0] is Status.UNDECIDED


# The player


def play(system: System, *operations: Operation) -> tuple[Event, ...]:
    steps = player.Player(system).play([script.to_json(operation) for operation in operations])
    return from_played("test", "release", steps).events


PAIR = (CreateVcpu(vcpu=0, guest="warp-64"), CreateVcpu(vcpu=3, guest="warp-64"))


@pytest.mark.kvm
def test_two_vcpus_meet_and_meet_again(system: System) -> None:
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        pytest.skip("missing capability: a second CPU")
    _, _, first, second = play(system, *PAIR, RunTogether(vcpus=(0, 3)), RunTogether(vcpus=(3, 0)))
    for event in (first, second):
        assert event.error == ""
        (one, _, *warps), (other, _, *others) = event.values[:4], event.values[4:]
        assert one != other
        assert {one, other} <= cpus
        assert warps == others == [0, 0]
    assert os.sched_getaffinity(0) == cpus


@pytest.mark.kvm
def test_what_cannot_meet_is_refused_and_nothing_runs(system: System) -> None:
    other = CreateVcpu(vcpu=1)
    _, _, _, stranger, many = play(
        system, *PAIR, other, RunTogether(vcpus=(0, 1)), RunTogether(vcpus=(0, 3), ns=0)
    )
    assert (stranger.values, stranger.error) == ((), "EINVAL")
    assert many.values[1::4] == (0, 0) or many.error == "EINVAL"
    only = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {only})
    try:
        *_, few = play(system, *PAIR, RunTogether(vcpus=(0, 3)))
    finally:
        os.sched_setaffinity(0, before)
    assert (few.values, few.error) == ((), "EINVAL")
    # A vCPU that is not there ends the script.
    assert len(play(system, PAIR[0], RunTogether(vcpus=(0, 3)), GetClock())) == 1


def test_tasks_are_done_in_threads_of_their_own_and_an_error_comes_out_when_all_are_done() -> None:
    here = min(os.sched_getaffinity(0))
    seen: list[int] = []

    def note(number: int, ns: int) -> None:
        seen.append(threading.get_ident())
        if number == 0:
            raise OSError(errno.EFAULT, f"no {ns}")

    with pytest.raises(OSError, match="no 7"):
        threads.at_once(note, [(here, 0, 7), (here, 1, 8), (here, 2, 9)])
    assert len(seen) == 3
    assert threading.get_ident() not in seen
