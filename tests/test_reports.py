# SPDX-License-Identifier: GPL-2.0-or-later
"""What the reports say, in each format."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.cli import options
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.report import FORMATS, KernelReport
from tests.command_line import Capture, one_line, status_of

REPORTS = [
    KernelReport(
        "debian:6.1",
        "amd",
        "6.1.0",
        (
            Result("young-restore", Verdict.FAIL, "It goes on.", "it did not", 5, kept=False, conforms=False),
            Result("old-restore", Verdict.PASS, "It goes on."),
        ),
    ),
    KernelReport(
        "debian:6.12",
        "amd",
        "6.12.9",
        (
            Result("young-restore", Verdict.LOST, "It goes on.", "the machine hung"),
            Result("old-restore", Verdict.SKIP, "It goes on.", "no TSC"),
        ),
        notes=("last words",),
    ),
]


def test_the_text_report_is_a_table_with_reasons_and_plain_words() -> None:
    text = FORMATS["text"](REPORTS)
    assert text.splitlines()[:4] == [
        "               debian:6.1 on amd  debian:6.12 on amd",
        "               6.1.0              6.12.9",
        "young-restore  FAIL               LOST",
        "old-restore    PASS               SKIP",
    ]
    assert "FAIL young-restore, debian:6.1 on amd, step 5" in text
    assert "  | last words" in text
    assert "kernel bug 217423" in text.replace("\n", " ").replace("    ", "")
    assert max(map(len, text.splitlines())) <= 78


def test_the_ktap_report_is_ktap() -> None:
    assert FORMATS["ktap"](REPORTS).splitlines() == [
        "KTAP version 1",
        "1..2",
        "  KTAP version 1",
        "  # Subtest: debian:6.1 on amd",
        "  # release 6.1.0",
        "  # expected mainline-6.7",
        "  1..2",
        "  # step 5: it did not",
        "  not ok 1 young-restore",
        "  ok 2 old-restore",
        "not ok 1 debian:6.1 on amd",
        "  KTAP version 1",
        "  # Subtest: debian:6.12 on amd",
        "  # release 6.12.9",
        "  # expected mainline-6.7",
        "  1..2",
        "  not ok 1 young-restore # ERROR the machine hung",
        "  ok 2 old-restore # SKIP no TSC",
        "  # last words",
        "not ok 2 debian:6.12 on amd",
    ]


def test_the_json_report_has_the_keys_users_rely_on() -> None:
    data = json.loads(FORMATS["json"](REPORTS))
    assert set(data) == {"schema", "tool", "kernels", "summary"}
    kernel = data["kernels"][0]
    assert {"kernel", "machine", "release", "behaves_as", "expect", "results"} <= set(kernel)
    assert kernel["results"][0] == {
        "scenario": "young-restore",
        "verdict": "FAIL",
        "contract": "broken",
        "conforms": False,
        "reason": "it did not",
        "finding": "",
        "explained_by": [],
        "foretold": True,
        "step": 5,
    }
    assert data["summary"]["exit_status"] == 1


def test_a_report_that_cannot_be_written_is_printed_instead(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(options, "write_whole", full)
    options.write_report(REPORTS, "ktap", tmp_path / "report")
    out, error = capsys.readouterr()
    assert out == FORMATS["ktap"](REPORTS)
    assert "No space left on device; here it is" in one_line(error)


def test_every_report_says_what_the_kernel_behaves_as(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("oliver-upton")
    assert status_of("run") == 1
    assert "It behaves as oliver-upton." in capsys.readouterr().out
    status_of("run", "--format", "ktap")
    assert "  # behaves as oliver-upton\n" in capsys.readouterr().out
    status_of("run", "--format", "json")
    (kernel,) = json.loads(capsys.readouterr().out)["kernels"]
    assert (kernel["behaves_as"], kernel["parted_by"], kernel["expect"]) == (
        ["oliver-upton"],
        "",
        "mainline-6.7",
    )


def test_of_many_scenarios_with_one_reason_the_text_names_some() -> None:
    def skipped(count: int) -> str:
        results = tuple(Result(f"s{number}", Verdict.SKIP, "It does.", "no TSC") for number in range(count))
        return FORMATS["text"]([KernelReport("k", "amd", "6", results)])

    assert "\nSKIP s0, s1, s2, s3, s4, s5, k on amd\n" in skipped(6)
    assert "\nSKIP s0, s1, s2, s3, s4, and 2 more, k on amd\n" in skipped(7)
    assert "\ns6  SKIP\n" in skipped(7)


def test_a_broken_contract_that_the_policy_is_not_known_to_break_is_told_apart() -> None:
    results = (
        Result("known", Verdict.XFAIL, "It does.", "it does not", 3),
        Result("odd", Verdict.XFAIL, "It goes on.", "it went back", 4, foretold=False),
    )
    text = FORMATS["text"]([KernelReport("k", "amd", "6", results)])
    odd, known = text.index("  odd: It goes on.\n    it went back\n"), text.index("  known: It does.\n")
    assert text.index("which mainline-6.7 leaves room for") < odd < text.index("on every kernel") < known
    assert "look into that." in text.replace("\n    ", " ")
