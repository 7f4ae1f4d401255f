# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: vCPUs whose rate is not the host's, with scaling and without."""

import dataclasses

import pytest

from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.state import Host
from kvmharness.script import CreateVcpu, GetTscKhz, Ppm, SetTscKhz, SetVmTscKhz
from kvmharness.trace import Event, Place, Trace
from tests.hand_worked import (
    HOST,
    KHZ,
    MS,
    NEW,
    create,
    guest_write,
    judged,
    offset,
    possible,
    run,
    set_khz,
    set_offset,
    step,
    tsc,
    write,
)


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
    host = Host(khz=KHZ, khz_exact=True, has_attribute=True, fraction_bits=bits, tolerance_ppm=250)
    value = 100_000 * khz
    scaled = (create(1000 * MS), set_khz(1001 * MS, khz), write(1010 * MS, value))
    assert possible(*scaled, run(1100 * MS, value + 90 * khz), host=host)
    assert not possible(*scaled, run(1100 * MS, value + 90 * khz + 10_000), host=host)
    assert not possible(*scaled, run(1100 * MS, value + 90 * KHZ), host=host)


def test_both_kinds_of_scaling_are_tried_where_it_is_not_known_which_there_is() -> None:
    # Host TSC 10**14: a third of it by a fraction of 32 bits falls short by 7761 of the one by 48 bits.
    # 10**14 * floor(2**32 / 3) / 2**32 = 33333333325572.03, by 2**48: 33333333333333.2
    at, khz, host = 10**14, 333_333, Host(khz=999_999, khz_exact=True, has_attribute=True, tolerance_ppm=250)
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
    host = Host(khz=KHZ, khz_exact=True, fraction_bits=32, refuses_khz=False, tolerance_ppm=250)
    refused = (create(1000 * MS), set_khz(1001 * MS, 300 * KHZ, error="EINVAL"))
    assert possible(*refused, step(GetTscKhz(vcpu=0), 1002 * MS, KHZ), host=host)
    assert not possible(*refused, step(GetTscKhz(vcpu=0), 1002 * MS, 300 * KHZ), host=host)
    assert not possible(create(1000 * MS), set_khz(1001 * MS, 300 * KHZ), host=host)


def test_kernels_that_refuse_every_rate_without_scaling_note_none() -> None:
    # Before 5.9 max_guest_tsc_khz was 0 without scaling, so that even 0 was refused.
    host = Host(khz=KHZ, khz_exact=True, tolerance_ppm=250)
    refused = (create(1000 * MS), set_khz(1001 * MS, 0, error="EINVAL"))
    assert possible(*refused, step(GetTscKhz(vcpu=0), 1002 * MS, KHZ), host=host)
    assert not possible(*refused, set_khz(1002 * MS, KHZ), host=host)


# What random scripts on real kernels showed


def test_the_hosts_own_rate_may_be_corrected_after_the_first_vcpu() -> None:
    # Seen on 6.1: created with 999951 kHz, and a second later the host's own rate was 999999. A vCPU that was
    # given that does not match one that has the old rate.
    host = Host(khz=999_951, has_attribute=True, fraction_bits=0, tolerance_ppm=250)
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


def test_a_rate_of_the_vm_that_is_refused_for_its_height_says_nothing_of_the_next_one() -> None:
    # A random script came upon it, on 6.12 with scaling: too fast is refused behind the first vCPU, too, but
    # a kernel that takes no rate there at all takes no other either.
    scaling = dataclasses.replace(HOST, fraction_bits=None, khz_exact=False)
    too_fast = step(SetVmTscKhz(khz=2**32 - 1), 1010 * MS, 2**32 - 1, error="EINVAL")
    too_late = step(SetVmTscKhz(khz=1_000_100), 1010 * MS, 1_000_100, error="EINVAL")
    another = step(SetVmTscKhz(khz=1_000_200), 1020 * MS, 1_000_200)
    assert possible(create(1000 * MS), too_fast, another, host=scaling)
    assert not possible(create(1000 * MS), too_late, another, host=scaling)


def test_a_guest_of_such_a_vcpu_reads_by_rdmsr_what_kvm_takes_its_tsc_for() -> None:
    # A random script came upon it, on 6.1: RDTSC reads the host's TSC and the offset, RDMSR the offset alone.
    events = (
        step(SetVmTscKhz(khz=500_000), 990 * MS, 500_000),
        step(CreateVcpu(vcpu=0, guest="rdmsr-16"), 1000 * MS, 500_000),
        write(1010 * MS, 900),
    )
    assert possible(*events, run(1100 * MS, 1100 * MS + 901, 900, 1100 * MS + 902))
    assert not possible(*events, run(1100 * MS, 1100 * MS + 901, 1100 * MS + 901, 1100 * MS + 902))
    assert not possible(*events, run(1100 * MS, 900, 900, 900))


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


def test_a_vcpu_whose_rate_reads_as_an_errno_says_nothing_about_the_rule() -> None:
    # Exploring 6.12 came upon it: created at 2**32 - 1 kHz, a vCPU answers KVM_GET_TSC_KHZ with -1: EPERM.
    too_high = step(SetVmTscKhz(khz=2**32 - 1), 990 * MS, 2**32 - 1)
    failed = step(CreateVcpu(vcpu=0), 1000 * MS, error="EPERM")
    counting = Place("debian:6.12", "amd", "1", False, True, True)
    trace = Trace("hand-worked", "none", (too_high, failed), counting)
    assert judge(trace, POLICIES[NEW], HOST).possibility is Possibility.UNDECIDED
    alone = dataclasses.replace(trace, events=(failed,))
    assert judge(alone, POLICIES[NEW], HOST).possibility is Possibility.IMPOSSIBLE


def test_a_vms_rate_that_reads_as_an_errno_keeps_another_from_being_worked_out_of_it() -> None:
    # Exploring 6.12 came upon it: KVM_GET_TSC_KHZ of a VM set to 2**32 - 1 kHz answers -1, so that the player
    # could not tell what 10 % more than that is.
    high, top = 2**31, 2**31 - 1
    failed = step(SetVmTscKhz(khz=Ppm(100_000)), 995 * MS, error="EPERM")
    counting = Place("debian:6.12", "amd", "1", False, True, True)
    for khz, possibility in ((high, Possibility.POSSIBLE), (top, Possibility.IMPOSSIBLE)):
        events = (step(SetVmTscKhz(khz=khz), 990 * MS, khz), failed)
        trace = Trace("hand-worked", "none", events, counting)
        assert judge(trace, POLICIES[NEW], HOST).possibility is possibility


def test_a_guest_that_ends_the_masterclock_is_caught_up_with_by_the_clock_of_now() -> None:
    # Exploring 6.12 came upon it. A vCPU is created at 1000 ms and given 1.1 times the host's rate. Its first
    # run takes the masterclock's snapshot at 1010 ms, when its TSC has to be 11 ms, 1 ms ahead of what it
    # was. So at 1110 ms it is 111 ms. Then its guest writes the old kvmclock MSR, which ends the masterclock:
    # back in the guest its TSC is 121 ms, by the clock of now.
    events = (create(1000 * MS), set_khz(1001 * MS, 1_100_000), run(1010 * MS, 11 * MS))

    def written(after: int) -> Event:
        return guest_write(1110 * MS, "SYSTEM_TIME_OLD", 0x3801, 111 * MS, after)

    assert possible(*events, written(121 * MS))
    assert not possible(*events, written(122 * MS))
    assert not possible(*events, written(105 * MS))


def test_a_rate_above_the_hosts_is_caught_up_with_at_each_run_but_the_first() -> None:
    # At 1001 ms the vCPU is given twice the host's rate, and a TSC of 5000 ms. At 1011 ms that has to be
    # 5020 ms, but if nothing asks for it, it is 5010 ms still. The run asks for the next. At 1021 ms it has
    # to be 5040 ms, give or take the brackets.
    pair = (create(1000 * MS), create(1000 * MS + 2000, vcpu=1), run(1000 * MS + 4000, 4000))
    events = (*pair, set_khz(1001 * MS, 2_000_000, vcpu=1), write(1001 * MS + 2000, 5_000 * MS, vcpu=1))
    first = run(1011 * MS + 2000, 5_010 * MS, vcpu=1)
    assert possible(*events, first)
    assert possible(*events, run(1011 * MS + 2000, 5_020 * MS, vcpu=1))
    assert possible(*events, first, run(1021 * MS + 2000, 5_040 * MS, vcpu=1))
    assert not possible(*events, first, run(1021 * MS + 2000, 5_039 * MS, vcpu=1))
    assert not possible(*events, first, run(1021 * MS + 2000, 5_041 * MS, vcpu=1))


def test_a_tsc_that_is_caught_up_by_a_masterclock_from_before_its_generation_is_not_foretold() -> None:
    # Seen on 6.12: vCPU 0 begins a generation, which vCPU 1 joins. The masterclock is still the one from
    # before, as only vCPU 0 is asked to look at it again, and KVM takes the negative time since for an
    # unsigned one.
    fast = 1_500_000
    events = (
        *(create(1000 * MS), create(1001 * MS, vcpu=1)),
        *(set_khz(1002 * MS, fast), set_khz(1003 * MS, fast, vcpu=1)),
        *(write(1004 * MS, 50_000 * MS), write(1005 * MS, 50_001 * MS, vcpu=1)),
        *(run(1006 * MS, 50_002 * MS), run(1007 * MS, 50_003 * MS, vcpu=1)),
        *(write(1010 * MS, 100_000 * MS), write(1011 * MS, 100_001 * MS, vcpu=1)),
    )
    assert possible(*events)
    thrown = judged(*events, run(1012 * MS, 3 * 2**62, vcpu=1))
    assert thrown.possibility is Possibility.UNDECIDED
    assert "behind a write" in thrown.doubt
    # Once vCPU 0 has run, the masterclock is a newer one. By then its TSC had to be 3 ms further.
    ran = run(1012 * MS, 100_003 * MS)
    assert possible(*events, ran, run(1013 * MS, 100_004 * MS, vcpu=1))
    assert not possible(*events, ran, run(1013 * MS, 3 * 2**62, vcpu=1))


def test_khz_of_more_than_31_bits_may_come_back_as_any_errno() -> None:
    def read(error: str) -> Event:
        return step(GetTscKhz(vcpu=0), 1002 * MS, error=error)

    # Without scaling any rate above the host's is caught up with.
    assert possible(create(1000 * MS), set_khz(1001 * MS, 2**31), read("EINVAL"))
    assert not possible(create(1000 * MS), set_khz(1001 * MS, 2**31 - 1), read("EINVAL"))


def test_the_rate_a_vcpu_was_created_with_may_be_refused_once_the_hosts_was_corrected() -> None:
    # Seen on 5.10: KVM had noted 2443091 kHz when it was loaded, and the host then found that it has 2445433,
    # 959 ppm more. So what was noted is slower than the host, which without scaling is refused.
    def said(host: Host, error: str) -> bool:
        return possible(create(1000 * MS, khz=999_041), set_khz(1001 * MS, 999_041, error=error), host=host)

    found = dataclasses.replace(HOST, khz_exact=False)
    assert (said(found, "EINVAL"), said(found, "")) == (True, True)
    # Also where it was corrected after the probe, which saw the same rate. Where both rates are known, one is
    # right.
    later = dataclasses.replace(found, khz=999_041)
    assert (said(later, "EINVAL"), said(later, "")) == (True, True)
    exact = dataclasses.replace(found, khz=1_000_000, khz_exact=True, kvm_khz=999_041)
    assert (said(exact, "EINVAL"), said(exact, "")) == (True, False)
