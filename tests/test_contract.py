# SPDX-License-Identifier: GPL-2.0-or-later
"""Contracts on hand-worked traces. The host counts 1 GHz: 1 ns is 1 cycle, 1 ms a million."""

from dataclasses import replace

import pytest

from kvmharness.contract import Finding, OffsetClaim, Promptly, Status, check_all
from kvmharness.script import CreateVcpu, GetMsrs, GetTscOffset, Operation, Run, SetMsrs, SetTscOffset
from kvmharness.trace import Bracket, Event, Trace

MS = 1_000_000
KHZ = 1_000_000
RESTORED = 900 * MS


def event(operation: Operation, host: int, *values: int, width: int = 1000, error: str = "") -> Event:
    """A step whose ioctl took from `host` to `host + width`, in cycles and in ns."""
    return Event(operation, Bracket(host, host, host + width, host + width), values, error)


def read(label: str, host: int, tsc: int, *, width: int = 1000, vcpu: int = 0) -> Event:
    return event(GetMsrs(vcpu=vcpu, indices=("TSC",), label=label), host, tsc, width=width)


def restored(*after: Event, width: int = 1000) -> Trace:
    """vCPU 0 is created at host TSC 1000 ms and written 900 ms worth of cycles at 1050 ms."""
    return Trace(
        "test",
        "test",
        (
            event(CreateVcpu(vcpu=0, label="create"), 1000 * MS, KHZ),
            read("before", 1001 * MS, 1 * MS),
            event(
                SetMsrs(vcpu=0, msrs=(("TSC", RESTORED),), label="write"), 1050 * MS, RESTORED, width=width
            ),
            *after,
        ),
    )


GOES_ON = OffsetClaim(
    text="goes on",
    seen=("after",),
    expected=("write",),
    instead="before",
    otherwise="it was overridden",
)


def outcome(*after: Event) -> Finding:
    """What becomes of the claim that the vCPU, seen in these steps, goes on from the write."""
    claim = replace(GOES_ON, seen=tuple(each.operation.label for each in after))
    return claim.check(restored(*after))


def test_a_reading_that_goes_on_from_the_write_keeps_the_contract() -> None:
    # Read 10 ms after the write: 900 ms + 10 ms.
    assert outcome(read("after", 1060 * MS, 910 * MS)).status is Status.KEPT


def test_a_reading_that_goes_on_from_the_creation_breaks_it_and_says_how_far() -> None:
    # Read 60 ms after the creation: TSC 60 ms instead of 910 ms. At best the kernel made the write at
    # the end of its bracket and the reading at its beginning: 850 ms less the 1000 cycles of the write.
    finding = outcome(read("after", 1060 * MS, 60 * MS))
    assert finding.status is Status.BROKEN
    assert finding.step == 4
    assert finding.reason == (
        "step 'after' read TSC 60000000 (60.0 ms), 849999000 cycles (850.0 ms) lower than required: "
        "it was overridden"
    )


@pytest.mark.parametrize(("off", "status"), [(1000, Status.KEPT), (1001, Status.BROKEN)])
def test_the_brackets_are_the_only_tolerance(off: int, status: Status) -> None:
    # The write lies within [1050 ms, +1000], the reading at exactly 1060 ms (a bracket of no width):
    # offsets from 900 ms - 1050 ms - 1000 to 900 ms - 1050 ms are possible, one cycle less is not.
    assert outcome(read("after", 1060 * MS, 910 * MS - off, width=0)).status is status


def test_brackets_too_wide_to_tell_leave_it_undecided() -> None:
    # A reading that took a second may have been made before or after the write for all we know.
    finding = outcome(read("after", 1060 * MS, 950 * MS, width=1000 * MS))
    assert finding.status is Status.UNDECIDED
    assert "the brackets are too wide" in finding.reason


def test_an_offset_is_exact() -> None:
    kept = event(GetTscOffset(vcpu=0, label="offset"), 1060 * MS, (900 * MS - 1050 * MS) % 2**64)
    broken = event(GetTscOffset(vcpu=0, label="offset"), 1060 * MS, (900 * MS - 1050 * MS + 1) % 2**64)
    assert outcome(kept).status is Status.KEPT
    finding = outcome(broken)
    assert finding.status is Status.BROKEN
    assert finding.reason == "step 'offset' read offset -149999999, 1 cycle (1 ns) higher than required"


def test_a_guests_newest_sample_counts() -> None:
    run = event(Run(vcpu=0, label="guest"), 1060 * MS, 5, 910 * MS)
    assert outcome(run).status is Status.KEPT


def test_one_broken_reading_among_good_ones_breaks_the_contract() -> None:
    run = event(Run(vcpu=0, label="guest"), 1070 * MS, 70 * MS)
    finding = outcome(read("after", 1060 * MS, 910 * MS), run)
    assert (finding.status, finding.step) == (Status.BROKEN, 5)


def test_a_failed_reading_is_no_reading() -> None:
    failed = event(GetTscOffset(vcpu=0, label="offset"), 1055 * MS, error="ENXIO")
    assert outcome(failed, read("after", 1060 * MS, 910 * MS)).status is Status.KEPT
    finding = outcome(failed)
    assert finding.status is Status.UNDECIDED
    assert finding.reason == "none of the steps offset read anything ENXIO"


def test_a_guest_that_read_nothing_leaves_it_undecided() -> None:
    silent = event(Run(vcpu=0, label="guest"), 1070 * MS)
    finding = outcome(read("after", 1060 * MS, 910 * MS), silent)
    assert (finding.status, finding.reason) == (Status.UNDECIDED, "the guest of step 'guest' read nothing")


def test_a_silent_guest_does_not_hide_what_another_reading_proves() -> None:
    silent = event(Run(vcpu=0, label="guest"), 1070 * MS)
    assert outcome(silent, read("after", 1080 * MS, 80 * MS)).status is Status.BROKEN


def test_a_step_that_was_not_reached_leaves_it_undecided() -> None:
    claim = replace(GOES_ON, seen=("after", "guest"))
    finding = claim.check(restored(read("after", 1060 * MS, 910 * MS)))
    assert (finding.status, finding.reason) == (Status.UNDECIDED, "step 'guest' was not reached")


def test_a_failed_write_leaves_it_undecided() -> None:
    trace = restored(read("after", 1060 * MS, 60 * MS))
    write = event(trace.events[2].operation, 1050 * MS, RESTORED, error="EINVAL")
    trace = Trace("test", "test", (*trace.events[:2], write, *trace.events[3:]))
    finding = GOES_ON.check(trace)
    assert finding.status is Status.UNDECIDED
    assert finding.reason == "step 'write' failed with EINVAL"


def test_a_trace_that_ended_early_leaves_it_undecided() -> None:
    trace = Trace("test", "test", restored().events[:1])
    assert GOES_ON.check(trace).reason == "step 'before' was not reached"


def pair(v0: int, v1: int, *, second_write: int = 1055 * MS) -> Trace:
    """vCPUs 0 and 1 are written 100 s and 100.002 s, 5 ms apart, and read v0 at 1100, v1 at 1101 ms."""
    return Trace(
        "test",
        "test",
        (
            event(CreateVcpu(vcpu=0), 1000 * MS, KHZ),
            event(CreateVcpu(vcpu=1), 1001 * MS, KHZ),
            event(SetMsrs(vcpu=0, msrs=(("TSC", 0),), label="write-0"), 1050 * MS, 100_000 * MS),
            event(SetMsrs(vcpu=1, msrs=(("TSC", 0),), label="write-1"), second_write, 100_002 * MS),
            read("tsc-0", 1100 * MS, v0),
            read("tsc-1", 1101 * MS, v1, vcpu=1),
        ),
    )


TOGETHER = OffsetClaim(
    text="together",
    seen=("tsc-1",),
    expected=("tsc-0",),
    instead="write-1",
    otherwise="each its own",
    together=("write-0", "write-1"),
)


def test_vcpus_that_share_an_offset_count_together() -> None:
    # 1101 - 1100 = 1 ms between the readings, and 1 ms between what they read.
    assert TOGETHER.check(pair(100_050 * MS, 100_051 * MS)).status is Status.KEPT


def test_vcpus_that_each_kept_their_own_value_do_not() -> None:
    # vCPU 1 was written 100.002 s at 1055 ms: 46 ms later it reads 100.048 s, 3 ms behind vCPU 0.
    finding = TOGETHER.check(pair(100_050 * MS, 100_048 * MS))
    assert finding.status is Status.BROKEN
    assert finding.reason.endswith("lower than required: each its own")


def test_writes_too_far_apart_are_no_pair() -> None:
    # A player held up for half a second between the writes proves nothing about the kernel.
    finding = TOGETHER.check(pair(100_050 * MS, 100_048 * MS, second_write=1600 * MS))
    assert finding.status is Status.UNDECIDED
    assert "550 ms apart" in finding.reason


def test_all_claims_of_a_script_that_was_not_prompt_are_undecided() -> None:
    promptly = Promptly("write-0", "write-1", 300 * MS)
    claims = (replace(TOGETHER, together=()),) * 2
    apart = pair(100_050 * MS, 100_048 * MS, second_write=1060 * MS)
    assert [each.status for each in check_all(claims, apart, promptly)] == [Status.BROKEN] * 2
    later = pair(100_050 * MS, 100_048 * MS, second_write=1360 * MS)
    found = check_all(claims, later, promptly)
    assert [each.status for each in found] == [Status.UNDECIDED] * 2
    assert "310 ms apart" in found[0].reason


def test_a_failed_write_among_a_pair_proves_nothing() -> None:
    trace = pair(100_050 * MS, 100_048 * MS)
    failed = replace(trace.events[3], error="ENOMEM")
    finding = TOGETHER.check(replace(trace, events=(*trace.events[:3], failed, *trace.events[4:])))
    assert (finding.status, finding.reason) == (Status.UNDECIDED, "step 'write-1' failed with ENOMEM")


def test_offsets_that_wrapped_around_are_the_same_offset() -> None:
    trace = Trace(
        "test",
        "test",
        (
            event(CreateVcpu(vcpu=0), 1000 * MS, KHZ),
            event(SetTscOffset(vcpu=0, offset=-5, label="write"), 1001 * MS, 2**64 - 5),
            read("after", 3, 0, width=4),
        ),
    )
    claim = OffsetClaim(text="kept", seen=("after",), expected=("write",))
    # A TSC of 0 read at host TSC 3 to 7 means an offset of -7 to -3, and -5 is among them.
    assert claim.check(trace).status is Status.KEPT
