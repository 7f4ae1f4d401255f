# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: what a guest's own guest (L2) reads, and what then becomes of L1's TSC."""

import pytest

from kvmharness.contract import Status
from kvmharness.model.judge import Possibility
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import simulate
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import CreateVcpu, GetMsrs, NestedWrite, RunL2, SetMsrs
from kvmharness.trace import DebugfsReading, Event
from tests.hand_worked import HOST, KHZ, MS, judged, offset, possible, run, set_offset, step, tsc, write

SECOND = 1000 * MS
# vCPU 0 is created at 1000 ms, and its offset read: its TSC is the host's less 1000 ms.
NEW = (
    step(CreateVcpu(vcpu=0, guest="nested-64"), 1000 * MS, KHZ),
    offset(1001 * MS, -1000 * MS),
)
# L1 has its L2 count 500 ms behind itself.
BEHIND = -500 * MS


def l2(
    at: int, tsc: int, rdmsr: int | None = None, *, entered: int | None = None, has: int = BEHIND
) -> Event:
    """A run of L2, entered with an offset or not, with the one that it has."""
    read = (tsc, tsc if rdmsr is None else rdmsr)
    has = has if entered is None else entered
    return step(RunL2(vcpu=0, offset=entered), at, has, *read)


def wrote(at: int, by: tuple[int, str], value: int, before: int, after: int) -> Event:
    """A write of L1 (1) or L2 (2) to an MSR, and its TSC before and after."""
    level, msr = by
    return step(NestedWrite(vcpu=0, level=level, msr=msr, value=value), at, value, before, after)


def adjust(at: int, value: int) -> Event:
    return step(GetMsrs(vcpu=0, indices=("TSC_ADJUST",)), at, value)


ENTERED = (*NEW, l2(1010 * MS, -490 * MS, entered=BEHIND))


def test_l2_reads_l1s_tsc_and_what_l1_adds_to_it() -> None:
    # At 1010 ms L1's TSC is 10 ms. A step takes 1000 cycles.
    assert possible(*NEW, l2(1010 * MS, -490 * MS, entered=BEHIND))
    assert possible(*NEW, l2(1010 * MS, -490 * MS + 1000, entered=BEHIND))
    assert not possible(*NEW, l2(1010 * MS, -490 * MS + 1001, entered=BEHIND))
    assert not possible(*NEW, l2(1010 * MS, -490 * MS - 1, entered=BEHIND))
    assert not possible(*NEW, l2(1010 * MS, 10 * MS, entered=BEHIND))


def test_an_rdmsr_of_l2_reads_what_its_rdtsc_does() -> None:
    assert possible(*NEW, l2(1010 * MS, -490 * MS, -490 * MS + 500, entered=BEHIND))
    assert not possible(*NEW, l2(1010 * MS, -490 * MS, 10 * MS, entered=BEHIND))


def test_l2_counts_at_the_rate_that_l1_says() -> None:
    # At 1010 ms L1's TSC is 10 ms: at half of its rate 5 ms, and L1 adds -500 ms to that.
    slow = RunL2(vcpu=0, offset=BEHIND, rate_ppm=500_000)
    assert possible(*NEW, step(slow, 1010 * MS, BEHIND, -495 * MS, -495 * MS))
    # A step takes 1000 cycles, and 3 are lost in rounding.
    assert possible(*NEW, step(slow, 1010 * MS, BEHIND, -495 * MS + 503, -495 * MS + 503))
    assert not possible(*NEW, step(slow, 1010 * MS, BEHIND, -495 * MS + 504, -495 * MS + 504))
    assert not possible(*NEW, step(slow, 1010 * MS, BEHIND, -495 * MS - 4, -495 * MS - 4))
    assert not possible(*NEW, step(slow, 1010 * MS, BEHIND, -490 * MS, -490 * MS))
    assert not possible(*NEW, step(slow, 1010 * MS, BEHIND, -245 * MS, -245 * MS))


def test_of_a_fast_l2_a_cycle_of_l1s_is_several() -> None:
    # At 1010 ms L1's TSC is 10 ms, and it may be almost a cycle more.
    fast = RunL2(vcpu=0, offset=0, rate_ppm=10_000_000)
    assert possible(*NEW, step(fast, 1010 * MS, 0, 100 * MS - 13, 100 * MS + 10_013))
    assert not possible(*NEW, step(fast, 1010 * MS, 0, 100 * MS - 14, 100 * MS))
    assert not possible(*NEW, step(fast, 1010 * MS, 0, 100 * MS, 100 * MS + 10_014))


def test_l2_goes_on_at_its_rate_and_is_entered_again_at_another() -> None:
    entered = step(RunL2(vcpu=0, offset=0, rate_ppm=2_000_000), 1010 * MS, 0, 20 * MS, 20 * MS)
    on = step(RunL2(vcpu=0, rate_ppm=2_000_000), 1020 * MS, 0, 40 * MS, 40 * MS)
    assert possible(*NEW, entered, on)
    assert not possible(
        *NEW, entered, step(RunL2(vcpu=0, rate_ppm=2_000_000), 1020 * MS, 0, 20 * MS, 20 * MS)
    )
    assert possible(*NEW, entered, l2(1020 * MS, 20 * MS, entered=0))
    assert not possible(*NEW, entered, l2(1020 * MS, 40 * MS, entered=0))
    # What is written while it is current is L1's.
    written = (*NEW, entered, write(2000 * MS, 100 * SECOND))
    later = step(RunL2(vcpu=0, rate_ppm=2_000_000), 2010 * MS, 0, 200_020 * MS, 200_020 * MS)
    assert possible(*written, later)
    assert not possible(*written, step(RunL2(vcpu=0, rate_ppm=2_000_000), 2010 * MS, 0, 2020 * MS, 2020 * MS))


def test_an_l2_at_another_rate_does_not_go_on() -> None:
    refused = step(RunL2(vcpu=0, rate_ppm=500_000), 1020 * MS, error="EINVAL")
    assert possible(*ENTERED, refused)
    assert not possible(
        *ENTERED, step(RunL2(vcpu=0, rate_ppm=500_000), 1020 * MS, BEHIND, -490 * MS, -490 * MS)
    )


def test_a_kvm_whose_guests_may_not_scale_refuses_a_rate_each_time() -> None:
    slow = RunL2(vcpu=0, offset=0, rate_ppm=500_000)
    refused, ran = step(slow, 1010 * MS, error="EINVAL"), step(slow, 1020 * MS, 0, 10 * MS, 10 * MS)
    assert possible(*NEW, refused, l2(1020 * MS, 20 * MS, entered=0))
    assert possible(*NEW, ran)
    assert not possible(*NEW, refused, ran)


def test_an_offset_wraps_around_at_2_to_the_64() -> None:
    far = 2**63 + 5
    assert possible(*NEW, l2(1010 * MS, 10 * MS + far, entered=far))
    assert not possible(*NEW, l2(1010 * MS, 10 * MS + far - 1, entered=far))


def test_l2_is_entered_with_the_offset_of_the_last_time_which_is_0_at_first() -> None:
    assert possible(*NEW, l2(1010 * MS, 10 * MS, has=0))
    again = (*ENTERED, run(1020 * MS, 20 * MS, 20 * MS), l2(1030 * MS, -470 * MS))
    assert possible(*again)
    assert not possible(*ENTERED, run(1020 * MS, 20 * MS, 20 * MS), l2(1030 * MS, 30 * MS, has=0))


def test_the_host_reads_l1s_tsc_while_l2_is_current() -> None:
    assert possible(*ENTERED, tsc(1020 * MS, 20 * MS))
    assert not possible(*ENTERED, tsc(1020 * MS, -480 * MS))
    assert possible(*ENTERED, offset(1020 * MS, -1000 * MS))
    assert not possible(*ENTERED, offset(1020 * MS, -1500 * MS))


def test_what_the_host_writes_while_l2_is_current_is_l1s_and_moves_both() -> None:
    # Written at 2000 ms: L1's TSC is 100 s then, and so its offset 98 s.
    written = (*ENTERED, write(2000 * MS, 100 * SECOND), offset(2001 * MS, 98 * SECOND))
    assert possible(*written, l2(2010 * MS, 99_510 * MS))
    assert not possible(*written, l2(2010 * MS, 510 * MS))
    assert not possible(*written, l2(2010 * MS, 100_010 * MS))
    assert possible(*written, run(2010 * MS, 100_010 * MS, 100_010 * MS))
    assert not possible(*written, run(2010 * MS, 1010 * MS, 1010 * MS))


def test_an_offset_that_is_set_while_l2_is_current_is_l1s_and_moves_both() -> None:
    written = (*ENTERED, set_offset(2000 * MS, 7 * SECOND), offset(2001 * MS, 7 * SECOND))
    assert possible(*written, l2(2010 * MS, 9010 * MS + BEHIND))
    assert not possible(*written, l2(2010 * MS, 9010 * MS))


def test_what_the_host_writes_to_tsc_adjust_moves_neither() -> None:
    restored = (*ENTERED, step(SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", 9 * MS),)), 1020 * MS, 9 * MS))
    assert possible(*restored, l2(1030 * MS, -470 * MS), adjust(1031 * MS, 9 * MS))
    assert not possible(*restored, l2(1030 * MS, -461 * MS))


def test_what_l1_writes_to_tsc_adjust_moves_both() -> None:
    # L2 leaves first: L1 reads its own TSC before and after.
    written = (*ENTERED, wrote(1020 * MS, (1, "TSC_ADJUST"), 9 * MS, 20 * MS, 29 * MS))
    assert possible(*written, l2(1030 * MS, -461 * MS), adjust(1031 * MS, 9 * MS))
    assert not possible(*written, l2(1030 * MS, -470 * MS))
    assert not possible(*ENTERED, wrote(1020 * MS, (1, "TSC_ADJUST"), 9 * MS, -480 * MS, -471 * MS))


def test_what_l2_writes_to_its_tsc_is_l1s_then() -> None:
    # Written 100 s: L1 has that, L2 500 ms less, and TSC_ADJUST grew by what L1's TSC moved, 99,980 ms.
    written = (*ENTERED, wrote(1020 * MS, (2, "TSC"), 100 * SECOND, -480 * MS, 99_500 * MS))
    assert possible(*written, tsc(1030 * MS, 100_010 * MS), adjust(1031 * MS, 99_980 * MS))
    assert not possible(*written, tsc(1030 * MS, 100_510 * MS))
    assert not possible(*written, adjust(1031 * MS, 100_480 * MS))
    assert not possible(*ENTERED, wrote(1020 * MS, (2, "TSC"), 100 * SECOND, -480 * MS, 100_000 * MS))


def test_what_l2_writes_to_tsc_adjust_moves_both() -> None:
    written = (*ENTERED, wrote(1020 * MS, (2, "TSC_ADJUST"), 9 * MS, -480 * MS, -471 * MS))
    assert possible(*written, tsc(1030 * MS, 39 * MS), l2(1040 * MS, -451 * MS))
    assert not possible(*written, tsc(1030 * MS, 30 * MS))


def test_a_kvm_without_nesting_refuses_it_each_time() -> None:
    refused = step(RunL2(vcpu=0, offset=7), 1010 * MS, error="EINVAL")
    again = step(RunL2(vcpu=0, offset=7), 1020 * MS, error="EINVAL")
    assert possible(*NEW, refused, again)
    assert not possible(*NEW, refused, l2(1020 * MS, 20 * MS + 7, entered=7))
    assert not possible(*NEW, l2(1010 * MS, 10 * MS + 7, entered=7), again)


def test_another_guest_has_no_l2() -> None:
    other = step(CreateVcpu(vcpu=0, guest="rdtsc-64"), 1000 * MS, KHZ)
    refused = step(NestedWrite(vcpu=0, level=1, msr="TSC", value=0), 1010 * MS, error="EINVAL")
    assert possible(other, refused)
    assert not possible(other, wrote(1010 * MS, (1, "TSC"), 5, 10 * MS, 5))


def test_what_debugfs_shows_while_l2_is_current_is_not_held_against_l1() -> None:
    event = l2(1010 * MS, -490 * MS, entered=BEHIND)
    shown = Event(event.operation, event.bracket, event.values, "", (DebugfsReading(2**64 - 1500 * MS),))
    assert possible(*NEW, shown)


def test_nothing_is_known_after_a_run_of_l2_that_did_not_end() -> None:
    stopped = step(RunL2(vcpu=0, offset=7), 1010 * MS, 7)
    assert judged(*NEW, stopped, tsc(1020 * MS, 5)).possibility is Possibility.UNDECIDED
    assert judged(*ENTERED, run(1020 * MS), host=HOST).possibility is Possibility.UNDECIDED


@pytest.mark.parametrize("name", ["nested-l1-adjust", "nested-l2-adjust"])
def test_a_tsc_adjust_that_moves_nothing_breaks_the_contract(name: str) -> None:
    scenario = SCENARIOS[name]
    kept = simulate(name, scenario.script, POLICIES["mainline-6.7"], scenario.host)
    # As if it were not written: the TSC stays where L1 had set it.
    without = tuple(step for step in scenario.script if step.label != "back")
    left = simulate(name, without, POLICIES["mainline-6.7"], scenario.host)
    first, second = scenario.claims[0].check(kept), scenario.claims[0].check(left)
    assert (first.status, second.status) == (Status.KEPT, Status.BROKEN)
    assert second.reason.endswith("moved nothing")
