# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: how long a masterclock lasts, what renews it, how far TSCs catch up."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmharness.guests.layout import kvmclock_address
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import from_tables
from kvmharness.model.simulate import simulate
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import TSC_STABLE, GetClock, ReadKvmclock, SetMsrs
from kvmharness.trace import Event, Trace
from tests.hand_worked import HOST, MS, NEW, OLD, create, run, set_khz, step, write

STABLE = 1


def possible(*events: Event, like: str = NEW, **keys: Any) -> bool:
    judgement = judge(Trace("hand-worked", "none", events), replace(POLICIES[like], **keys), HOST)
    assert judgement.possibility is not Possibility.UNDECIDED, judgement
    return judgement.possibility is Possibility.POSSIBLE


def page_on(at: int, vcpu: int = 0) -> Event:
    address = kvmclock_address(vcpu) + 1
    return step(SetMsrs(vcpu=vcpu, msrs=(("SYSTEM_TIME", address),)), at, address)


def page(at: int, version: int, flags: int, of: int, *, tsc: int | None = None) -> Event:
    """vCPU 0's page, of when the host's clock was `of`; the vCPU was created at 1000 ms, the VM at 900 ms."""
    written = of - 1000 * MS if tsc is None else tsc
    return step(ReadKvmclock(vcpu=0), at, version, written, of - 900 * MS, 2**31, 1, flags)


# Two vCPUs with one offset, the masterclock of the run at 1004 ms, and vCPU 0's page of then.
PAIR = (
    create(1000 * MS),
    create(1000 * MS + 2000, 1),
    page_on(1001 * MS),
    run(1003 * MS, 3 * MS, vcpu=1),
    run(1004 * MS, 4 * MS),
)


def test_a_masterclock_by_khz_survives_that_offsets_differ_but_no_page_is_stable() -> None:
    # vCPU 1 is set 100 s ahead, and runs at 1007 ms: the masterclock is of then; or it is gone, and vCPU 0's
    # page is of its own run.
    apart = (
        *PAIR,
        write(1006 * MS, 100_000 * MS, 1),
        run(1007 * MS, 100_001 * MS, vcpu=1),
        run(1009 * MS, 9 * MS),
    )
    of_masterclock, of_run = page(1010 * MS, 4, 0, 1007 * MS), page(1010 * MS, 4, 0, 1009 * MS)
    assert possible(*apart, of_masterclock, stable_by="khz")
    assert not possible(*apart, of_run, stable_by="khz")
    assert possible(*apart, of_run, stable_by="offsets")
    assert not possible(*apart, of_masterclock, stable_by="offsets")
    assert not possible(*apart, page(1010 * MS, 4, STABLE, 1007 * MS), stable_by="khz")


@pytest.mark.parametrize("flags", [0, 2])
def test_whether_the_clock_is_called_stable_is_open_while_offsets_differ_and_a_masterclock_lasts(
    flags: int,
) -> None:
    apart = (*PAIR, write(1005 * MS, 100_000 * MS, 1), run(1007 * MS, 100_002 * MS, vcpu=1))
    said = step(GetClock(), 1010 * MS, 110 * MS, flags)
    assert possible(*apart, said, stable_by="khz")
    # Where a masterclock needs equal offsets there is none.
    assert possible(*apart, said) is (flags == 0)


SERIES = from_tables(
    tomllib.loads((Path(__file__).parents[1] / "docs" / "clock-series.toml").read_text()), POLICIES
)


@pytest.mark.parametrize("name", SERIES)
def test_what_the_clock_series_does_in_a_scenario_is_possible_under_itself(name: str) -> None:
    policy = SERIES[name]
    for scenario in SCENARIOS.values():
        trace = simulate(scenario.name, scenario.script, policy, scenario.host)
        judgement = judge(trace, policy, scenario.host)
        assert judgement.possibility is not Possibility.IMPOSSIBLE, (scenario.name, judgement.mismatch)


def test_a_masterclock_by_khz_is_gone_when_khz_differ() -> None:
    # 200 ppm need no scaling, but are another rate.
    other_rate = (*PAIR, set_khz(1005 * MS, 1_000_200, 1), write(1006 * MS, 100_000 * MS, 1))
    ran = (*other_rate, run(1007 * MS, 100_001 * MS, vcpu=1), run(1009 * MS, 9 * MS))
    assert possible(*ran, page(1010 * MS, 4, 0, 1009 * MS), stable_by="khz")
    assert not possible(*ran, page(1010 * MS, 4, 0, 1007 * MS), stable_by="khz")


@pytest.mark.parametrize(
    ("by", "renewed", "kept"),
    [("write", True, False), ("generation", False, True), ("neither", False, True), ("either", True, True)],
)
def test_a_matching_write_renews_a_masterclock_or_does_not(by: str, renewed: bool, kept: bool) -> None:
    # vCPU 1 has 6 ms at 1006 ms, and is given 6 ms: the write snaps, and nothing else changes.
    ran = (*PAIR, write(1006 * MS, 6 * MS, 1), run(1007 * MS, 7 * MS, vcpu=1), run(1009 * MS, 9 * MS))
    pages = page(1010 * MS, 4, STABLE, 1007 * MS), page(1010 * MS, 2, STABLE, 1004 * MS)
    assert [possible(*ran, each, like=OLD, renews_masterclock=by) for each in pages] == [renewed, kept]


@pytest.mark.parametrize(
    ("by", "renewed", "kept"), [("write", True, False), ("generation", True, False), ("neither", False, True)]
)
def test_a_new_generation_renews_a_masterclock_or_does_not(by: str, renewed: bool, kept: bool) -> None:
    # The one vCPU is set to 100 s at 1003 ms; it is all of its generation, so there is a masterclock still.
    ran = (
        create(1000 * MS),
        page_on(1001 * MS),
        run(1002 * MS, 2 * MS),
        write(1003 * MS, 100_000 * MS),
        run(1004 * MS, 100_001 * MS),
    )
    pages = page(1005 * MS, 4, STABLE, 1004 * MS, tsc=100_001 * MS), page(1005 * MS, 2, STABLE, 1002 * MS)
    assert [possible(*ran, each, renews_masterclock=by) for each in pages] == [renewed, kept]


def clock(at: int, flags: int) -> Event:
    """KVM_GET_CLOCK of a VM that was created at 900 ms."""
    return step(GetClock(), at, at - 900 * MS, flags)


def test_a_masterclock_comes_with_the_first_run_or_with_the_creation() -> None:
    for flags, of in ((0, "run"), (TSC_STABLE, "creation")):
        for each in ("run", "creation"):
            # 2 ms after the creation, before any run.
            assert possible(create(1000 * MS), clock(1002 * MS, flags), flags_from=each) is (each == of)
    ran = (create(1000 * MS), run(1001 * MS, MS), clock(1002 * MS, TSC_STABLE))
    assert possible(*ran, flags_from="run")
    assert possible(*ran, flags_from="creation")


def test_a_second_vcpus_creation_brings_no_other_masterclock() -> None:
    # vCPU 0's page is of the run at 1002 ms; at 1003 ms vCPU 1 comes, and vCPU 0 runs again.
    ran = (
        create(1000 * MS),
        page_on(1001 * MS),
        run(1002 * MS, 2 * MS),
        create(1003 * MS, 1),
        run(1004 * MS, 4 * MS),
    )
    kept, renewed = page(1005 * MS, 2, STABLE, 1002 * MS), page(1005 * MS, 4, STABLE, 1003 * MS)
    assert not possible(*ran, renewed, flags_from="creation", renews_masterclock="neither")
    assert possible(*ran, kept, flags_from="creation", renews_masterclock="neither")


def test_a_tsc_catches_up_to_the_masterclocks_snapshot_or_to_now() -> None:
    # Twice as fast since a write of 100 s at 1010 ms. The masterclock is of the run at 1110 ms, where the TSC
    # should be 100.2 s: at 1210 ms that is 100.3 s by the host's rate, and 100.4 s where it catches up again.
    ran = (
        create(1000 * MS),
        run(1001 * MS, MS),
        set_khz(1002 * MS, 2_000_000),
        write(1010 * MS, 100_000 * MS),
        run(1110 * MS, 100_200 * MS),
    )
    reached = [run(1210 * MS, each * MS) for each in (100_300, 100_400)]
    assert [possible(*ran, each, catches_up_to="snapshot") for each in reached] == [True, False]
    assert [possible(*ran, each, catches_up_to="now") for each in reached] == [False, True]
