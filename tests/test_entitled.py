# SPDX-License-Identifier: GPL-2.0-or-later
"""Entitlements that come from a script's shape: kept by the kernels that keep them, broken by those that do
not."""

from dataclasses import replace

import pytest

from kvmharness.contract import EntitledClaim, Status
from kvmharness.contract.entitled import ENTITLEMENTS, breaches
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST, simulate
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import (
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    GuestWrite,
    Ppm,
    Read,
    Run,
    Script,
    SetClocksource,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    Sleep,
    Time,
    Value,
)
from kvmharness.trace import Trace
from tests.made_up import NEVER_SNAPS, play

MS = 1_000_000
SECOND = 1000 * MS


def create(*numbers: int) -> Script:
    return tuple(CreateVcpu(vcpu=number, guest="wrmsr-16", label=f"create-{number}") for number in numbers)


def write(value: Value, vcpu: int = 0) -> SetMsrs:
    return SetMsrs(vcpu=vcpu, msrs=(("TSC", value),), label=f"write-{vcpu}")


def look(*numbers: int) -> Script:
    return tuple(GetTscOffset(vcpu=number, label=f"offset-{number}") for number in numbers)


def rules(trace: Trace) -> set[str]:
    return {each.rule for each in breaches(trace)}


def with_value(trace: Trace, label: str, value: int) -> Trace:
    """The trace, with another first value in the step of that label."""
    events = [
        replace(each, values=(value, *each.values[1:])) if each.operation.label == label else each
        for each in trace.events
    ]
    return replace(trace, events=tuple(events))


YOUNG_RESTORE = (*create(0), Sleep(ns=50 * MS), write(Time(900 * MS)), *look(0))
PAIR = (*create(0, 1), write(Time(100 * SECOND)), write(Time(100 * SECOND), 1), *look(0, 1))
ONE_BY_ONE = (*create(0), write(Time(100 * SECOND)), *create(1), write(Time(100 * SECOND), 1), *look(0, 1))


def test_a_restored_young_vm_counts_on_its_timeline() -> None:
    assert rules(play("", YOUNG_RESTORE, "mainline-6.7")) == set()
    assert rules(play("", YOUNG_RESTORE, "mainline-before-6.7")) == {"timeline"}


def test_a_restore_right_after_a_reset_is_one_too() -> None:
    after_reset = (*create(0), write(1), Sleep(ns=100 * MS), write(Time(900 * MS)), *look(0))
    assert rules(play("", after_reset, "mainline-6.7")) == {"timeline"}


def test_what_is_broken_narrowly_is_broken_only_for_the_generous() -> None:
    def restored(off_ns: int) -> Trace:
        read = GetMsrs(vcpu=0, indices=("TSC",), label="read")
        write_near = write(Read("read", Time(off_ns)))
        return play("", (*create(0), read, write_near, *look(0)), "mainline-before-6.7")

    assert {each.rule for each in breaches(restored(MS))} == {"timeline"}
    assert breaches(restored(MS // 4)) == [], "a timeline is known to half a millisecond"
    assert {each.rule for each in breaches(restored(MS // 4), generous=True)} == {"timeline"}


def test_vcpus_that_were_given_one_timeline_count_together() -> None:
    assert rules(play("", PAIR, "mainline-6.7")) == set()
    assert rules(play("", PAIR, NEVER_SNAPS)) == {"together"}


def test_vcpus_that_are_created_and_restored_in_turn_are_entitled_to_that_as_well() -> None:
    assert rules(play("", ONE_BY_ONE, "mainline-6.7")) == {"together"}


@pytest.mark.parametrize(
    "script",
    [
        (*create(0, 1), write(Time(100 * SECOND)), write(Time(200 * SECOND), 1), *look(0, 1)),
        (
            *create(0, 1),
            write(Time(100 * SECOND)),
            Sleep(ns=900 * MS),
            write(Time(101 * SECOND), 1),
            *look(0, 1),
        ),
        (*create(0, 1), write(Time(900 * MS)), *look(0, 1)),
        (*create(0), Sleep(ns=50 * MS), write(0), *look(0)),
        (*create(0), SetTscKhz(vcpu=0, khz=Ppm(100)), write(Time(900 * MS)), *look(0)),
    ],
    ids=["two timelines", "too far apart", "one vCPU of two", "a write of 0", "another rate"],
)
def test_of_other_shapes_nothing_is_said(script: Script) -> None:
    for policy in ("mainline-before-6.7", "mainline-6.7", NEVER_SNAPS):
        assert not rules(play("", script, policy)) & {"timeline", "together"}


@pytest.mark.parametrize("failed", range(len(PAIR)))
def test_a_step_that_failed_leaves_an_entitlement_open(failed: int) -> None:
    claim = EntitledClaim(text="they count together", rule="together")
    played = play("", PAIR)
    assert claim.check(played).status is Status.KEPT
    for error in ("EIO", "EINTR"):
        events = list(played.events)
        events[failed] = replace(events[failed], error=error)
        finding = claim.check(replace(played, events=tuple(events)))
        assert (finding.status, finding.reason) == (
            Status.UNDECIDED,
            f"step {failed + 1} failed with {error}",
        )


def test_a_tsc_that_nobody_writes_counts_on() -> None:
    script = (*create(0), *look(0), Sleep(ns=SECOND), GetMsrs(vcpu=0, indices=("TSC",), label="later"))
    trace = play("", script)
    assert rules(trace) == set()
    later = trace.events[-1].values[0]
    (breach,) = breaches(with_value(trace, "later", later - 5_000))
    assert (breach.rule, breach.step, breach.vcpu) == ("unwritten", len(script), 0)


def test_a_rate_that_a_vcpu_has_already_changes_nothing() -> None:
    """QEMU sets it before each TSC that it restores."""
    same, other = (SetTscKhz(vcpu=0, khz=Ppm(ppm), label="khz") for ppm in (0, 100))
    restored = (*create(0), SetMsrs(vcpu=0, msrs=(("TSC", Time(900 * MS)),), label="write"))
    for rate, seen in ((same, True), (other, False)):
        script = (restored[0], rate, restored[1])
        trace = simulate("", script, POLICIES["mainline-before-6.7"], debugfs=True)
        assert any(each.rule == "timeline" for each in breaches(trace)) is seen


def test_a_new_vcpu_counts_together_with_the_others() -> None:
    script = (*create(0, 1), *look(0, 1))
    trace = play("", script)
    assert rules(trace) == set()
    assert rules(with_value(trace, "offset-1", trace.events[-1].values[0] + 1)) == set(), (
        "vCPU 0's is not known"
    )
    known = play("", (*create(0), *look(0), *create(1), *look(1)))
    assert rules(with_value(known, "offset-1", known.events[-1].values[0] + 1)) == {"new-vcpu"}


STABLE = (*PAIR, Run(vcpu=0, label="run-0"), Run(vcpu=1, label="run-1"), GetClock(label="clock"))


def test_the_clock_is_called_stable_if_and_only_if_vcpus_count_together() -> None:
    trace = play("", STABLE)
    assert rules(trace) == set()
    clock, flags, *rest = trace.events[-1].values
    unstable = replace(trace.events[-1], values=(clock, flags & ~2, *rest))
    assert rules(replace(trace, events=(*trace.events[:-1], unstable))) == {"stable"}
    apart = (
        *STABLE[:-1],
        GuestWrite(vcpu=1, msr="TSC", value=5, label="guest"),
        *look(0, 1),
        *STABLE[-3:],
    )
    assert rules(play("", apart)) == {"not-stable"}, "KVM does not look at what guests write"


def test_before_all_vcpus_have_run_nothing_is_said_of_the_clock() -> None:
    script = (*PAIR, Run(vcpu=0, label="run-0"), GetClock(label="clock"))
    trace = play("", script)
    clock, flags, *rest = trace.events[-1].values
    changed = replace(trace.events[-1], values=(clock, flags ^ 2, *rest))
    assert rules(replace(trace, events=(*trace.events[:-1], changed))) == set()


def test_answers_are_what_was_set() -> None:
    script = (
        *create(0),
        SetTscKhz(vcpu=0, khz=Ppm(100), label="set-khz"),
        GetTscKhz(vcpu=0, label="khz"),
        SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", 7),), label="adjust"),
        GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust-read"),
    )
    trace = play("", script)
    assert rules(trace) == set()
    assert rules(with_value(trace, "khz", HOST.khz or 0)) == {"khz"}
    assert rules(with_value(trace, "adjust-read", 8)) == {"adjust"}


def test_a_guest_that_writes_its_tsc_changes_tsc_adjust() -> None:
    script = (
        *create(0),
        SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", 7),), label="adjust"),
        GuestWrite(vcpu=0, msr="TSC", value=5, label="guest"),
        GetMsrs(vcpu=0, indices=("TSC_ADJUST",), label="adjust-read"),
    )
    assert rules(play("", script)) == set()


def test_an_offset_that_was_set_is_read_again() -> None:
    script = (
        *create(0),
        *look(0),
        SetTscOffset(vcpu=0, offset=Read("offset-0", Time(SECOND)), label="set"),
        GetTscOffset(vcpu=0, label="after"),
    )
    trace = play("", script)
    assert rules(trace) == set()
    assert rules(with_value(trace, "after", 1)) == set(), "without debugfs there is nothing to compare with"


def test_the_claim_finds_its_own_rule_only() -> None:
    trace = play("", YOUNG_RESTORE, "mainline-before-6.7")
    for rule, text in ENTITLEMENTS.items():
        finding = EntitledClaim(text=text, rule=rule).check(trace)
        assert finding.status is (Status.BROKEN if rule == "timeline" else Status.KEPT)
    broken = EntitledClaim(text="", rule="timeline").check(trace)
    assert broken.step == 4
    assert "behind" in broken.reason


# Scenarios that the rules see as broken without a look at their claims, and which policies break each.
BOTH, OLD = ("mainline-before-6.7", "mainline-6.7"), ("mainline-before-6.7",)
DEFECTS = {
    "young-restore": ("timeline", OLD),
    "write-one": ("timeline", OLD),
    "restored-at-once-young": ("timeline", OLD),
    "write-after-run-near": ("timeline", OLD),
    "qemu-loadvm-young": ("timeline", BOTH),
    "qemu-incoming-young": ("timeline", BOTH),
    "qemu-reset-young": ("timeline", BOTH),
    "zero-then-young-restore": ("timeline", BOTH),
    "young-restore-twice": ("timeline", BOTH),
    "three-writes": ("timeline", BOTH),
    "rewrite-after-run-near": ("timeline", BOTH),
    "offset-then-write": ("timeline", BOTH),
    "gvisor-calibrated-writes": ("timeline", BOTH),
    "restore-one-by-one": ("together", BOTH),
    "offset-copied-to-the-other": ("stable", BOTH),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_of_the_catalogue_are_seen_without_its_claims(name: str) -> None:
    rule, policies = DEFECTS[name]
    for policy in BOTH:
        trace = simulate(name, SCENARIOS[name].script, POLICIES[policy], debugfs=True)
        assert (rule in {each.rule for each in breaches(trace)}) is (policy in policies), policy


@pytest.mark.parametrize("leaves", [False, True])
def test_a_clock_need_not_be_stable_again_once_the_hosts_has_left_the_tsc(leaves: bool) -> None:
    # docs/findings.md, host-clock-comes-back: nothing has KVM look again.
    script = (*create(0), SetClocksource(tsc=not leaves), Run(vcpu=0), GetClock(label="clock"))
    host = replace(HOST, one_tsc=True)
    trace = simulate("", script, POLICIES["mainline-6.7"], host, debugfs=True)
    *before, clock = trace.events
    unstable = replace(clock, values=(clock.values[0], 0, *clock.values[2:]))
    found = breaches(replace(trace, events=(*before, unstable)))
    assert [each.rule for each in found] == ([] if leaves else ["stable"])
