# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim that a deadline timer's interrupt comes, and not before its time, on hand-worked traces."""

from kvmharness.contract import Status, TimerClaim
from kvmharness.script import AwaitTimer, CreateVcpu, GetMsrs, SetMsrs
from kvmharness.trace import Bracket, Event, Place, Trace

MS = 1_000_000
# 1 GHz: a cycle is a ns. The guest's TSC is the host's.
COUNTING = Place("k", "amd", "s", may_protect_tscs=False, counts_instructions=True)


def step(operation: object, at: int, *values: int, error: str = "", width: int = 1000) -> Event:
    return Event(operation, Bracket(at, at, at + width, at + width), values, error)  # type: ignore[arg-type]


CREATE = step(CreateVcpu(vcpu=0, guest="timer-16"), 900 * MS, 1_000_000)


def deadline(value: int) -> Event:
    return step(SetMsrs(vcpu=0, msrs=(("TSC_DEADLINE", value),), label="deadline"), 1000 * MS, value)


def waits(fired: int) -> Event:
    return step(AwaitTimer(vcpu=0, ns=10 * MS, label="timer"), 1001 * MS, fired, width=10 * MS)


def after(tsc: int) -> Event:
    return step(GetMsrs(vcpu=0, indices=("TSC",), label="after"), 1012 * MS, tsc)


def found(
    *events: Event, expected: str = "deadline", last: str = "after", place: Place | None = None
) -> tuple[Status, str]:
    claim = TimerClaim(text="it comes", seen="timer", expected=expected, after=last)
    finding = claim.check(Trace("test", "test", (CREATE, *events), place))
    return finding.status, finding.reason


def test_an_interrupt_at_the_deadline_or_later_keeps_the_claim() -> None:
    for fired in (1004 * MS, 1004 * MS + 1, 1010 * MS):
        assert found(deadline(1004 * MS), waits(fired), after(1012 * MS)) == (Status.KEPT, "")


def test_an_interrupt_before_the_deadline_breaks_it() -> None:
    status, reason = found(deadline(1009 * MS), waits(1005 * MS), after(1012 * MS))
    assert status is Status.BROKEN
    assert "4000000 cycles (4.0 ms) before" in reason


def test_what_a_slewed_clock_explains_is_no_breach_where_others_run_too() -> None:
    # 11 ms pass; a clock may be slewed by 500 ppm of that, and its rate be corrected by 1 %: 115,500 cycles.
    early = deadline(1004 * MS), waits(1004 * MS - 100_000), after(1012 * MS)
    assert found(*early)[0] is Status.UNDECIDED
    assert found(*early, place=COUNTING)[0] is Status.BROKEN
    assert found(deadline(1004 * MS), waits(1004 * MS - 120_000), after(1012 * MS))[0] is Status.BROKEN


def test_an_interrupt_that_a_slewed_clock_may_have_made_late_is_not_lost() -> None:
    # The guest waits until 1011 ms. Of the 11 ms since the deadline was set 115,500 cycles may be missing.
    last = after(1012 * MS + 1000)
    for deadline_at, status in ((1011 * MS - 200_000, Status.BROKEN), (1011 * MS - 50_000, Status.UNDECIDED)):
        assert found(deadline(deadline_at), waits(0), last)[0] is status
    assert found(deadline(1011 * MS - 50_000), waits(0), last, place=COUNTING)[0] is Status.BROKEN


def test_an_interrupt_is_lost_if_the_tsc_is_beyond_the_deadline_by_then() -> None:
    status, reason = found(deadline(1004 * MS), waits(0), after(1012 * MS))
    assert status is Status.BROKEN
    assert "no interrupt came in 10 ms" in reason
    assert found(deadline(1020 * MS), waits(0), after(1012 * MS))[0] is Status.UNDECIDED
    assert found(deadline(1004 * MS), waits(0))[0] is Status.UNDECIDED


def test_a_deadline_that_came_only_after_the_guest_had_waited_says_nothing() -> None:
    # It waits until 1011 ms; the TSC is read at 1012 ms.
    assert found(deadline(1011 * MS + 500), waits(0), after(1012 * MS))[0] is Status.UNDECIDED
    assert found(deadline(1010 * MS), waits(0), after(1012 * MS))[0] is Status.BROKEN


def test_an_interrupt_that_is_not_due_need_not_come() -> None:
    assert found(deadline(1020 * MS), waits(0), last="") == (Status.KEPT, "")
    assert found(deadline(1020 * MS), waits(1010 * MS), last="")[0] is Status.BROKEN


def test_none_comes_without_a_deadline() -> None:
    assert found(deadline(0), waits(0), after(1012 * MS)) == (Status.KEPT, "")
    status, reason = found(deadline(0), waits(1005 * MS), after(1012 * MS))
    assert status is Status.BROKEN
    assert "there was no deadline" in reason


def test_a_guest_that_did_not_write_its_deadline_says_nothing() -> None:
    def arms(armed: int) -> Event:
        wait = AwaitTimer(vcpu=0, deadline=1004 * MS, ns=10 * MS, label="timer")
        return step(wait, 1001 * MS, 1004 * MS, armed, 0, width=10 * MS)

    assert found(arms(0), after(1012 * MS), expected="timer")[0] is Status.UNDECIDED
    assert found(arms(1002 * MS), after(1012 * MS), expected="timer")[0] is Status.BROKEN


def test_a_step_that_failed_says_nothing() -> None:
    failed = step(AwaitTimer(vcpu=0, label="timer"), 1001 * MS, error="EINVAL")
    assert found(deadline(1004 * MS), failed, after(1012 * MS))[0] is Status.UNDECIDED
    assert found(deadline(1004 * MS), after(1012 * MS))[0] is Status.UNDECIDED
