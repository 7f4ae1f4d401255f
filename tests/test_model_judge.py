# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces, rule by rule.

The host counts 1 GHz, so 1 ns is 1 cycle, and its TSC and its clock show the same number. Times are in
ms, MS cycles each. A step takes 1000 cycles unless it says otherwise: what the kernel read of its clocks
is known to 1000 cycles, and no better.
"""

import pytest

from kvmharness.model.judge import Judgement, Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.state import Host
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    GuestWrite,
    MoveThread,
    Operation,
    Run,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    SetVmTscKhz,
)
from kvmharness.trace import Bracket, Event, Trace

MS = 1_000_000
KHZ = 1_000_000
WIDTH = 1000
HOST = Host(
    khz=KHZ, khz_exact=True, tsc_clocksource=True, has_attribute=True, fraction_bits=0, refuses_khz=False
)

OLD, NEW = "mainline-before-6.7", "mainline-6.7"


def step(operation: Operation, at: int, *values: int, width: int = WIDTH, error: str = "") -> Event:
    """A step between host clock `at` and `at + width`, in cycles and ns."""
    return Event(
        operation, Bracket(at, at, at + width, at + width), tuple(value % 2**64 for value in values), error
    )


def create(at: int, vcpu: int = 0, khz: int = KHZ) -> Event:
    return step(CreateVcpu(vcpu=vcpu), at, khz)


def write(at: int, value: int, vcpu: int = 0, *, width: int = WIDTH, error: str = "") -> Event:
    return step(SetMsrs(vcpu=vcpu, msrs=(("TSC", value),)), at, value, width=width, error=error)


def tsc(at: int, value: int, vcpu: int = 0, *, width: int = WIDTH) -> Event:
    return step(GetMsrs(vcpu=vcpu, indices=("TSC",)), at, value, width=width)


def offset(at: int, value: int, vcpu: int = 0) -> Event:
    return step(GetTscOffset(vcpu=vcpu), at, value)


def set_offset(at: int, value: int, vcpu: int = 0) -> Event:
    return step(SetTscOffset(vcpu=vcpu, offset=value), at, value)


def run(at: int, *samples: int, vcpu: int = 0) -> Event:
    return step(Run(vcpu=vcpu), at, *samples)


def clock(at: int, flags: int) -> Event:
    return step(GetClock(), at, at, flags)


def judged(*events: Event, policy: str = NEW, host: Host = HOST) -> Judgement:
    return judge(Trace("hand-worked", "none", events), POLICIES[policy], host)


def possible(*events: Event, policy: str = NEW, host: Host = HOST) -> bool:
    judgement = judged(*events, policy=policy, host=host)
    assert judgement.possibility is not Possibility.UNDECIDED, judgement
    return judgement.possibility is Possibility.POSSIBLE


# Creation


def test_a_new_vcpu_counts_from_its_creation() -> None:
    # Created within 1000 to 1000.001 ms: at 1010 ms its TSC is 10 ms, less at most 1000 cycles for the
    # creation and plus at most 1000 for the reading.
    created = create(1000 * MS)
    assert possible(created, tsc(1010 * MS, 10 * MS - 1000))
    assert possible(created, tsc(1010 * MS, 10 * MS + 1000))
    assert not possible(created, tsc(1010 * MS, 10 * MS - 1001))
    assert not possible(created, tsc(1010 * MS, 10 * MS + 1001))


def test_a_second_vcpu_has_the_firsts_offset_to_the_cycle() -> None:
    # The first offset read, anywhere in its thousand cycles, fixes the second's.
    created = (create(1000 * MS), create(1100 * MS, 1))
    assert possible(*created, offset(1200 * MS, -1000 * MS - 400), offset(1201 * MS, -1000 * MS - 400, 1))
    judgement = judged(*created, offset(1200 * MS, -1000 * MS - 400), offset(1201 * MS, -1000 * MS - 401, 1))
    assert (judgement.possibility, judgement.step) == (Possibility.IMPOSSIBLE, 4)
    assert judgement.possible.startswith("-1000000400 (1 cycles, 1 ns, above what was seen, as of step 2 ")


def test_a_vcpu_that_is_there_already_cannot_be_created_again() -> None:
    again = step(CreateVcpu(vcpu=0), 1001 * MS, error="EEXIST")
    assert possible(create(1000 * MS), again)
    assert not possible(create(1000 * MS), create(1001 * MS))


# Writes: zero, within the second, beyond it


@pytest.mark.parametrize("policy", [OLD, NEW, "sean-christopherson", "oliver-upton"])
def test_a_write_of_zero_changes_nothing_of_a_lone_vcpu(policy: str) -> None:
    # Offset -1000 ms since the creation, and still.
    assert possible(create(1000 * MS), write(1300 * MS, 0), offset(1301 * MS, -1000 * MS - 1), policy=policy)
    # Counting from 0 at 1300 ms would be an offset of -1300 ms.
    assert not possible(create(1000 * MS), write(1300 * MS, 0), offset(1301 * MS, -1300 * MS), policy=policy)


def test_the_first_write_within_a_second_snaps_before_6_7_and_is_honoured_since() -> None:
    # 50 ms after the creation 900 ms are written: 850 ms off, less than a second.
    written = (create(1000 * MS), write(1050 * MS, 900 * MS))
    snapped, honoured = offset(1051 * MS, -1000 * MS), offset(1051 * MS, (900 - 1050) * MS)
    assert [possible(*written, snapped, policy=policy) for policy in (OLD, NEW)] == [True, False]
    assert [possible(*written, honoured, policy=policy) for policy in (OLD, NEW)] == [False, True]


def test_a_write_a_second_or_more_away_is_honoured() -> None:
    # At 1050 ms the last write (0 at 1000 ms) would have come to 50 ms. The window is open: 1050 ms,
    # exactly a second more, is outside for sure once the brackets' 2000 cycles are past.
    for value in (1050 * MS + 2000, 100_000 * MS):
        written = (create(1000 * MS), write(1050 * MS, value))
        assert possible(*written, offset(1051 * MS, value - 1050 * MS), policy=OLD)
        assert not possible(*written, offset(1051 * MS, -1000 * MS), policy=OLD)


def test_a_bracket_that_straddles_the_window_leaves_both_open_until_something_is_read() -> None:
    # 1050 ms written 50 ms after the creation, to within a thousand cycles: at the edge itself.
    written = (create(1000 * MS), write(1050 * MS, 1050 * MS))
    assert possible(*written, offset(1051 * MS, -1000 * MS), policy=OLD)
    assert possible(*written, offset(1051 * MS, -500), policy=OLD)
    # But not both, and nothing between.
    assert not possible(*written, offset(1051 * MS, -1000 * MS), tsc(1052 * MS, 1052 * MS), policy=OLD)
    assert not possible(*written, offset(1051 * MS, -500 * MS), policy=OLD)


def test_the_second_is_one_of_the_vcpus_own_rate() -> None:
    # At +200 ppm, within tolerance, the vCPU's second is 1,000,200,000 cycles: 100 us more than a second
    # off is inside its window. A first write at this rate is honoured, for no write had it before.
    faster = step(SetTscKhz(vcpu=0, khz=1_000_200), 1001 * MS, 1_000_200)
    first = (create(1000 * MS), faster, write(1002 * MS, 100_000 * MS))
    second = write(1003 * MS, 100_001 * MS + 1000 * MS + 100_000)
    assert possible(*first, second, offset(1004 * MS, (100_000 - 1002) * MS), policy=OLD)
    assert not possible(*first, second, offset(1004 * MS, (101_001 - 1003) * MS + 100_000), policy=OLD)


def test_values_wrap_around_at_64_bits() -> None:
    # -1 is 2**64 - 1, far from everything: it is honoured, and a moment later the TSC is small.
    written = (create(1000 * MS), write(1050 * MS, 2**64 - 1))
    assert possible(*written, tsc(1060 * MS, 10 * MS - 1), policy=OLD)
    # Near 2**64 KVM's sums wrap: 10 ms on, the same value again is not near what was expected.
    again = (*written, write(1060 * MS, 2**64 - 1))
    assert possible(*again, tsc(1070 * MS, 10 * MS - 1), policy=OLD)
    assert not possible(*again, tsc(1070 * MS, 20 * MS - 1), policy=OLD)


def test_what_a_snapped_write_leaves_behind_is_the_raw_value() -> None:
    # 100 s, then 100.7 s (snaps), then 99.3 s: 1.4 s from what was written last, 0.7 s from what the
    # guest really has.
    writes = (
        create(1000 * MS),
        write(1001 * MS, 100_000 * MS),
        write(1002 * MS, 100_700 * MS),
        write(1003 * MS, 99_300 * MS),
    )
    honoured, snapped = offset(1004 * MS, (99_300 - 1003) * MS), offset(1004 * MS, (100_000 - 1001) * MS)
    assert (possible(*writes, honoured), possible(*writes, snapped)) == (True, False)
    for policy in ("clock-series-2026", "clock-series-2026-origin"):
        assert possible(*writes, snapped, policy=policy)
        assert not possible(*writes, honoured, policy=policy)


def test_a_write_snaps_to_the_generation_whichever_vcpu_began_it() -> None:
    # v0 100 s at 1010 ms; v1 100.002 s at 1015 ms: 3 ms off what was expected, so it gets v0's offset.
    pair = (create(1000 * MS), create(1001 * MS, 1), write(1010 * MS, 100_000 * MS))
    second = write(1015 * MS, 100_002 * MS, 1)
    assert possible(*pair, second, offset(1020 * MS, 98_990 * MS, 1), offset(1021 * MS, 98_990 * MS))
    own = offset(1020 * MS, (100_002 - 1015) * MS, 1)
    assert not possible(*pair, second, own)
    # Sean Christopherson's version has it keep its own: it has not run.
    assert possible(*pair, second, own, policy="sean-christopherson")


@pytest.mark.parametrize(("policy", "snaps"), [(OLD, True), ("sean-christopherson", True), (NEW, False)])
def test_a_run_opens_the_gate_for_sean_christopherson_only(policy: str, snaps: bool) -> None:
    ran = (create(1000 * MS), run(1010 * MS, 10 * MS), write(1050 * MS, 550 * MS))
    assert possible(*ran, offset(1051 * MS, -1000 * MS), policy=policy) is snaps
    assert possible(*ran, offset(1051 * MS, -500 * MS), policy=policy) is not snaps


def test_a_run_that_may_not_have_entered_the_guest_leaves_both_open() -> None:
    # KVM_RUN came back without a sample: has the vCPU run, or not?
    silent = (create(1000 * MS), run(1010 * MS), write(1050 * MS, 550 * MS))
    for seen in (-1000 * MS, -500 * MS):
        assert possible(*silent, offset(1051 * MS, seen), policy="sean-christopherson")


@pytest.mark.parametrize(
    ("policy", "opened_by_zero", "opened_by_attribute"),
    [(NEW, True, True), ("oliver-upton", True, False), ("like-xu-v6", False, True)],
)
def test_the_policies_differ_in_what_opens_the_gate(
    policy: str, opened_by_zero: bool, opened_by_attribute: bool
) -> None:
    # Behind a write of 0, or an offset of -1000 ms, 550 ms are written at 1050 ms: 500 ms off.
    snapped, honoured = offset(1051 * MS, -1000 * MS), offset(1051 * MS, -500 * MS)
    zero = (create(1000 * MS), write(1001 * MS, 0), write(1050 * MS, 550 * MS))
    assert possible(*zero, snapped, policy=policy) is opened_by_zero
    assert possible(*zero, honoured, policy=policy) is not opened_by_zero
    attribute = (create(1000 * MS), set_offset(1001 * MS, -1000 * MS), write(1050 * MS, 550 * MS))
    assert possible(*attribute, snapped, policy=policy) is opened_by_attribute
    assert possible(*attribute, honoured, policy=policy) is not opened_by_attribute


@pytest.mark.parametrize(("vcpus", "snaps"), [(1, False), (2, True)])
def test_like_xus_second_version_asks_for_a_matched_vcpu(vcpus: int, snaps: bool) -> None:
    created = tuple(create((1000 + number) * MS, number) for number in range(vcpus))
    seen = offset(1051 * MS, -1000 * MS)
    assert possible(*created, write(1050 * MS, 550 * MS), seen, policy="like-xu-v2") is snaps


def test_a_refused_write_is_a_divergence() -> None:
    judgement = judged(create(1000 * MS), write(1050 * MS, 5, error="EINVAL"))
    assert (judgement.possibility, judgement.step) == (Possibility.IMPOSSIBLE, 2)
    assert (judgement.seen, judgement.possible) == ("write TSC of vCPU 0: EINVAL", "it ends with success")


# The offset attribute


def test_the_attribute_is_taken_as_given() -> None:
    assert possible(create(1000 * MS), set_offset(1001 * MS, -7), offset(1002 * MS, -7))
    assert not possible(create(1000 * MS), set_offset(1001 * MS, -7), offset(1002 * MS, -8))


def test_a_kernel_without_the_attribute_is_judged_by_msrs_and_guests_alone() -> None:
    # 5.10 answers EINVAL. The write of 900 ms at 1050 ms snaps there, so that the guest reads 60 ms at 1060.
    unknown = Host(khz=KHZ, khz_exact=True)
    written = (create(1000 * MS), write(1050 * MS, 900 * MS))
    missing = step(GetTscOffset(vcpu=0), 1051 * MS, error="EINVAL")
    read = (missing, tsc(1055 * MS, 55 * MS), run(1060 * MS, 60 * MS))
    assert possible(*written, *read, policy=OLD, host=unknown)
    assert not possible(*written, *read, policy=NEW, host=unknown)
    # It does not have the attribute at one time and lack it at another.
    assert not possible(*written, missing, offset(1052 * MS, -1000 * MS), policy=OLD, host=unknown)


def test_an_offset_that_matches_tells_what_the_last_one_was() -> None:
    # v0's offset is known to a thousand cycles; v1 is set to one of them, and the clock says that it matched.
    events = (
        create(1000 * MS),
        create(1001 * MS, 1),
        set_offset(1002 * MS, -1000 * MS - 100, 1),
        run(1003 * MS, 3 * MS),
        run(1004 * MS, 4 * MS, vcpu=1),
        clock(1005 * MS, 2),
    )
    assert possible(*events, offset(1006 * MS, -1000 * MS - 100))
    assert not possible(*events, offset(1006 * MS, -1000 * MS - 300))


def test_an_offset_equal_to_the_last_one_matches() -> None:
    # Both vCPUs at -1000 ms, one after the other: all match, and the clock is stable once both have run.
    matched = (
        create(1000 * MS),
        create(1001 * MS, 1),
        set_offset(1002 * MS, 5),
        set_offset(1003 * MS, 5, 1),
        run(1004 * MS, 1004 * MS + 5),
        run(1005 * MS, 1005 * MS + 5, vcpu=1),
    )
    assert possible(*matched, clock(1006 * MS, 2))
    assert not possible(*matched, clock(1006 * MS, 0))
    parted = (*matched, set_offset(1007 * MS, 6, 1), run(1008 * MS, 1008 * MS + 6, vcpu=1))
    assert possible(*parted, clock(1009 * MS, 0))
    assert not possible(*parted, clock(1009 * MS, 2))


# TSC_ADJUST, and what guests write


def adjust(at: int, value: int) -> Event:
    return step(GetMsrs(vcpu=0, indices=("TSC_ADJUST",)), at, value)


def guest_write(at: int, msr: str, value: int, before: int, after: int) -> Event:
    return step(GuestWrite(vcpu=0, msr=msr, value=value), at, value, before, after)


def test_a_host_write_of_tsc_adjust_moves_nothing() -> None:
    stored = step(SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", 77),)), 1001 * MS, 77)
    assert possible(create(1000 * MS), stored, adjust(1002 * MS, 77), tsc(1010 * MS, 10 * MS))
    assert not possible(create(1000 * MS), stored, tsc(1010 * MS, 10 * MS + 2077))
    assert not possible(create(1000 * MS), stored, adjust(1002 * MS, 78))


def test_a_guests_write_of_its_tsc_moves_it_and_adjusts_by_as_much() -> None:
    # At 1010 ms the guest reads 10 ms, writes 500 ms, and reads 500 ms: moved by 490 ms.
    written = (create(1000 * MS), guest_write(1010 * MS, "TSC", 500 * MS, 10 * MS, 500 * MS))
    assert possible(*written, tsc(1020 * MS, 510 * MS))
    assert not possible(*written, tsc(1020 * MS, 20 * MS))
    assert possible(*written, adjust(1020 * MS, 490 * MS))
    assert not possible(*written, adjust(1020 * MS, 490 * MS + 3001))
    # The offset before and the offset after, read exactly, fix the adjustment to the cycle.
    exact = (create(1000 * MS), offset(1001 * MS, -1000 * MS), *written[1:], offset(1011 * MS, -510 * MS))
    assert possible(*exact, adjust(1020 * MS, 490 * MS))
    assert not possible(*exact, adjust(1020 * MS, 490 * MS + 1))


def test_a_guests_write_of_tsc_adjust_moves_its_tsc_by_the_difference() -> None:
    # First to 5 ms (moves by 5 ms), then to 3 ms (moves back by 2 ms): 3 ms in all, to the cycle.
    written = (
        create(1000 * MS),
        offset(1001 * MS, -1000 * MS),
        guest_write(1010 * MS, "TSC_ADJUST", 5 * MS, 10 * MS, 15 * MS),
        guest_write(1020 * MS, "TSC_ADJUST", 3 * MS, 25 * MS, 23 * MS),
    )
    assert possible(*written, offset(1030 * MS, -997 * MS))
    assert not possible(*written, offset(1030 * MS, -995 * MS))


def test_a_guests_write_leaves_the_others_alone() -> None:
    written = guest_write(1010 * MS, "TSC", 500 * MS, 10 * MS, 500 * MS)
    assert possible(create(1000 * MS), create(1001 * MS, 1), written, tsc(1020 * MS, 20 * MS, 1))
    assert not possible(create(1000 * MS), create(1001 * MS, 1), written, tsc(1020 * MS, 510 * MS, 1))


# What guests read


def test_every_sample_of_a_guest_counts() -> None:
    assert possible(create(1000 * MS), run(1010 * MS, 10 * MS - 100, 10 * MS, 10 * MS + 100))
    # The first cannot be 3000 cycles before the last in a run that took 1000.
    assert not possible(create(1000 * MS), run(1010 * MS, 10 * MS - 2000, 10 * MS + 1000))


def test_what_a_guest_reads_pins_what_the_others_have() -> None:
    # The run took no time at all (a bracket of no width), so the offset is known, and v1's with it.
    ran = step(Run(vcpu=0), 1010 * MS, 10 * MS - 300, width=0)
    created = (create(1000 * MS), create(1001 * MS, 1))
    assert possible(*created, ran, offset(1020 * MS, -1000 * MS - 300, 1))
    assert not possible(*created, ran, offset(1020 * MS, -1000 * MS - 299, 1))


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
    unknown = Host(khz=KHZ, khz_exact=True)
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


# Frequencies


def set_khz(at: int, khz: int, vcpu: int = 0, *, error: str = "") -> Event:
    return step(SetTscKhz(vcpu=vcpu, khz=khz), at, khz, error=error)


def test_a_rate_within_250_ppm_needs_no_scaling_but_keeps_writes_from_matching() -> None:
    # v1 at +200 ppm counts at the host's rate all the same, but its write begins a generation of its own.
    events = (
        create(1000 * MS),
        create(1001 * MS, 1),
        set_khz(1002 * MS, 1_000_200, 1),
        write(1010 * MS, 100_000 * MS),
        write(1015 * MS, 100_002 * MS, 1),
    )
    own, matched = offset(1020 * MS, (100_002 - 1015) * MS, 1), offset(1020 * MS, (100_000 - 1010) * MS, 1)
    assert (possible(*events, own), possible(*events, matched)) == (True, False)
    assert not possible(create(1000 * MS), set_khz(1001 * MS, 1_000_250, error="EINVAL"))


def test_without_scaling_a_slower_rate_is_refused_and_noted_all_the_same() -> None:
    refused = (create(1000 * MS), set_khz(1001 * MS, 500_000, error="EINVAL"))
    assert possible(*refused, step(GetTscKhz(vcpu=0), 1002 * MS, 500_000))
    assert not possible(*refused, step(GetTscKhz(vcpu=0), 1002 * MS, KHZ))
    assert not possible(create(1000 * MS), set_khz(1001 * MS, 500_000))


def test_without_scaling_a_faster_rate_is_caught_up_with_at_runs() -> None:
    # Twice as fast since a write of 100 s at 1010 ms: a run at 1110 ms may bring the TSC to 100.2 s, but
    # not beyond, and never below what the host's own rate makes of it, 100.1 s.
    faster = (create(1000 * MS), set_khz(1001 * MS, 2_000_000), write(1010 * MS, 100_000 * MS))
    for reached in (100_100 * MS, 100_150 * MS, 100_200 * MS):
        assert possible(*faster, run(1110 * MS, reached))
    for beyond in (100_099 * MS, 100_201 * MS):
        assert not possible(*faster, run(1110 * MS, beyond))


@pytest.mark.parametrize(("bits", "khz"), [(32, 500_000), (48, 500_000), (32, 3_000_000), (48, 3_000_000)])
def test_with_scaling_the_guest_counts_at_its_own_rate(bits: int, khz: int) -> None:
    # A write of 100 s' worth at 1010 ms: 90 ms later the TSC is on by 90 ms of the vCPU's own cycles.
    host = Host(khz=KHZ, khz_exact=True, has_attribute=True, fraction_bits=bits)
    value = 100_000 * khz
    scaled = (create(1000 * MS), set_khz(1001 * MS, khz), write(1010 * MS, value))
    assert possible(*scaled, run(1100 * MS, value + 90 * khz), host=host)
    assert not possible(*scaled, run(1100 * MS, value + 90 * khz + 10_000), host=host)
    assert not possible(*scaled, run(1100 * MS, value + 90 * KHZ), host=host)


def test_both_kinds_of_scaling_are_tried_where_it_is_not_known_which_there_is() -> None:
    # Host TSC 10**14: a third of it by a fraction of 32 bits falls short by 7761 of the one by 48 bits.
    # 10**14 * floor(2**32 / 3) / 2**32 = 33333333325572.03, by 2**48: 33333333333333.2
    at, khz, host = 10**14, 333_333, Host(khz=999_999, khz_exact=True, has_attribute=True)
    set_third = (create(at, khz=999_999), set_khz(at + MS, khz), set_offset(at + 2 * MS, 0))
    later = at + 3 * MS
    by_32, by_48 = later * (2**32 // 3) >> 32, later * (2**48 // 3) >> 48
    assert by_48 - by_32 > 7000
    for value in (by_32, by_48):
        assert possible(*set_third, tsc(later, value), host=host)
    assert not possible(*set_third, tsc(later, (by_32 + by_48) // 2), host=host)
    assert not possible(
        *set_third, tsc(later, by_32), tsc(later + MS, (later + MS) * (2**48 // 3) >> 48), host=host
    )


def test_a_rate_beyond_what_amd_can_scale_to_is_refused_and_not_noted() -> None:
    # 8 bits before the point: 256 times the host's rate and more (max_guest_tsc_khz).
    host = Host(khz=KHZ, khz_exact=True, fraction_bits=32, refuses_khz=False)
    refused = (create(1000 * MS), set_khz(1001 * MS, 300 * KHZ, error="EINVAL"))
    assert possible(*refused, step(GetTscKhz(vcpu=0), 1002 * MS, KHZ), host=host)
    assert not possible(*refused, step(GetTscKhz(vcpu=0), 1002 * MS, 300 * KHZ), host=host)
    assert not possible(create(1000 * MS), set_khz(1001 * MS, 300 * KHZ), host=host)


def test_kernels_that_refuse_every_rate_without_scaling_note_none() -> None:
    # Before 5.9 max_guest_tsc_khz was 0 without scaling, so that even 0 was refused.
    host = Host(khz=KHZ, khz_exact=True)
    refused = (create(1000 * MS), set_khz(1001 * MS, 0, error="EINVAL"))
    assert possible(*refused, step(GetTscKhz(vcpu=0), 1002 * MS, KHZ), host=host)
    assert not possible(*refused, set_khz(1002 * MS, KHZ), host=host)


# What random scripts on real kernels showed


def test_the_hosts_own_rate_may_be_corrected_after_the_first_vcpu() -> None:
    # Seen on 6.1: created with 999951 kHz, and a second later the host's own rate was 999999. A vCPU that was
    # given that does not match one that has the old rate.
    host = Host(khz=999_951, has_attribute=True, fraction_bits=0)
    events = (
        create(1000 * MS, khz=999_951),
        step(SetTscKhz(vcpu=0, khz=0), 2200 * MS, 0),
        step(GetTscKhz(vcpu=0), 2201 * MS, 999_999),
        write(2202 * MS, 100_000 * MS),
        create(2300 * MS, 1, khz=999_951),
    )
    assert possible(*events, offset(2400 * MS, -2300 * MS - 500, 1), host=host)
    assert not possible(*events, offset(2400 * MS, (100_000 - 2202) * MS, 1), host=host)


def test_a_vcpu_created_slower_without_scaling_has_a_tsc_that_kvm_takes_for_still() -> None:
    # Seen on 6.1: KVM_GET_MSRS reads 0 ever after, for the ratio was never set; the guest reads the host's.
    events = (
        step(SetVmTscKhz(khz=500_000), 990 * MS, 500_000),
        create(1000 * MS, khz=500_000),
        tsc(1010 * MS, 0),
        tsc(1100 * MS, 0),
    )
    assert possible(*events)
    assert not possible(*events, tsc(1200 * MS, 200 * MS))


def test_catching_up_compares_unsigned_numbers() -> None:
    # Seen on 6.1: a vCPU whose rate is to be caught up with, and whose TSC was written -888 ms, a number near
    # 2**64. Its guest writes 1: that is far behind, and the TSC is thrown forward again, to just below 2**64.
    events = (
        create(1000 * MS),
        write(1001 * MS, -888 * MS % 2**64),
        set_khz(1002 * MS, 1_001_000),
    )
    thrown = guest_write(1003 * MS, "TSC", 1, -886 * MS % 2**64, -886 * MS % 2**64)
    stays = guest_write(1003 * MS, "TSC", 1, -886 * MS % 2**64, 100)
    assert possible(*events, thrown)
    assert possible(*events, stays)
    assert not possible(*events, guest_write(1003 * MS, "TSC", 1, -886 * MS % 2**64, 10 * MS))


def test_a_protected_tsc_may_still_follow_a_rate() -> None:
    # Seen on this project's own host: writes do nothing, but a vCPU of a rate out of tolerance reads 0.
    events = (
        step(SetVmTscKhz(khz=1_001_000), 990 * MS, 1_001_000),
        create(1000 * MS, khz=1_001_000),
        tsc(1010 * MS, 0),
    )
    assert possible(*events, policy="tsc-protected")


# An unstable host TSC


def test_with_an_unstable_tsc_the_guests_tsc_stands_still_until_it_runs_and_then_catches_up() -> None:
    host = Host(khz=KHZ, khz_exact=True, stable=False, has_attribute=True)
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


# Where nothing can be said


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((write(1010 * MS, 5, error="ENOMEM"),), "it failed with ENOMEM, which says nothing about the rule"),
        ((step(Run(vcpu=0), 1010 * MS, error="EFAULT"),), "it failed with EFAULT"),
        ((tsc(990 * MS, 0),), "the host's clocks ran backwards before this step"),
        (
            (
                Event(
                    GetMsrs(vcpu=0, indices=("TSC",)),
                    Bracket(5000 * MS, 1001 * MS, 1002 * MS, 5001 * MS),
                    (0,),
                ),
            ),
            "the host's two clocks disagree before this step: was it suspended?",
        ),
        ((tsc(1010 * MS, 0, width=2**50),), "the trace takes too long for a judgement"),
        ((tsc(1010 * MS, 0, vcpu=3),), "vCPU 3 was never created"),
        ((set_khz(1010 * MS, 2**40),), "1099511627776 kHz is no rate of a TSC"),
    ],
)
def test_what_says_nothing_about_the_rule_is_undecided(events: tuple[Event, ...], why: str) -> None:
    judgement = judged(create(1000 * MS), *events)
    assert (judgement.possibility, judgement.step, judgement.seen) == (Possibility.UNDECIDED, 2, why)


@pytest.mark.parametrize(
    ("tsc_before", "asleep"), [(1101 * MS, True), (1010 * MS, False), (1002 * MS, False)]
)
def test_a_host_that_slept_is_told_from_a_player_that_was_held_up(tsc_before: int, asleep: bool) -> None:
    # By the clock the step came 10 ms behind the creation. A TSC 101 ms on: the host slept. One that was
    # read at 2 ms, and again at 200, is of a player held up: the clock is read between the two.
    bracket = Bracket(tsc_before, 1010 * MS, 1011 * MS, 1200 * MS)
    judgement = judged(create(1000 * MS), Event(GetMsrs(vcpu=0, indices=("TSC",)), bracket, (12 * MS,)))
    assert (judgement.possibility is Possibility.UNDECIDED) is asleep


def test_what_was_impossible_before_a_doubt_stays_impossible() -> None:
    judgement = judged(create(1000 * MS), tsc(1010 * MS, 77 * MS), write(1020 * MS, 5, error="ENOMEM"))
    assert (judgement.possibility, judgement.step) == (Possibility.IMPOSSIBLE, 2)


def test_an_impossible_step_is_told_in_a_sentence_for_a_mail() -> None:
    judgement = judged(create(1000 * MS), write(1050 * MS, 900 * MS), offset(1060 * MS, -1000 * MS))
    assert judgement.seen == "read the TSC offset of vCPU 0: -1000000000"
    assert judgement.possible == (
        "from -150001000 to -150000000 (849999000 cycles, 850.0 ms, above what was seen, as of step 2 the "
        "write is honoured: userspace had set no TSC of this VM before)"
    )
