# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: creation, userspace's writes of IA32_TSC, and the offset attribute."""

import pytest

from kvmharness.model.judge import Possibility
from kvmharness.model.mismatch import Allowed, Mismatch
from kvmharness.model.state import Host
from kvmharness.script import CreateVcpu, GetTscOffset, SetTscKhz
from tests.hand_worked import (
    KHZ,
    MS,
    NEW,
    OLD,
    clock,
    create,
    judged,
    offset,
    possible,
    run,
    set_offset,
    step,
    tsc,
    write,
)

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
    assert judgement.mismatch
    assert judgement.mismatch.expected == "offset -1000000400, 1 cycle (1 ns) higher than observed"
    assert judgement.mismatch.because.startswith("at step 2 ")


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
    assert judgement.mismatch == Mismatch("write TSC of vCPU 0", "EINVAL", (Allowed("success"),))


# The offset attribute


def test_the_attribute_is_taken_as_given() -> None:
    assert possible(create(1000 * MS), set_offset(1001 * MS, -7), offset(1002 * MS, -7))
    assert not possible(create(1000 * MS), set_offset(1001 * MS, -7), offset(1002 * MS, -8))


def test_a_kernel_without_the_attribute_is_judged_by_msrs_and_guests_alone() -> None:
    # 5.10 answers EINVAL. The write of 900 ms at 1050 ms snaps there, so that the guest reads 60 ms at 1060.
    unknown = Host(khz=KHZ, khz_exact=True, tolerance_ppm=250)
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
