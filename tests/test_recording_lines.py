# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of a recording: one that is cut short is read, a broken or hostile one is a line and status 2."""

import json
import random
from pathlib import Path

import pytest

from kvmharness.cli import explore
from kvmharness.recording import vmms
from kvmharness.recording.lines import RecordingError, from_text
from tests.command_line import Capture, one_line, status_of

NAME = "qemu-loadvm-young"
TEXT = (vmms.FOLDER / f"{NAME}.jsonl").read_text()
ROWS = TEXT.splitlines()


def refused(text: str) -> str:
    with pytest.raises(RecordingError) as error:
        vmms.scenarios(text, "x")
    assert str(error.value).isprintable()
    return str(error.value)


def changed(number: int, **values: object) -> str:
    """The recording with other values in a line, by its number from 1; None takes a key out."""
    data = {**json.loads(ROWS[number - 1]), **values}
    row = json.dumps({key: value for key, value in data.items() if value is not None})
    return "\n".join([*ROWS[: number - 1], row, *ROWS[number:], ""])


def line_of(op: str) -> int:
    return next(number for number, row in enumerate(ROWS, 1) if f'"op": "{op}"' in row)


def test_a_recording_without_its_end_mark_is_read_and_says_so() -> None:
    assert from_text(TEXT).end == "the command exited with 0"
    assert not from_text("\n".join(ROWS[:-1]) + "\n").end


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_last_line_that_is_cut_off_is_left_out(cut: int) -> None:
    whole = "\n".join(ROWS[:-1])
    assert len(from_text(whole[:-cut]).lines) == len(from_text(whole).lines) - 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: not JSON"),
        ("[]\n", "line 1: not an object"),
        ('{"recording": 2}\n', "line 1: not the head of a recording of version 1"),
        ('{"recording": 1, "host": "mine"}\n', "line 1: not the head of a recording of version 1"),
        ('{"recording": 1}\n', "no vCPU is created in it: there is nothing to play"),
        ('{"recording": 1}\n\n{"op": "run"}\n', "line 2 is empty"),
        ('{"recording": 1}\nnonsense\n', "line 2: not JSON"),
        ('{"recording": 1}\n' + "[" * 100_000 + "\n", "line 2: nested too deeply"),
        ('{"recording": 1, "vmm": "\\u001b[2J"}\n', "line 1: vmm: expected a line of text"),
        ('{"recording": 1, "claims": [1]}\n', "line 1: claims: expected a list of claims"),
    ],
)
def test_what_is_no_recording_is_refused_with_its_place(text: str, said: str) -> None:
    assert refused(text) == said


@pytest.mark.parametrize(
    ("op", "values", "said"),
    [
        ("set_msrs", {"op": "write_msrs"}, "no ioctl is called 'write_msrs'"),
        ("set_msrs", {"vcpu": None}, "set_msrs of no vCPU"),
        ("set_msrs", {"vm": None}, "set_msrs of no VM"),
        ("get_clock", {"vcpu": 1}, "get_clock of a vCPU"),
        ("set_msrs", {"tsc": [2, 1]}, "tsc: ends before it begins"),
        ("set_msrs", {"tsc": [1]}, "tsc: expected two numbers, before and after"),
        ("set_msrs", {"msrs": [["EFER", 1]]}, "msrs: no MSR is called ['EFER', 1]"),
        ("set_msrs", {"msrs": [["TSC", -1]]}, "msrs: expected a number, got -1"),
        ("set_msrs", {"msrs": [["TSC", True]]}, "msrs: expected a number, got True"),
        ("set_msrs", {"more": 1}, "set_msrs: unknown: 'more'"),
        ("set_msrs", {"thread": 1.5}, "thread: expected a number, got 1.5"),
        ("set_msrs", {"errno": 10**9}, "errno: expected a number, got 1000000000"),
        ("set_msrs", {"died": False}, "died: expected true"),
        ("run", {"exits": [[1]]}, "exits: expected a reason and how often, got [1]"),
        ("set_tsc_khz", {"khz": "1"}, "khz: expected a number, got '1'"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_with_its_number(
    op: str, values: dict[str, object], said: str
) -> None:
    number = line_of(op)
    assert refused(changed(number, **values)) == f"line {number}: {said}"


def test_lines_after_the_end_mark_are_refused() -> None:
    assert refused(f"{TEXT}{ROWS[5]}\n") == f"line {len(ROWS) + 1} comes after the end mark"


def test_a_vcpu_that_is_created_twice_is_refused() -> None:
    row = ROWS[line_of("create_vcpu") - 1]
    assert refused("\n".join([ROWS[0], row, row])) == "VM 0: vCPU 0 is created twice"


def test_more_vcpus_than_fit_a_guests_memory_are_refused() -> None:
    row = json.loads(ROWS[line_of("create_vcpu") - 1])
    rows = [json.dumps({**row, "vcpu": number}) for number in range(100)]
    assert (
        refused("\n".join([ROWS[0], ROWS[line_of("get_tsc_khz") - 1], *rows])) == "VM 0: more than 24 vCPUs"
    )


def test_more_steps_than_a_script_may_have_are_refused() -> None:
    row = ROWS[line_of("set_msrs") - 1]
    assert refused("\n".join([*ROWS[:20], *[row] * 12_000, ""])) == "VM 0: more than 10000 steps"


def test_a_contract_of_its_own_may_be_stated_in_the_head() -> None:
    claim = {"claim": "offset", "text": "as saved", "seen": ["offset-0-3"], "expected": ["write-82"]}
    text = changed(1, contract="vCPU 0 continues.", claims=[claim])
    (scenario,) = vmms.scenarios(text, "mine").values()
    assert (scenario.name, scenario.contract) == ("recorded-mine", "vCPU 0 continues.")
    assert [each.text for each in scenario.claims] == ["as saved"]


def test_a_claim_in_the_head_on_a_step_that_is_not_there_is_refused() -> None:
    claim = {"claim": "offset", "text": "as saved", "seen": ["nowhere"], "expected": ["write-82"]}
    assert refused(changed(1, claims=[claim])) == "line 1: claim offset: no step has the label 'nowhere'"


def _damaged(chance: random.Random) -> str:
    """The recording with a few bytes changed, taken out, doubled or put elsewhere."""
    text = TEXT
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(text)), chance.choice((1, 1, 2, 5, 50, 300))
        piece = text[at : at + length]
        other = chance.randrange(len(text))
        made = ["", piece * 2, text[other : other + length], chance.choice('0123456789-.,:"[]{}\n\x00é')]
        text = text[:at] + chance.choice(made) + text[at + length :]
    return text


def _complaint(text: str) -> str:
    """Why a recording cannot be played, or ""."""
    try:
        vmms.scenarios(text, "x")
    except RecordingError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("times", [300, pytest.param(20_000, marks=pytest.mark.full)])
def test_a_damaged_recording_is_read_or_refused_in_a_line(times: int) -> None:
    chance = random.Random(3)
    complaints = [_complaint(_damaged(chance)) for _ in range(times)]
    assert {"", "line 1: not JSON"} < set(complaints)
    assert all(each.isprintable() and len(each) < 500 for each in complaints)


@pytest.mark.parametrize(
    "command", [("recording",), ("predict", "--recording"), ("vmms", "--recording"), ("run", "--recording")]
)
def test_a_broken_recording_is_one_line_and_exit_status_2(
    tmp_path: Path, capsys: Capture, command: tuple[str, ...]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(changed(line_of("set_msrs"), tsc=[2, 1]))
    assert status_of(*command, str(path)) == 2
    assert "ends before it begins" in one_line(capsys.readouterr().err)


def test_a_recording_that_is_not_there_is_one_line_and_exit_status_2(capsys: Capture) -> None:
    assert status_of("recording", "qemu-nonsense") == 2
    assert one_line(capsys.readouterr().err) == (
        "kvmharness: cannot read qemu-nonsense: No such file or directory"
    )


def test_the_table_names_what_was_recognised_and_refers_to_what_was_read(capsys: Capture) -> None:
    assert status_of("recording", NAME) == 0
    text = capsys.readouterr().out
    assert "VM 0 of qemu-system-x86_64: 2 vCPUs, 3 threads" in text
    assert [line.strip(" -") for line in text.splitlines() if line.startswith("      --")] == [
        *("start", "end of start", "stop and continue", "end of stop and continue"),
        *("restore", "end of restore"),
    ]
    assert "TSC = what read-38 read" in text
    assert "KVM_KVMCLOCK_CTRL of vCPU 0 (not replayed): EINVAL" in text


def test_a_recording_can_be_had_as_a_scenario_file(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.json"
    assert status_of("recording", NAME, "--scenario", "--output", str(path)) == 0
    assert status_of("list", "scenarios", "--scenario-file", str(path)) == 0
    assert "recorded-qemu-loadvm-young" in capsys.readouterr().out


def test_vmms_shows_which_recordings_a_policy_breaks(capsys: Capture) -> None:
    names = ["--recording", "qemu-loadvm-young", "--recording", "qemu-loadvm-old"]
    assert status_of("vmms", "mainline-6.7", "clock-series-2026-khz", *names) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:3]] == [
        ["A", "B"],
        ["qemu-loadvm-young", "broken", "broken"],
        ["qemu-loadvm-old", "kept", "broken"],
    ]


def test_vmms_refuses_what_is_neither_kernel_nor_policy(capsys: Capture) -> None:
    assert status_of("vmms", "nonsense", "--offline") == 2
    assert "nonsense" in one_line(capsys.readouterr().err)


def test_the_rule_book_can_be_asked_about_a_recording(capsys: Capture) -> None:
    asked = ("rules", "--key", "khz_write", "--jobs", "1", "--recording", "qemu-loadvm-old")
    assert status_of(*asked) == 0
    text = capsys.readouterr().out
    assert "recorded-qemu-loadvm-old" in text
    assert "clock-series-2026-khz, beaten" in text


def test_a_recording_can_be_what_exploring_begins_with() -> None:
    assert explore.recorded([Path("qemu-hotplug"), Path("qemu-stop")]) == [
        vmms.shipped()[f"recorded-{name}"].script for name in ("qemu-hotplug", "qemu-stop")
    ]
