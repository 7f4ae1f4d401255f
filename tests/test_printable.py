# SPDX-License-Identifier: GPL-2.0-or-later
"""Text from a machine, a mail or a file's name reaches the terminal without its escape sequences."""

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.judging.verdict import Result, Verdict
from kvmharness.printable import printable, printable_lines
from kvmharness.report import FORMATS, KernelReport, Report, render
from kvmharness.report.validation import Validation
from kvmharness.report.validation import render as render_validation
from tests.command_line import Capture, one_line, status_of
from tests.made_up_mails import DIFF, mail

# A title for the window, red, a bell, a bell that is a C1 control, text that runs from right to left.
HOSTILE = "\x1b]0;gotcha\x07\x1b[31mred\x9b31m \u202eoops"
SPELLED_OUT = r"\x1b]0;gotcha\x07\x1b[31mred\x9b31m \u202eoops"

anything = st.text(st.characters(codec=None), max_size=200)


@given(anything)
def test_what_is_made_printable_is_one_printable_line_that_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.splitlines() in ([shown], [])
    assert shown.encode().decode() == shown
    assert printable(shown) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=200))
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(st.lists(anything, min_size=1, max_size=5))
def test_lines_stay_lines(lines: list[str]) -> None:
    lines = [line.replace("\n", "") for line in lines]
    assert printable_lines("\n".join(lines)).split("\n") == [printable(line) for line in lines]


def test_escape_sequences_are_spelled_out_and_tabs_are_spaces() -> None:
    assert printable(HOSTILE) == SPELLED_OUT
    assert printable("a\tb\u3000c\nd\re") == r"a b c\nd\re"
    assert printable(os.fsdecode(b"\xff.patch")) == r"\udcff.patch"


# At the edges


def hostile_report() -> KernelReport:
    result = Result(
        "young-restore", Verdict.LOST, "a contract", f"the kernel hit a bug of its own: {HOSTILE}"
    )
    return KernelReport(HOSTILE, "amd", HOSTILE, (result,), notes=(HOSTILE,))


@pytest.mark.parametrize("form", FORMATS)
def test_reports_spell_out_what_a_machine_said(form: str) -> None:
    text = render(Report((hostile_report(),), cut_short=HOSTILE), form)
    assert all(line.isprintable() for line in text.split("\n"))
    assert (json.dumps(SPELLED_OUT)[1:-1] if form in ("json", "kcidb", "b4") else SPELLED_OUT) in text


def test_the_text_of_a_validation_spells_out_what_a_machine_and_a_file_are_called() -> None:
    report = hostile_report()
    text = render_validation([Validation(report, report)], [HOSTILE], ["kvmharness", HOSTILE])
    assert all(line.isprintable() for line in text.split("\n"))
    assert f"Tested with kvmharness: {SPELLED_OUT}" in text


def test_a_file_that_cannot_be_read_is_named_in_one_printable_line(capsys: Capture) -> None:
    assert status_of("judge", f"/nowhere/{HOSTILE}") == 2
    assert SPELLED_OUT in one_line(capsys.readouterr().err)


def test_the_subject_of_a_mail_is_printed_without_its_escape_sequences(
    capsys: Capture, tmp_path: Path
) -> None:
    path = tmp_path / "patch.mbox"
    encoded = base64.b64encode(HOSTILE.encode()).decode()
    path.write_text(mail(DIFF, f"=?utf-8?B?{encoded}?="))
    assert status_of("lab", "build", "debian:6.1", "--patch", str(path), "--list") == 0
    assert SPELLED_OUT in one_line(capsys.readouterr().out)
