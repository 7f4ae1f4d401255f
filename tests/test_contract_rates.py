# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims on rates, on readings in a row and on answers, on hand-worked traces. The host counts 1 GHz."""

from dataclasses import replace

from kvmharness.contract import EndClaim, Finding, ForwardClaim, RateClaim, SameClaim, Status
from kvmharness.contract.host_rate import CORRECTED_PPB, measured_khz, off_ppb
from kvmharness.script import (
    CreateVcpu,
    GetMsrs,
    GetTscKhz,
    GuestWrite,
    Operation,
    Run,
    SetMsrs,
    SetTscKhz,
    Sleep,
)
from kvmharness.trace import Bracket, Event, Trace

MS = 1_000_000
KHZ = 1_000_000


def event(operation: Operation, host: int, *values: int, width: int = 1000, error: str = "") -> Event:
    """A step whose ioctl took from `host` to `host + width`, in cycles and in ns."""
    return Event(operation, Bracket(host, host, host + width, host + width), values, error)


def trace(*events: Event) -> Trace:
    return Trace("test", "test", events)


def half_as_fast(counted: int, *, later: int = 1100 * MS, width: int = 1000) -> Trace:
    """vCPU 0 is to count 500 MHz; it is written 100 s at host TSC 1000 ms and read `counted` cycles on."""
    written = 50_000 * MS
    return trace(
        event(CreateVcpu(vcpu=0, label="create"), 900 * MS, KHZ),
        event(SetTscKhz(vcpu=0, khz=500_000, label="khz"), 950 * MS, 500_000),
        event(SetMsrs(vcpu=0, msrs=(("TSC", written),), label="write"), 1000 * MS, written),
        event(Run(vcpu=0, label="guest"), later, written + counted, width=width),
    )


AT_HALF = RateClaim(text="it counts half as fast", first="write", last="guest", khz="khz", instead="create")


def test_a_guest_at_half_the_rate_counts_half_the_time_that_passed() -> None:
    assert AT_HALF.check(half_as_fast(50 * MS)) == Finding(AT_HALF, Status.KEPT)


def test_a_guest_that_counts_at_the_hosts_rate_instead_breaks_the_claim() -> None:
    # At most 100.001 ms passed, which make 50,000,500 cycles, and 2 of rounding.
    finding = AT_HALF.check(half_as_fast(100 * MS))
    assert (finding.status, finding.step) == (Status.BROKEN, 4)
    assert finding.reason == (
        "the TSC advanced 100000000 cycles from step 'write' to 'guest', 49999498 cycles (100.0 ms) more "
        "than at 500000 kHz"
    )


def test_a_guest_that_stood_still_is_behind() -> None:
    assert "less than at 500000 kHz" in AT_HALF.check(half_as_fast(0)).reason


def test_brackets_wider_than_the_difference_leave_the_rate_undecided() -> None:
    # The reading took as long as lay between: 100 to 200 ms make 50 to 100 ms at half the rate, too.
    finding = AT_HALF.check(half_as_fast(100 * MS, width=100 * MS))
    assert (finding.status, finding.reason) == (
        Status.UNDECIDED,
        "too little time passed to tell the rates apart",
    )


def test_a_tsc_that_stood_still_before_it_was_read_may_count_from_where_it_stopped() -> None:
    # Set at 1000 ms, read at 1060 ms as it was then, and at 1100 ms as if it had counted all the time.
    stood = trace(
        event(CreateVcpu(vcpu=0, label="create"), 900 * MS, KHZ),
        event(SetMsrs(vcpu=0, msrs=(("TSC", 5),), label="set"), 1000 * MS, 5),
        event(GetMsrs(vcpu=0, indices=("TSC",), label="read"), 1060 * MS, 5),
        event(Run(vcpu=0, label="guest"), 1100 * MS, 5 + 100 * MS),
    )
    claim = RateClaim(text="it goes on", first="read", last="guest", khz="create")
    assert claim.check(stood).status is Status.BROKEN
    assert replace(claim, stands_since="set").check(stood).status is Status.KEPT


def test_a_guest_that_is_ahead_by_less_than_its_entry_took_is_undecided() -> None:
    # Entered and left in 10 ms: held up for as long between its two clocks, KVM brings the TSC so far ahead.
    at_most = (110 * MS + 10 * MS) // 2 + 2
    assert AT_HALF.check(half_as_fast(at_most, width=10 * MS)).status is Status.UNDECIDED
    assert AT_HALF.check(half_as_fast(at_most + 1, width=10 * MS)).status is Status.BROKEN


def test_a_rate_that_is_a_hundred_millionths_off_breaks_the_claim() -> None:
    # In 100 ms, known to 1000 ns each way, 500 MHz make 50 million cycles, known to 502.
    assert AT_HALF.check(half_as_fast(50 * MS + 502)).status is Status.KEPT
    assert AT_HALF.check(half_as_fast(50 * MS + 5_000)).status is Status.BROKEN
    assert AT_HALF.check(half_as_fast(50 * MS - 5_000)).status is Status.BROKEN


def test_a_rate_within_what_kvm_tolerates_is_the_hosts() -> None:
    # 1,000,200 kHz are 200 ppm more than the host's: there is no ratio, and the TSC counts as the host's.
    played = half_as_fast(100 * MS)
    tolerated = event(SetTscKhz(vcpu=0, khz=1_000_200, label="khz"), 950 * MS, 1_000_200)
    claim = replace(AT_HALF, instead="")
    assert claim.check(trace(played.events[0], tolerated, *played.events[2:])).status is Status.KEPT
    beyond = event(SetTscKhz(vcpu=0, khz=1_000_300, label="khz"), 950 * MS, 1_000_300)
    assert claim.check(trace(played.events[0], beyond, *played.events[2:])).status is Status.BROKEN


def test_the_rate_of_a_tsc_is_measured_by_the_brackets_of_a_trace() -> None:
    # 2 GHz: 2000 cycles and 1000 ns in each bracket.
    def at(tsc: int, ns: int) -> Event:
        return Event(Sleep(ns=1), Bracket(tsc, ns, ns + 1000, tsc + 2000))

    low, high = measured_khz(trace(at(0, 0), at(2_000_000_000, 1_000_000_000)))
    assert (round(low, 3), round(high, 3)) == (2_000_000, 2_000_000)
    # A bracket whose readings of the TSC are 500 cycles away from the clock's on each side.
    wide = Event(Sleep(ns=1), Bracket(1_999_999_500, 1_000_000_000, 1_000_001_000, 2_000_002_500))
    low, high = measured_khz(trace(at(0, 0), wide))
    assert (round(low, 2), round(high, 2)) == (1_999_999.5, 2_000_000.5)


def test_what_kvm_may_be_off_is_at_most_what_a_kernel_corrects_its_rate_by() -> None:
    create = event(CreateVcpu(vcpu=0, label="create"), 900 * MS, KHZ - 49)
    assert 48_990 < off_ppb(trace(create, event(Sleep(ns=1), 1000 * MS))) < 49_010
    # A lone step measures nothing.
    assert off_ppb(trace(create)) == CORRECTED_PPB


def test_a_rate_that_was_refused_proves_nothing() -> None:
    played = half_as_fast(50 * MS)
    refused = event(SetTscKhz(vcpu=0, khz=500_000, label="khz"), 950 * MS, 500_000, error="EINVAL")
    finding = AT_HALF.check(trace(played.events[0], refused, *played.events[2:]))
    assert (finding.status, finding.reason) == (Status.UNDECIDED, "step 'khz' failed with EINVAL")


def test_a_step_that_is_no_rate_proves_nothing() -> None:
    played = half_as_fast(50 * MS)
    odd = event(Run(vcpu=0, label="khz"), 950 * MS, 500_000)
    finding = AT_HALF.check(trace(played.events[0], odd, *played.events[2:]))
    assert (finding.status, finding.reason) == (Status.UNDECIDED, "step 'khz' has no rate")


def readings(*values: tuple[int, ...]) -> Trace:
    return trace(
        event(CreateVcpu(vcpu=0), 900 * MS, KHZ),
        *(
            event(Run(vcpu=0, label=f"guest-{number}"), (1000 + number) * MS, *each)
            for number, each in enumerate(values)
        ),
    )


FORWARD = ForwardClaim(text="its TSC never runs backwards", seen=("guest-0", "guest-1"))


def test_readings_that_stand_still_or_go_on_do_not_run_backwards() -> None:
    assert FORWARD.check(readings((1, 2), (2, 3))).status is Status.KEPT
    # Around the end of 64 bits it goes on as well.
    assert FORWARD.check(readings((2**64 - 2,), (1,))).status is Status.KEPT


def test_one_cycle_backwards_breaks_it_between_runs_and_within_one() -> None:
    between = FORWARD.check(readings((1, 5), (4, 6)))
    assert (between.status, between.step) == (Status.BROKEN, 3)
    assert between.reason == "step 'guest-1' read TSC 4, 1 cycles behind the 5 of step 'guest-0'"
    assert FORWARD.check(readings((1,), (5, 4))).status is Status.BROKEN


def test_around_the_end_of_64_bits_the_distance_is_still_the_short_one() -> None:
    finding = FORWARD.check(readings((1,), (2**64 - 2,)))
    assert finding.reason.startswith(f"step 'guest-1' read TSC {2**64 - 2}, 3 cycles behind")


def test_a_guest_that_read_nothing_leaves_it_open() -> None:
    finding = FORWARD.check(readings((1,), ()))
    assert (finding.status, finding.reason) == (Status.UNDECIDED, "step 'guest-1' read nothing")


def answers(before: int, after: int, error: str = "") -> Trace:
    return trace(
        event(GetTscKhz(vcpu=0, label="before"), 1000 * MS, before),
        event(GetTscKhz(vcpu=0, label="after"), 1001 * MS, *(() if error else (after,)), error=error),
    )


def test_an_answer_that_stays_is_kept_and_one_that_changed_is_broken() -> None:
    same = SameClaim(text="it stays", seen="after", expected="before")
    assert same.check(answers(5, 5)).status is Status.KEPT
    finding = same.check(answers(5, 6))
    assert (finding.status, finding.step) == (Status.BROKEN, 2)
    assert finding.reason == "step 'after' returned 6, step 'before' 5"
    assert same.check(answers(5, 5, "EINVAL")).reason == "step 'after' read nothing EINVAL"


def test_an_end_that_was_not_reached_is_open() -> None:
    claim = EndClaim(text="it is refused", seen="last", errors=("EINVAL",))
    assert claim.check(answers(5, 5)).status is Status.UNDECIDED
    refused = answers(5, 5, "EINVAL")
    assert (
        EndClaim(text="it is refused", seen="after", errors=("EINVAL",)).check(refused).status is Status.KEPT
    )
    assert (
        EndClaim(text="it is accepted", seen="after").check(refused).reason
        == "step 'after' failed with EINVAL"
    )


def test_an_answer_is_held_against_what_was_written_by_its_name() -> None:
    both = SetMsrs(vcpu=0, msrs=(("TSC", 5), ("TSC_ADJUST", 7)), label="written")
    asked = GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="read")
    same = SameClaim(text="it stays", seen="read", expected="written")

    def read(value: int, *written: int) -> Finding:
        return same.check(trace(event(both, 1000 * MS, *written), event(asked, 1001 * MS, value)))

    assert read(7, 5, 7).status is Status.KEPT
    assert read(5, 5, 7).reason == "step 'read' returned 5, step 'written' 7"
    assert read(7).status is Status.UNDECIDED
    by_guest = GuestWrite(vcpu=0, msr="TSC_ADJUST", value=7, label="written")
    found = same.check(trace(event(by_guest, 1000 * MS, 7, 1, 2), event(asked, 1001 * MS, 7)))
    assert found.status is Status.KEPT
