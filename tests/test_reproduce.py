# SPDX-License-Identifier: GPL-2.0-or-later
"""`reproduce`: scenarios as C files, which compile, say what they claim, and can be read."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kvmharness.contract import EntitledClaim, NoStealClaim, TimerClaim
from kvmharness.contract.entitled import ENTITLEMENTS
from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.model.policies import POLICIES
from kvmharness.reproduce import CannotExpressError, guests, pieces, plain, selftest
from kvmharness.reproduce.names import duration, identifier, number, text, wrapped
from kvmharness.reproduce.oracle import with_claims
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.scenarios.file import to_text
from kvmharness.script import (
    AwaitTimer,
    CreateIrqchip,
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscOffset,
    Read,
    ReadStealTime,
    Run,
    SetLapic,
    SetMsrs,
    SetTscOffset,
    Sleep,
    Time,
)
from tests.command_line import Capture, one_line, status_of

MAINLINE = POLICIES["mainline-6.7"]
OPTIONS = ("-static", "-O2", "-Wall", "-Wextra", "-Werror")
# Guests that run until they are stopped, several at once, that have guests of their own; a host's clocksource
# or CPU that is changed.
_NOT_IN_C = {"nested", "clocksource", "cpu-hotplug"}
INEXPRESSIBLE = {
    *("guest-never-runs-back", "restored-at-once", "restored-at-once-young", "restored-at-once-apart"),
    *("new-pair-at-once", "restored-pair-at-once", "offset-pair-at-once", "hotplugged-at-once"),
    "clock-set-during-run",
    *(name for name, scenario in SCENARIOS.items() if _NOT_IN_C & {*scenario.needs}),
}
EXPRESSIBLE = [name for name in SCENARIOS if name not in INEXPRESSIBLE]

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="missing capability C compiler")


def complaints(code: str, tmp_path: Path) -> str:
    """What the compiler says of a file."""
    source = tmp_path / "a.c"
    source.write_text(code)
    command = ["cc", *OPTIONS, "-o", str(tmp_path / "a"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return str(done.stderr)


def made_up(*steps: object, rule: str = "") -> Scenario:
    claims = (EntitledClaim(text=ENTITLEMENTS[rule], rule=rule),) if rule else ()
    return Scenario(name="made-up", contract="Something.", script=steps, claims=claims)  # type: ignore[arg-type]


# The catalogue


@needs_a_compiler
@pytest.mark.parametrize("name", EXPRESSIBLE[::32])
def test_a_slice_of_the_catalogue_compiles_without_a_warning(name: str, tmp_path: Path) -> None:
    assert complaints(plain(SCENARIOS[name]), tmp_path) == ""


@pytest.mark.full
@needs_a_compiler
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_every_scenario_that_c_can_express_compiles_without_a_warning(name: str, tmp_path: Path) -> None:
    assert complaints(plain(SCENARIOS[name]), tmp_path) == ""


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_each_claim_is_checked_and_each_need_is_required(name: str) -> None:
    scenario = SCENARIOS[name]
    code = plain(scenario)
    main = code.partition("int main(void)")[2]
    assert [claim.text for claim in scenario.claims if text(claim.text)[:-1] not in main] == []
    assert main.count("\trequire(has_") >= len(scenario.needs)
    assert main.count("\trequire_missing(has_") == len(scenario.lacks)
    assert f"1..{main.count(chr(9) + 'report(')}" in main


OF_STEAL_TIME_AND_XEN = [name for name in SCENARIOS if name.startswith(("steal-", "xen-"))]


@pytest.mark.parametrize("name", OF_STEAL_TIME_AND_XEN)
def test_a_selftest_checks_each_claim_on_steal_time_and_a_xens_pages(name: str) -> None:
    main = selftest(SCENARIOS[name]).partition("int main(void)")[2]
    assert [claim.text for claim in SCENARIOS[name].claims if text(claim.text)[:-1] not in main] == []
    # Each VM has the memory in which KVM tells its guests something.
    assert main.count("\tcreate_vm();\n\tshare_memory();\n") == main.count("\tcreate_vm();") == 1


def test_a_selftest_without_pages_has_no_memory_for_them() -> None:
    assert "share_memory" not in selftest(SCENARIOS["young-restore"])


@pytest.mark.parametrize("name", sorted(INEXPRESSIBLE))
def test_what_c_cannot_express_is_said_in_one_line(name: str, capsys: Capture) -> None:
    assert status_of("reproduce", name) == 2
    assert "cannot be written in C" in one_line(capsys.readouterr().err)


def test_the_page_of_findings_names_what_c_cannot_express() -> None:
    page = (Path(__file__).parent.parent / "docs" / "findings.md").read_text()
    named = {name for name in INEXPRESSIBLE if re.search(rf"(?<![\w-]){name}(?![\w-])", page)}
    assert named == {"restored-at-once-young", "host-clock-comes-back"}
    assert re.search("refuses\nrestored-at-once-young and host-clock-comes-back", page)


def test_a_test_has_only_functions_that_it_uses() -> None:
    code = plain(SCENARIOS["young-restore"])
    assert "page_time" not in code
    assert "long_mode" not in code
    assert {include for include in re.findall("#include <(.*)>", code) if "/" in include} == {
        "linux/kvm.h",
        "sys/ioctl.h",
        "sys/mman.h",
    }


@pytest.mark.parametrize("style", pieces.STYLES)
def test_each_piece_uses_only_earlier_ones(style: str) -> None:
    known: set[str] = set()
    for piece in pieces.pieces(style):
        known |= piece.names
        assert not (piece.uses & pieces.names(style)) - known, piece.names


def test_a_file_says_what_it_tests_and_under_which_licence() -> None:
    first, *rest = plain(SCENARIOS["young-restore"]).splitlines()
    assert first == "// SPDX-License-Identifier: GPL-2.0"
    assert rest[1].startswith(" * young-restore: A vCPU restored from a snapshot")


@pytest.mark.parametrize(
    "guest",
    ["rdtsc-16", "rdtsc-64", "rdtscp-16", "rdmsr-16", "wrmsr-16", "steal-16", "hyperv-16", "timer-16"],
)
def test_a_guest_has_all_its_bytes_with_their_assembly(guest: str) -> None:
    code = guests.code(guest)
    without_comments = re.sub(r"/\*.*?\*/", "", code.partition("};")[0])
    written = bytes(int(each, 16) for each in re.findall("0x[0-9a-f]{2}(?=,)", without_comments))
    assert written == PROGRAMS[guest].code
    assert [each.text for each in PROGRAMS[guest].instructions if f"/* {each.text} */" not in code] == []


# Scripts without claims of their own


def restored(*more: object, rule: str = "") -> Scenario:
    write = SetMsrs(vcpu=0, msrs=(("TSC", Time(900_000_000)),), label="write")
    return made_up(CreateVcpu(vcpu=0), Sleep(ns=50_000_000), write, *more, rule=rule)


def test_a_script_without_claims_is_checked_for_what_the_policy_predicts() -> None:
    (claim,) = with_claims(restored(), MAINLINE).claims
    assert claim.text == "vCPU 0 goes on from step write, as mainline-6.7 says"
    (claim,) = with_claims(restored(), POLICIES["mainline-before-6.7"]).claims
    assert claim.text == "vCPU 0 goes on from step step-1, as mainline-before-6.7 says"


def test_the_clock_is_checked_too() -> None:
    scenario = with_claims(made_up(CreateVcpu(vcpu=0), Run(vcpu=0), GetClock(label="clock")), MAINLINE)
    assert [claim.text for claim in scenario.claims] == [
        "vCPU 0 goes on from step step-1, as mainline-6.7 says",
        "the clock is stable at step clock",
    ]


@pytest.mark.parametrize("rule", ["timeline", "together", "new-vcpu", "unwritten", "stable"])
def test_what_a_shape_entitles_to_is_checked_with_readings_at_the_end(rule: str) -> None:
    other = SetMsrs(vcpu=1, msrs=(("TSC", Time(900_000_000)),), label="write-1")
    read = GetMsrs(vcpu=0, indices=("TSC",), label="read")
    scenario = restored(CreateVcpu(vcpu=1), other, read, Run(vcpu=0), GetClock(), rule=rule)
    found = with_claims(scenario, MAINLINE)
    assert all(claim.text.startswith(ENTITLEMENTS[rule]) for claim in found.claims)
    assert found.needs == ("tsc-write",)
    checked = plain(found).partition("int main(void)")[2]
    assert ("same_offset(" if rule != "stable" else "clock_is_stable(") in checked
    assert (".slack = " in checked) is (rule == "timeline")


@needs_a_compiler
def test_what_is_checked_of_a_shape_compiles(tmp_path: Path) -> None:
    found = with_claims(restored(rule="timeline"), MAINLINE)
    assert complaints(plain(found), tmp_path) == ""


def test_a_rule_that_nothing_shows_cannot_be_checked() -> None:
    with pytest.raises(CannotExpressError):
        with_claims(restored(rule="khz"), MAINLINE)


def test_what_only_claims_say_is_not_left_unchecked() -> None:
    """A test in C that reads a steal time and checks TSCs alone would pass on a kernel with the fault."""
    guest = CreateVcpu(vcpu=0, guest="steal-16")
    found = made_up(guest, ReadStealTime(vcpu=0, label="steal"))
    with pytest.raises(CannotExpressError, match="predicts nothing of 'let the guest read its steal time'"):
        with_claims(found, MAINLINE)
    claimed = replace(found, claims=(NoStealClaim(text="it is off", seen=("steal",)),))
    assert "no_steal(&steal, NULL)" in plain(with_claims(claimed, MAINLINE))


def test_a_timer_is_awaited_by_a_guest_that_takes_its_interrupt_and_checked_by_claims_alone() -> None:
    chip, timer = CreateIrqchip(), AwaitTimer(vcpu=0, deadline=Time(1000), label="timer")
    found = made_up(chip, CreateVcpu(vcpu=0, guest="timer-16"), SetLapic(vcpu=0), timer)
    with pytest.raises(CannotExpressError, match="predicts nothing of 'await the timer's interrupt'"):
        with_claims(found, MAINLINE)
    claim = TimerClaim(text="in time", seen="timer", expected="timer", after="")
    code = plain(replace(found, claims=(claim,)))
    assert ".seen = &timer, .due = &timer" in code
    assert "create_vcpu_with_apic(" in code
    other = made_up(chip, CreateVcpu(vcpu=0, guest="rdtsc-16"), timer)
    with pytest.raises(CannotExpressError, match="the guest rdtsc-16 does not take its timer's interrupt"):
        plain(replace(other, claims=(claim,)))
    with pytest.raises(CannotExpressError, match="nothing that a selftest has yet"):
        selftest(made_up(chip))


def test_what_depends_on_how_long_the_host_was_up_cannot_be_checked() -> None:
    """A write 60 s ahead of a plain offset of 0 is near it on a host that was booted a minute ago."""
    created = CreateVcpu(vcpu=0, label="create")
    for offset, fine in ((0, False), (Read("offset"), True)):
        script = (
            created,
            GetTscOffset(vcpu=0, label="offset"),
            SetTscOffset(vcpu=0, offset=offset, label="set-offset"),
            SetMsrs(vcpu=0, msrs=(("TSC", Time(60 * 10**9)),), label="write"),
        )
        found = Scenario(name="found", contract="", script=script, claims=())
        if fine:
            assert with_claims(found, MAINLINE).claims
        else:
            with pytest.raises(CannotExpressError, match="how long the host was up"):
                with_claims(found, MAINLINE)


# Names, numbers, lines


def test_labels_become_names_that_c_takes_and_no_function_has() -> None:
    assert identifier("tsc-new") == "tsc_new"
    assert identifier("for") == "for_"
    assert identifier("2nd") == "step_2nd"
    assert identifier("cycles", {"cycles"}) == "cycles_"


@pytest.mark.parametrize(
    ("ns", "expected"),
    [(900_000_000, "900 * MS"), (10**9, "SECOND"), (-(10**9), "-1 * SECOND"), (77, "77"), (0, "0")],
)
def test_times_are_said_in_their_unit(ns: int, expected: str) -> None:
    assert duration(ns) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, "5"), (2**31, "2147483648LL"), (2**64 - 3, "-3LL"), (2**63, "0x8000000000000000ULL")],
)
def test_numbers_have_the_width_that_c_needs(value: int, expected: str) -> None:
    assert number(value) == expected


def test_texts_are_no_code() -> None:
    assert text('a"b\\c\n') == r'"a\"b\\c"'


def test_long_lines_are_broken_after_the_outer_commas() -> None:
    line = f"report({text('x' * 60)}, same_value(&first_step, &second_step), and_more);"
    assert wrapped(line, "\t").splitlines() == [
        f"\treport({text('x' * 60)},",
        "\t\tsame_value(&first_step, &second_step), and_more);",
    ]


# The command line


def test_a_scenario_file_is_taken(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "found.json"
    path.write_text(to_text([restored(rule="timeline")]))
    assert status_of("reproduce", str(path), "--output", str(tmp_path / "a.c")) == 0
    assert "same_offset" in (tmp_path / "a.c").read_text()
    assert capsys.readouterr().err == ""


def test_of_several_scenarios_one_has_to_be_chosen(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "found.json"
    again = Scenario(name="again", contract="Something.", script=restored().script, claims=())
    path.write_text(to_text([restored(), again]))
    assert status_of("reproduce", str(path)) == 2
    assert "holds 2 scenarios: choose with --scenario (made-up, again)" in one_line(capsys.readouterr().err)
    assert status_of("reproduce", str(path), "--scenario", "again") == 0


def test_an_unknown_scenario_is_one_line(capsys: Capture) -> None:
    assert status_of("reproduce", "young-restor") == 2
    assert "did you mean young-restore" in one_line(capsys.readouterr().err)
