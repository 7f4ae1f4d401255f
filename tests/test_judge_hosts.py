# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: masterclock, other CPUs, unstable and protected TSCs."""

from kvmharness.model.state import Host
from kvmharness.script import MoveThread, SetVmTscKhz
from kvmharness.trace import Event
from tests.hand_worked import (
    KHZ,
    MS,
    NEW,
    OLD,
    clock,
    create,
    offset,
    possible,
    run,
    set_offset,
    step,
    tsc,
    write,
)

# The masterclock


def test_the_flags_lag_behind_the_first_run_and_behind_a_divergence() -> None:
    pair = (create(1000 * MS), create(1001 * MS, 1))
    ran = (*pair, run(1002 * MS, 2 * MS), run(1003 * MS, 3 * MS, vcpu=1))
    parted = (*ran, write(1004 * MS, 100_000 * MS, 1))
    again = (*parted, run(1005 * MS, 100_001 * MS, vcpu=1))
    for events, flags in ((pair, 0), (ran, 2), (parted, 2), (again, 0)):
        end = events[-1].bracket.tsc_after + MS
        assert possible(*events, clock(end, flags))
        assert not possible(*events, clock(end, 2 - flags))


def test_a_host_whose_clock_is_not_the_tsc_has_no_masterclock() -> None:
    ran = (create(1000 * MS), run(1002 * MS, 2 * MS))
    unknown = Host(khz=KHZ, khz_exact=True, tolerance_ppm=250)
    # Not known: either; but what was seen once holds.
    assert possible(*ran, clock(1003 * MS, 2), clock(1004 * MS, 2), host=unknown)
    assert possible(*ran, clock(1003 * MS, 0), clock(1004 * MS, 0), host=unknown)
    assert not possible(*ran, clock(1003 * MS, 0), clock(1004 * MS, 2), host=unknown)


# Loads on another CPU


def move(at: int, before: int, after: int) -> Event:
    return step(MoveThread(to=1), at, before, after)


def test_like_xus_first_version_sets_the_tsc_back_at_a_load_on_another_cpu() -> None:
    # The offset was -1000 ms; at 1100 ms, on another CPU, the TSC is 0 again, for 0 was last written.
    moved = (create(1000 * MS), move(1099 * MS, 0, 1))
    back, stays = offset(1100 * MS, -1100 * MS - 500), offset(1100 * MS, -1000 * MS - 500)
    assert possible(*moved, back, policy="like-xu-v1")
    assert not possible(*moved, stays, policy="like-xu-v1")
    assert possible(*moved, stays, policy=OLD)
    assert not possible(*moved, back, policy=OLD)


def test_it_does_so_only_before_the_first_run_and_only_if_the_cpu_changed() -> None:
    ran = (create(1000 * MS), run(1010 * MS, 10 * MS), move(1099 * MS, 0, 1))
    assert not possible(*ran, offset(1100 * MS, -1100 * MS - 500), policy="like-xu-v1")
    stayed = (create(1000 * MS), move(1099 * MS, 1, 1))
    assert not possible(*stayed, offset(1100 * MS, -1100 * MS - 500), policy="like-xu-v1")


# An unstable host TSC


def test_with_an_unstable_tsc_the_guests_tsc_stands_still_until_it_runs_and_then_catches_up() -> None:
    host = Host(khz=KHZ, khz_exact=True, stable=False, has_attribute=True, tolerance_ppm=250)
    created = create(1000 * MS)
    # Each load sets the TSC to what it last was: 0, for all that the 10 ms have passed.
    assert possible(created, tsc(1010 * MS, 0), host=host)
    assert not possible(created, tsc(1010 * MS, 10 * MS), host=host)
    # The run brings it to where it should be, or not yet, but not beyond and never back.
    assert possible(created, run(1010 * MS, 10 * MS), tsc(1020 * MS, 10 * MS), host=host)
    assert not possible(created, run(1010 * MS, 12 * MS), host=host)
    assert not possible(created, run(1010 * MS, -1 * MS), host=host)


# A protected TSC


def test_a_protected_tsc_takes_every_write_and_does_nothing() -> None:
    # Created, written and set, and still the host's own TSC, for every vCPU.
    events = (create(1000 * MS), write(1010 * MS, 5), set_offset(1011 * MS, 7), create(1012 * MS, 1))
    still = (offset(1020 * MS, 0), tsc(1021 * MS, 1021 * MS, 1))
    assert possible(*events, *still, policy="tsc-protected")
    assert not possible(*events, *still, policy=NEW)
    assert not possible(*events, still[0], offset(1022 * MS, 7, 1), policy="tsc-protected")


def test_a_protected_tsc_may_still_follow_a_rate() -> None:
    # Seen on this project's own host: writes do nothing, but a vCPU of a rate out of tolerance reads 0.
    events = (
        step(SetVmTscKhz(khz=1_001_000), 990 * MS, 1_001_000),
        create(1000 * MS, khz=1_001_000),
        tsc(1010 * MS, 0),
    )
    assert possible(*events, policy="tsc-protected")
