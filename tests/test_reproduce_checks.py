# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks in C of what steps read, on hand-worked steps: compiled, and run without a KVM."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvmharness.guests import layout
from kvmharness.reproduce import pieces
from kvmharness.reproduce.styles import included

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="missing capability C compiler")

# A check alone leaves some of its pieces' names unused.
OPTIONS = ("-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused")


def results(checks: Sequence[tuple[str, str]], tmp_path: Path) -> list[str]:
    """What comes of each check: kept, broken or undecided, and why. A check is declarations and an
    expression."""
    blocks = "".join(
        "\t{\n"
        f"\t\t{declared}\n"
        f"\t\tenum result result = {expression};\n\n"
        '\t\tprintf("%s%s\\n", result == KEPT ? "kept" : result == BROKEN ? "broken: " : "undecided: ",\n'
        '\t\t       result == KEPT ? "" : reason);\n'
        "\t}\n"
        for declared, expression in checks
    )
    body = f"int main(void)\n{{\n{blocks}\treturn 0;\n}}\n"
    own = "\n\n".join(piece.code for piece in pieces.used_by(f"{body} reason"))
    source, made = tmp_path / "a.c", tmp_path / "a"
    source.write_text(f"{included(own)}\n{own}\n\n{body}")
    subprocess.run(["cc", *OPTIONS, "-o", made, source], check=True, timeout=120)
    done = subprocess.run([made], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def step(name: str, *values: int, error: str = "0") -> str:
    """A step that read these values, as a declaration."""
    count = 0 if error != "0" else len(values)
    fields = (
        f'.name = "{name}", .error = {error}, .count = {count}, .value = {{ {", ".join(map(str, values))} }}'
    )
    return f"struct step {name} = {{ {fields} }};"


def steal(name: str, ns: int, waited: tuple[int, int], *, version: int = 2, preempted: int = 0) -> str:
    """A step that reads a steal time."""
    return step(name, ns, version, 0, preempted, 0, *waited, 1000)


GROWS = "steal_grows((struct steal_claim) { .due = &first, .seen = { &last }, .by = { &wait } })"


def test_the_steal_time_has_to_grow_by_what_the_thread_waited(tmp_path: Path) -> None:
    """The thread waits 5000 ns in one step, and 10 ns while the guest runs: 5000 to 5020 ns."""
    first, wait = steal("first", 100, (1000, 1010)), step("wait", 1010, 6010)
    grown = {ns: f"{first} {wait} {steal('last', 100 + ns, (6010, 6020))}" for ns in (4999, 5000, 5020, 5021)}
    said = "from step first to last the steal time grew by {} ns, while the thread waited 5000 to 5020 ns"
    assert results([(each, GROWS) for each in grown.values()], tmp_path) == [
        f"broken: {said.format(4999)}",
        "kept",
        "kept",
        f"broken: {said.format(5021)}",
    ]


def test_a_page_that_no_running_guest_may_find_is_broken(tmp_path: Path) -> None:
    first, wait = steal("first", 100, (1000, 1000)), step("wait", 1000, 6000)
    pages = (
        steal("last", 5100, (6000, 6000), version=0),
        steal("last", 5100, (6000, 6000), version=3),
        steal("last", 5100, (6000, 6000), preempted=1),
        step("last", 5100, 2, 0, 0, 8, 6000, 6000, 1000),
    )
    assert results([(f"{first} {wait} {page}", GROWS) for page in pages], tmp_path) == [
        "broken: step last: version 0",
        "broken: step last: version 3",
        "broken: step last: its vCPU is preempted, while it runs",
        "broken: step last: flags 0, padding 0x8, where there is nothing",
    ]


def test_nothing_is_said_where_the_thread_did_not_wait_or_a_guest_read_nothing(tmp_path: Path) -> None:
    first, last = steal("first", 100, (1000, 1000)), steal("last", 100, (1000, 1000))
    idle, wait = step("wait", 1000, 1000), step("wait", 1000, 6000)
    failed = step("last", error="ENXIO")
    assert results([(f"{first} {idle} {last}", GROWS), (f"{first} {wait} {failed}", GROWS)], tmp_path) == [
        "undecided: step wait: nothing competed for the CPU",
        "undecided: step last read nothing: No such device or address",
    ]


def test_a_page_that_is_off_has_to_stay_as_it_was(tmp_path: Path) -> None:
    first, same = steal("first", 100, (0, 0)), steal("last", 100, (0, 0))
    later, never = steal("last", 100, (0, 0), version=4), steal("last", 0, (0, 0), version=0)
    since, ever = "no_steal(&last, &first)", "no_steal(&last, NULL)"
    found = [(f"{first} {same}", since), (f"{first} {later}", since), (never, ever), (same, ever)]
    assert results(found, tmp_path) == [
        "kept",
        "broken: step last read a page of version 4, 100 ns",
        "kept",
        "broken: step last read a page of version 2, 100 ns",
    ]


def wall_clock(version: int, wall: int, clock: int, real: int, *, took_ns: int = 100) -> str:
    """A wall clock, read after KVM wrote it in so many ns, and a KVM_GET_CLOCK at once."""
    return (
        f"{step('wall', version, wall)} {step('by')} {step('clock', clock, 0, real, 0)} "
        f"by.ns_before = clock.ns_before = 5000; by.ns_after = 5000 + {took_ns}; clock.ns_after = 5000;"
    )


IS_REAL_TIME_LESS_CLOCK = "wall_clock_is(&wall, &by, &clock, 1000000)"


def test_a_wall_clock_may_be_off_by_how_long_kvm_took_to_write_it(tmp_path: Path) -> None:
    """Real time 1,000,000 ns less a clock of 400,000 ns; KVM took 100 ns, and 4 numbers are rounded."""
    gaps = {gap: wall_clock(2, 600_000 + gap, 400_000, 1_000_000) for gap in (-105, -104, 104, 105)}
    said = "broken: step wall reports a wall clock 105 ns {} real time and clock of step clock"
    assert results([(each, IS_REAL_TIME_LESS_CLOCK) for each in gaps.values()], tmp_path) == [
        said.format("behind"),
        "kept",
        "kept",
        said.format("ahead of"),
    ]


def test_a_wall_clock_that_was_never_written_is_broken(tmp_path: Path) -> None:
    found = [(wall_clock(version, 600_000, 400_000, 10**6), IS_REAL_TIME_LESS_CLOCK) for version in (0, 3)]
    assert results(found, tmp_path) == ["broken: step wall: version 0", "broken: step wall: version 3"]


def runstate(
    name: str,
    state: str,
    *times: int,
    waited: int = 0,
    on_purpose: int = 0,
    since_first: int = 0,
    entered: int = -1,
) -> str:
    """A step that reads a runstate, whose times add up unless `entered` says another sum."""
    number = ("running", "runnable", "blocked", "offline").index(state)
    clock = sum(times) if entered < 0 else entered
    values = (number, clock, *times, waited, on_purpose, since_first)
    return step(name, *values)


def is_running(*fields: str) -> str:
    """That the vCPU is, at the step last."""
    given = ", ".join((".seen = &last, .state = RUNNING", *fields))
    return f"runstate_is((struct runstate_claim) {{ {given} }})"


def test_the_times_of_a_runstate_add_up_and_the_state_is_what_it_should_be(tmp_path: Path) -> None:
    pages = (
        runstate("last", "running", 10, 20, 30, 40),
        runstate("last", "running", 10, 20, 30, 40, entered=99),
        runstate("last", "running", 10, 20, 30, 40, entered=0),
        runstate("last", "blocked", 10, 20, 30, 40),
        runstate("last", "blocked", 10, 20, 30, 40, waited=9, since_first=9),
        runstate("last", "runnable", 10, 20, 30, 40),
        runstate("last", "runnable", 10, 20, 30, 40, waited=9, since_first=9),
    )
    assert results([(page, is_running()) for page in pages], tmp_path) == [
        "kept",
        "broken: the times that step last read are 1 ns more than the clock when the state was entered",
        "broken: step last read a runstate that KVM never wrote",
        "broken: step last read that the vCPU is blocked (2)",
        "broken: step last read that the vCPU is blocked (2)",
        "broken: step last read that the vCPU is runnable (1)",
        "undecided: step last: the thread may have been preempted",
    ]


def test_a_state_is_entered_between_two_readings_of_the_clock(tmp_path: Path) -> None:
    """The clock is 90 ns at first, then 110 ns. A first run ends a time offline of 40 ns, or so it should."""
    clocks = f"{step('one', 90, 2)} {step('two', 110, 2)}"
    last = runstate("last", "running", 10, 20, 30, 40)
    later = runstate("last", "running", 10, 21, 30, 50)
    between = is_running(".after = &one, .before = &two")
    first = is_running(".first = true, .after = &one, .before = &two", ".earlier = { &earlier }")
    new, entered = runstate("earlier", "running", 0, 0, 0, 0), runstate("earlier", "runnable", 0, 0, 0, 40)
    found = [
        (f"{clocks} {last}", between),
        (f"{clocks} {later}", between),
        (f"{clocks} {last} {new}", first),
        (f"{clocks} {last} {entered}", first),
    ]
    assert results(found, tmp_path) == [
        "kept",
        "broken: step last read that the state was entered 1 ns after the clock of step two",
        "broken: step last read that the state was entered 50 ns before the clock of step one",
        "undecided: step last: the thread was preempted before the first run",
    ]


BLOCKED_ALONE = "only_grow(1 << BLOCKED, &first, &last)"


def test_only_the_time_of_a_state_that_it_was_in_grows(tmp_path: Path) -> None:
    """What a thread waits elsewhere than where it is made to may be runnable and running, never offline."""
    first = runstate("first", "blocked", 10, 20, 30, 40, waited=100, on_purpose=50)
    pages = (
        runstate("last", "blocked", 10, 20, 35, 40, waited=100, on_purpose=50),
        runstate("last", "blocked", 11, 20, 35, 40, waited=160, on_purpose=110),
        runstate("last", "blocked", 11, 20, 35, 40, waited=161, on_purpose=110),
        runstate("last", "blocked", 10, 21, 35, 40, waited=161, on_purpose=110),
        runstate("last", "blocked", 10, 20, 35, 41, waited=161, on_purpose=110),
        runstate("last", "blocked", 9, 20, 35, 40, waited=161, on_purpose=110),
    )
    said = "broken: from step first to last the time in which the vCPU was {} by 1 ns"
    assert results([(f"{first} {page}", BLOCKED_ALONE) for page in pages], tmp_path) == [
        "kept",
        said.format("running grew"),
        "undecided: step last: the thread may have been preempted",
        "undecided: step last: the thread may have been preempted",
        said.format("offline grew"),
        said.format("running ran back"),
    ]


def test_a_vcpu_that_was_preempted_before_goes_on_being_runnable(tmp_path: Path) -> None:
    last = runstate("last", "running", 10, 29, 30, 40)
    firsts = (
        runstate("first", "runnable", 10, 20, 30, 40, since_first=9),
        runstate("first", "blocked", 10, 20, 30, 40, since_first=9),
        runstate("first", "runnable", 10, 20, 30, 40),
    )
    said = "broken: from step first to last the time in which the vCPU was runnable grew by 9 ns"
    assert results([(f"{first} {last}", BLOCKED_ALONE) for first in firsts], tmp_path) == [
        "undecided: step last: the thread may have been preempted",
        said,
        said,
    ]


def test_a_vcpu_is_runnable_for_as_long_as_its_thread_waits(tmp_path: Path) -> None:
    """The thread waits 60 ns where it is made to, and 5 ns elsewhere or none."""
    new, due = runstate("new", "offline", 0, 0, 0, 9), runstate("due", "running", 10, 20, 30, 40)
    wait = step("wait", 0, 60)
    check = (
        "was_runnable((struct runnable_claim) { .seen = &last, .due = &due, .first = &new, .by = { &wait } })"
    )
    pages = {
        (grown, waited): runstate("last", "running", 10, 20 + grown, 30, 40, waited=waited)
        for grown, waited in ((60, 60), (59, 60), (61, 60), (65, 65), (66, 65), (59, 65))
    }
    said = "broken: from step due to last the vCPU was runnable for {} ns"
    said += ", while its thread waited 60 ns for a CPU"
    elsewhere = "undecided: the thread also waited elsewhere"
    found = [(f"{new} {due} {wait} {page}", check) for page in pages.values()]
    assert results(found, tmp_path) == [
        "kept",
        said.format(59),
        said.format(61),
        "kept",
        elsewhere,
        elsewhere,
    ]


def by_page(name: str, sequence: int, scale: int, offset: int) -> str:
    """A step that reads a TSC page."""
    return step(name, sequence, scale, offset)


# A kvmclock page of 1000 ns at a TSC of 0, of which each cycle is a ns: times half of 2**32, shifted by 1.
KVMCLOCK = step("due", 2, 0, 1000, 2**31, 1, 1)
# The TSC page that goes with it: of 2**64 a hundredth for each cycle, and 1000 ns are 10 units.
SCALE, OFFSET = 2**64 // 100, 10


def is_reference(**fields: str) -> str:
    given = {"seen": "&seen", "due": "&due", "counter": "-1", "page": "-1", "due_page": "-1", **fields}
    text = ", ".join(f".{name} = {value}" for name, value in given.items())
    return f"is_reference((struct reference_claim) {{ {text} }})"


def test_a_reference_counter_may_be_a_unit_ahead_of_the_clock_and_two_behind_it(tmp_path: Path) -> None:
    """Between the TSCs 100,000 and 100,100 the clock goes from 101,000 to 101,100 ns; 2 ns for rounding."""
    counts = {
        count: f"{KVMCLOCK} {step('seen', 100_000, count, 100_100)}" for count in (1007, 1008, 1012, 1013)
    }
    found = [(each, is_reference(counter="0")) for each in counts.values()]
    assert results(found, tmp_path) == [
        "broken: step seen read a counter 98 ns too far behind step due",
        "kept",
        "kept",
        "broken: step seen read a counter 98 ns too far ahead of step due",
    ]


def test_a_tsc_page_is_the_clock_at_the_guests_tsc(tmp_path: Path) -> None:
    """At a TSC of 1000 the clock is at 2000 ns: 20 units. The scale has to be the clock's to the bit."""
    at = f"{step('at', 1)} at.has_tsc = true; at.tsc = 1000;"
    check = is_reference(page="0", at="&at", by_page="true")
    pages = (
        (2, SCALE, OFFSET),
        (2, SCALE, OFFSET + 2),
        (2, SCALE, OFFSET + 3),
        (2, SCALE, OFFSET - 3),
        (2, SCALE + 1, OFFSET),
        (0, SCALE, OFFSET),
    )
    found = [(f"{KVMCLOCK} {at} {by_page('seen', *page)}", check) for page in pages]
    beyond = "broken: step seen read a page whose time is {} ns too far {} step due"
    assert results(found, tmp_path) == [
        "kept",
        "kept",
        beyond.format(98, "ahead of"),
        beyond.format(198, "behind"),
        f"broken: step seen read a page of scale {SCALE + 1}, not that of step due",
        "broken: step seen: the guest is not to go by the page",
    ]


def test_a_new_tsc_page_has_a_new_sequence(tmp_path: Path) -> None:
    due = by_page("due", 2, SCALE, OFFSET)
    new, same, hidden = (
        by_page("seen", 3, SCALE, OFFSET + 9),
        by_page("seen", 2, SCALE, OFFSET),
        by_page("seen", 2, SCALE, OFFSET + 9),
    )
    renewed, kept = (f"is_renewed(&seen, 0, &due, 0, {each})" for each in ("true", "false"))
    asked = ((new, renewed), (same, renewed), (hidden, renewed), (same, kept), (new, kept))
    assert results([(f"{due} {page}", check) for page, check in asked], tmp_path) == [
        "kept",
        "broken: step seen read the TSC page of step due",
        "broken: step seen read a new TSC page under the sequence of the old one, 2",
        "kept",
        "broken: step seen read a TSC page other than step due",
    ]


def test_a_tsc_page_that_is_off_is_empty(tmp_path: Path) -> None:
    found = [(by_page("seen", *page), "is_empty(&seen, 0)") for page in ((0, 0, 0), (0, 0, 1))]
    assert results(found, tmp_path) == ["kept", "broken: step seen read a page that was written"]


def test_c_has_the_guests_memory_as_the_harness_has_it(tmp_path: Path) -> None:
    """So a number that is an address means the same in both."""
    told = {
        "page_address(3)": layout.kvmclock_address(3),
        "steal_time(2)": layout.steal_time_address(2),
        "xen_time(5)": layout.xen_time_address(5),
        "xen_info(4)": layout.xen_vcpu_info_address(4),
        "xen_shared()": layout.XEN_SHARED,
        "TSC_PAGE": layout.TSC_PAGE,
        "xen_runstate(6)": layout.xen_runstate_address(6),
        "MEMORY_SIZE": layout.MEMORY_SIZE,
        "CODE(7)": layout.code_address(7),
        "RESULTS(7)": layout.results_address(7),
    }
    same = [("", f"{called} == {address} ? KEPT : BROKEN") for called, address in told.items()]
    assert results(same, tmp_path) == ["kept"] * len(told)


def timer(*, fired: int, deadline: int = 5000, tsc: int = 0, armed: int = 1) -> tuple[str, str]:
    """A guest that was given a deadline and took its interrupt at a TSC (0: not in 1000 ns), and a later TSC;
    and the check. 10,000 cycles of the host pass, whose rate 8 steps are too few to tell: 1.05 % of them,
    105, may be the host's clock."""
    declared = step("timer", deadline, armed, fired) + step("after")
    declared += f" timer.tsc_after = 10000; after.ns_after = 1000; after.tsc = {tsc}; after.has_tsc = true;"
    given = ".seen = &timer, .due = &timer, .after = &after, .deadline = 0, .ns = 1000, .khz = 1000000"
    return declared, f"timer_fires((struct timer_claim) {{ {given} }})"


def test_a_timers_interrupt_comes_at_its_deadline_and_not_before(tmp_path: Path) -> None:
    found = [timer(fired=each) for each in (5000, 9000, 4999, 4895, 4894)]
    slewed = (
        "undecided: the interrupt came so little before its time that the host's clock may have been slewed"
    )
    early = "broken: step timer: the interrupt came 106 cycles before the guest's TSC was at the deadline of "
    assert results(found, tmp_path) == ["kept", "kept", slewed, slewed, f"{early}step timer"]


def test_an_interrupt_is_lost_once_the_guest_has_waited_beyond_the_deadline(tmp_path: Path) -> None:
    found = [timer(fired=0, tsc=5106), timer(fired=0, tsc=5105), timer(fired=0, tsc=5106, armed=0)]
    lost = "broken: step timer: no interrupt came in 0 ms, though the TSC was 5106 then, "
    assert results(found, tmp_path) == [
        f"{lost}beyond the deadline 5000",
        "undecided: the deadline did not come, or only after the guest had waited",
        "undecided: the guest of step timer did not come to write its deadline",
    ]


def test_without_a_deadline_no_interrupt_comes(tmp_path: Path) -> None:
    came = "broken: step timer: an interrupt came, though there was no deadline"
    found = [timer(fired=0, deadline=0, tsc=9000), timer(fired=7000, deadline=0)]
    assert results(found, tmp_path) == ["kept", came]


def test_nothing_is_said_of_a_timer_whose_step_failed(tmp_path: Path) -> None:
    declared, check = timer(fired=5000)
    failed = declared.replace(".error = 0, .count = 3", ".error = EINVAL, .count = 0")
    assert failed != declared
    assert results([(failed, check)], tmp_path) == ["undecided: step timer or timer read nothing"]
