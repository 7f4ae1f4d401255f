# SPDX-License-Identifier: GPL-2.0-or-later
"""What the reports say, in each format."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from junitparser import JUnitXml

from kvmharness import host
from kvmharness.cli import main, writing
from kvmharness.judging.identity import Identity
from kvmharness.judging.session import Session
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.model.mismatch import Allowed, Mismatch
from kvmharness.report import FORMATS, KernelReport, Report, render
from kvmharness.scenarios import Scenario
from kvmharness.trace import Trace
from tests.command_line import Capture, one_line, status_of

MISMATCH = Mismatch(
    "write TSC of vCPU 0",
    "wrote 900000000, offset -1050 (debugfs)",
    (
        Allowed(
            "offset -150 to -140", "900 cycles (900 ns) higher than observed", "the write takes effect", 4
        ),
    ),
)


def failed(name: str, *, kept: bool = False, step: int = 4, mismatch: Mismatch | None = MISMATCH) -> Result:
    reason = "write TSC of vCPU 0: observed wrote 900000000; expected something else"
    finding = "" if kept else "offset read an offset of -1050 (required: it goes on)"
    return Result(
        *(name, Verdict.FAIL, "It goes on.", reason, step, kept, False, finding),
        consistent_with=("mainline-before-6.7", "like-xu-v1"),
        mismatch=mismatch,
    )


BAD = KernelReport(
    "debian:6.1",
    "amd",
    "6.1.0",
    (
        failed("young-restore"),
        Result("old-restore", Verdict.PASS, "It goes on."),
        failed("qemu-pair-young", kept=True, step=7),
    ),
    identity=Identity(("mainline-before-6.7", "like-xu-v1"), "offset-moved would tell them apart"),
)
LOST = KernelReport(
    "debian:6.12",
    "amd",
    "6.12.9",
    (
        Result("young-restore", Verdict.LOST, "It goes on.", "BUG: Oops: 0000 [#1]"),
        Result("old-restore", Verdict.SKIP, "It goes on.", "no TSC"),
        Result("qemu-pair-young", Verdict.LOST, "It goes on.", "BUG: Oops: 0000 [#1]"),
    ),
    notes=("last words",),
)
REPORT = Report((BAD, LOST))


def test_the_text_report_begins_with_the_verdict_on_each_kernel() -> None:
    lines = render(REPORT).splitlines()
    assert lines[:7] == [
        "FAIL  debian:6.1 on amd (6.1.0) does not conform to mainline-6.7:",
        "      3 of 3 judged, 1 PASS, 2 FAIL. It behaves as mainline-before-6.7 or",
        "      like-xu-v1.",
        "      (offset-moved would tell them apart)",
        "LOST  debian:6.12 on amd (6.12.9) was lost, so nothing is known about the",
        "      kernel: 0 of 3 judged, 1 SKIP, 2 LOST.",
        "",
    ]
    assert max(map(len, lines)) <= 78


def test_a_fail_is_labelled_lines_and_names_what_fails_for_the_same_cause() -> None:
    text = render(REPORT)
    _, _, after = text.partition("\n\nFAIL ")
    assert after.splitlines()[:13] == [
        "young-restore, debian:6.1 on amd, step 4: write TSC of vCPU 0",
        "  contract broken: offset read an offset of -1050 (required: it goes on)",
        "  observed:        wrote 900000000, offset -1050 (debugfs)",
        "  expected (mainline-6.7): offset -150 to -140, 900 cycles (900 ns) higher",
        "                   than observed",
        "  because:         at step 4 the write takes effect",
        "  consistent with: mainline-before-6.7, like-xu-v1",
        *after.splitlines()[7:11],
        "  Same cause, 1 more FAIL: qemu-pair-young (contract kept) (-v shows each)",
        "",
    ]
    assert "  consequence:     " in after.splitlines()[7]
    assert "kernel bug 217423" in " ".join(after.split())


def test_a_verbose_report_shows_each_fail_in_full_and_every_scenario_in_its_table() -> None:
    text = render(REPORT, verbose=True)
    assert text.count("  observed: ") == 2
    assert "  contract kept:   It goes on.\n" in text
    assert "-v shows" not in text
    assert text.count("old-restore      PASS               SKIP\n") == 1


def test_fails_that_other_policies_explain_have_another_cause() -> None:
    other = replace(failed("write-one"), consistent_with=())
    by_other_rule = failed(
        "pair", mismatch=MISMATCH._replace(allowed=(Allowed("offset 5", "", "it snaps", 4),))
    )
    text = render(Report((replace(BAD, results=(*BAD.results, other, by_other_rule)),)))
    assert text.count("\nFAIL ") == 3
    assert "  consistent with: no known policy\n" in text


def test_the_table_shows_what_differs_and_lists_what_passes_everywhere() -> None:
    good = replace(BAD, kernel="debian:6.12", results=tuple(map(passed, ("young-restore", "old-restore"))))
    text = render(Report((BAD, good)))
    assert "                 debian:6.1 on amd  debian:6.12 on amd\n" in text
    assert "young-restore    FAIL               PASS\n" in text
    assert "qemu-pair-young  FAIL               -\n" in text
    assert "PASS on all 2, 1: old-restore\n" in text


def passed(name: str) -> Result:
    return Result(name, Verdict.PASS, "It goes on.")


def test_many_kernels_are_called_by_letters_and_the_first_lines_say_which_is_which() -> None:
    kernels = [replace(BAD, kernel=f"debian:6.{number}", identity=None) for number in range(28)]
    text = render(Report((*kernels[:27], replace(kernels[27], results=(passed("young-restore"),)))))
    assert text.startswith("A FAIL  debian:6.0 on amd (6.1.0) does not")
    assert "\nAA FAIL  debian:6.26 on amd" in text
    assert "\nAB PASS  debian:6.27 on amd" in text
    assert "\nFAIL young-restore, A, step 4: write TSC of vCPU 0\n" in text
    row = next(line for line in text.splitlines() if line.startswith("young-restore  "))
    assert row.split() == ["young-restore", *["FAIL"] * 27, "PASS"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_that_was_cut_short_says_so_in_every_format(form: str) -> None:
    missing = "debian:6.12 on amd was interrupted"
    whole, cut = render(Report((BAD,)), form), render(Report((BAD,), missing, 1), form)
    assert missing not in whole
    assert cut.count(missing) == 1
    if form == "ktap":
        assert cut.splitlines()[:3] == ["KTAP version 1", "1..2", f"# CUT SHORT: {missing}"]
    if form == "json":
        statuses = [json.loads(text)["summary"]["exit_status"] for text in (whole, cut)]
        assert statuses == [1, None]
    if form == "text":
        assert cut.startswith(f"CUT SHORT: {missing}.\n\n")
    if form == "json":
        assert (json.loads(cut)["cut_short"], json.loads(whole)["cut_short"]) == (missing, None)


def test_a_kvm_that_ignores_writes_is_said_first_with_what_to_do() -> None:
    text = render(Report((replace(BAD, ignores_writes="this KVM ignores writes of MSR_IA32_TSC"),)))
    first = " ".join(text.partition("\n\n")[0].split())
    assert first.startswith("debian:6.1 on amd: this KVM ignores writes of MSR_IA32_TSC. ")
    assert "kvmharness lab run KERNEL" in first
    good = replace(BAD, results=(passed("protected-write"),), ignores_writes="this KVM ignores writes")
    assert "PASS  debian:6.1 on amd (6.1.0) ignores TSC writes;" in render(Report((good,)))


def test_a_terminal_gets_colours_unless_it_does_not_want_them(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = render(REPORT)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def written(*more: str) -> str:
        writing.write_report(REPORT, arguments_of("run", *more))
        return capsys.readouterr().out

    assert written() == plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    coloured = written()
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    assert coloured.startswith("\x1b[31;1mFAIL\x1b[0m  debian:6.1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert written() == plain
    monkeypatch.delenv("NO_COLOR")
    assert written("--output", str(tmp_path / "report")) == ""
    assert (tmp_path / "report").read_text() == plain
    # What programs read is never coloured.
    assert "\x1b" not in written("--format", "ktap")
    assert "\x1b" not in written("--format", "json")


def arguments_of(*words: str) -> argparse.Namespace:
    return main.parser().parse_args(words)


def test_the_ktap_report_is_ktap() -> None:
    assert render(REPORT, "ktap").splitlines() == [
        "KTAP version 1",
        "1..2",
        "  KTAP version 1",
        "  # Subtest: debian:6.1 on amd",
        "  # release 6.1.0",
        "  # expected mainline-6.7",
        "  # behaves as mainline-before-6.7 or like-xu-v1 (offset-moved would tell them apart)",
        "  1..3",
        "  # young-restore, step 4: write TSC of vCPU 0",
        "  #   contract broken: offset read an offset of -1050 (required: it goes on)",
        "  #   observed: wrote 900000000, offset -1050 (debugfs)",
        "  #   expected (mainline-6.7): offset -150 to -140, 900 cycles (900 ns) higher than observed",
        "  #   because: at step 4 the write takes effect",
        "  #   consistent with: mainline-before-6.7, like-xu-v1",
        "  not ok 1 young-restore",
        "  ok 2 old-restore",
        "  # qemu-pair-young, step 7: write TSC of vCPU 0",
        "  #   contract kept: It goes on.",
        "  #   observed: wrote 900000000, offset -1050 (debugfs)",
        "  #   expected (mainline-6.7): offset -150 to -140, 900 cycles (900 ns) higher than observed",
        "  #   because: at step 4 the write takes effect",
        "  #   consistent with: mainline-before-6.7, like-xu-v1",
        "  not ok 3 qemu-pair-young",
        "not ok 1 debian:6.1 on amd",
        "  KTAP version 1",
        "  # Subtest: debian:6.12 on amd",
        "  # release 6.12.9",
        "  # expected mainline-6.7",
        "  1..3",
        # A parser takes what comes after a # for a directive.
        "  not ok 1 young-restore # ERROR BUG: Oops: 0000 [1]",
        "  ok 2 old-restore # SKIP no TSC",
        "  not ok 3 qemu-pair-young # ERROR BUG: Oops: 0000 [1]",
        "  # last words",
        "not ok 2 debian:6.12 on amd",
    ]


def test_one_kernels_scenarios_are_the_outermost_tests_in_ktap() -> None:
    kernel = REPORT.kernels[1]
    lines = render(Report((kernel,)), "ktap").splitlines()
    assert lines[:5] == [
        "KTAP version 1",
        "# debian:6.12 on amd",
        "# release 6.12.9",
        "# expected mainline-6.7",
        "1..3",
    ]
    assert [line for line in lines if not line.startswith("#")][2:] == [
        "not ok 1 young-restore # ERROR BUG: Oops: 0000 [1]",
        "ok 2 old-restore # SKIP no TSC",
        "not ok 3 qemu-pair-young # ERROR BUG: Oops: 0000 [1]",
    ]


def test_one_kernel_of_two_that_were_asked_for_is_a_test_of_two_in_ktap() -> None:
    cut = Report(REPORT.kernels[:1], "debian:6.12 on amd was interrupted", 1)
    lines = render(cut, "ktap").splitlines()
    assert lines[1] == "1..2"
    assert "not ok 1 debian:6.1 on amd" in lines


SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "report.schema.json").read_text())


def against_the_schema(data: object) -> list[jsonschema.ValidationError]:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(data))


@pytest.mark.parametrize("report", [REPORT, Report((), "all of it was interrupted", 2)], ids=["whole", "cut"])
def test_the_json_report_is_what_its_schema_says(report: Report) -> None:
    data = json.loads(render(report, "json"))
    assert against_the_schema(data) == []
    # No key is unknown to the schema, and none may go.
    assert set(data) == set(SCHEMA["properties"])
    for kernel in data["kernels"]:
        of_kernel = SCHEMA["properties"]["kernels"]["items"]
        assert set(kernel) == set(of_kernel["properties"])
        for result in kernel["results"]:
            assert set(result) == set(of_kernel["properties"]["results"]["items"]["properties"])


def test_the_schema_refuses_what_no_report_says() -> None:
    data = json.loads(render(REPORT, "json"))
    data["kernels"][0]["results"][0]["verdict"] = "OK"
    del data["summary"]["judged"]
    assert len(against_the_schema(data)) == 2


def test_the_junit_report_holds_the_same_verdicts() -> None:
    document = JUnitXml.fromstring(render(REPORT, "junit").encode())
    found = {
        (suite.name, case.name): [type(each).__name__ for each in case.result]
        for suite in document
        for case in suite
    }
    kinds = {
        Verdict.PASS: [],
        Verdict.FAIL: ["Failure"],
        Verdict.LOST: ["Error"],
        **{each: ["Skipped"] for each in (Verdict.SKIP, Verdict.XFAIL, Verdict.INCONCLUSIVE)},
    }
    expected = {
        (kernel.title, each.scenario): kinds[each.verdict]
        for kernel in REPORT.kernels
        for each in kernel.results
    }
    assert found == expected
    assert (document.failures, document.errors, document.skipped) == (2, 2, 1)
    assert "observed: wrote 900000000, offset -1050 (debugfs)" in render(REPORT, "junit")


def test_a_junit_report_that_was_cut_short_has_an_error_for_it() -> None:
    cut = Report(REPORT.kernels[:1], "debian:6.12 on amd was interrupted", 1)
    document = JUnitXml.fromstring(render(cut, "junit").encode())
    (missing,) = [case for suite in document if suite.name == "cut short" for case in suite]
    assert [each.message for each in missing.result] == ["debian:6.12 on amd was interrupted"]


def test_the_json_report_has_the_keys_users_rely_on() -> None:
    data = json.loads(render(REPORT, "json"))
    assert set(data) == {"schema", "tool", "about", "kernels", "cut_short", "summary"}
    kernel = data["kernels"][0]
    assert {"kernel", "machine", "release", "behaves_as", "expect", "results"} <= set(kernel)
    assert kernel["results"][0] == {
        "scenario": "young-restore",
        "verdict": "FAIL",
        "contract": "broken",
        "conforms": False,
        "reason": "write TSC of vCPU 0: observed wrote 900000000; expected something else",
        "finding": "offset read an offset of -1050 (required: it goes on)",
        "step": 4,
        "operation": "write TSC of vCPU 0",
        "observed": "wrote 900000000, offset -1050 (debugfs)",
        "allowed": [
            {
                "expected": "offset -150 to -140",
                "difference": "900 cycles (900 ns) higher than observed",
                "because": "at step 4 the write takes effect",
            }
        ],
        "consistent_with": ["mainline-before-6.7", "like-xu-v1"],
        "predicted": True,
        "only_if": "",
    }
    assert data["summary"]["exit_status"] == 1


def test_a_report_that_cannot_be_written_is_printed_instead(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_whole", full)
    arguments = arguments_of("run", "--format", "ktap", "--output", str(tmp_path / "report"))
    writing.write_report(REPORT, arguments)
    out, error = capsys.readouterr()
    assert out == render(REPORT, "ktap")
    assert "No space left on device; the report follows on stdout" in one_line(error)


def test_every_report_says_what_the_kernel_behaves_as(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("oliver-upton")
    assert status_of("run") == 1
    assert "It behaves as oliver-upton." in " ".join(capsys.readouterr().out.split())
    status_of("run", "--format", "ktap")
    assert "\n# behaves as oliver-upton\n" in capsys.readouterr().out
    status_of("run", "--format", "json")
    (kernel,) = json.loads(capsys.readouterr().out)["kernels"]
    assert (kernel["behaves_as"], kernel["distinguished_by"], kernel["expect"]) == (
        ["oliver-upton"],
        "",
        "mainline-6.7",
    )


def test_of_many_scenarios_with_one_reason_the_text_names_some() -> None:
    def skipped(count: int, *, verbose: bool = False) -> str:
        results = tuple(Result(f"s{number}", Verdict.SKIP, "It does.", "no TSC") for number in range(count))
        return render(Report((KernelReport("k", "amd", "6", results),)), verbose=verbose)

    assert "\nSKIP\n  no TSC\n    6: s0, s1, s2, s3, s4, s5\n" in skipped(6)
    assert "\n    7: s0, s1, s2, s3, s4 and 2 more\n" in skipped(7)
    assert "\n    7: s0, s1, s2, s3, s4, s5, s6\n" in skipped(7, verbose=True)
    assert "\ns6  SKIP\n" in skipped(7, verbose=True)


def test_an_xfail_is_one_line_unless_the_policy_does_not_predict_it() -> None:
    contract = "It does, and goes on doing so for much longer than fits into a single line of a report."
    results = (
        Result("known", Verdict.XFAIL, contract, "it does not", 3),
        Result("odd", Verdict.XFAIL, "It goes on.", "it went back", 4, predicted=False),
    )
    report = Report((KernelReport("k", "amd", "6", results),))
    text = render(report)
    assert "\n  odd: It goes on.\n    it went back\n" in text
    assert "mainline-6.7 allows this but does not predict it" in " ".join(text.split())
    (known,) = [line for line in text.splitlines() if line.startswith("  known: ")]
    assert known.endswith(" ...")
    assert text.index("  odd: ") < text.index("  known: ")
    assert "it does not" not in text
    assert f"{contract} it does not" in " ".join(render(report, verbose=True).split())


def test_what_a_break_depends_on_beside_the_policy_is_said_once() -> None:
    results = (
        Result("marked", Verdict.XFAIL, "It is not.", "it is", 3, only_if="marks it"),
        Result("always", Verdict.XFAIL, "It does.", "it does not", 3),
        Result("marked-too", Verdict.XFAIL, "Nor is this.", "it is", 3, only_if="marks it"),
    )
    text = render(Report((KernelReport("k", "amd", "6", results),)))
    assert text.split("XFAIL: ", 1)[1].startswith(
        "every kernel with mainline-6.7 breaks these contracts (-v shows the\n  readings)\n"
        "  always: It does.\n"
        "\n"
        "XFAIL: every kernel with mainline-6.7 breaks these contracts if its KVM marks\n"
        "  it (-v shows the readings)\n"
        "  marked: It is not.\n"
        "  marked-too: Nor is this.\n"
    )


def test_the_first_lines_say_how_much_was_judged_and_that_most_was_not() -> None:
    left_open = [Result("old-restore", Verdict.INCONCLUSIVE, "It goes on.", "too wide")] * 105
    kernel = replace(BAD, results=(Result("young-restore", Verdict.PASS, "It goes on."), *left_open))
    first = " ".join(render(Report((kernel,))).split("\n\n")[0].split())
    assert "conforms to mainline-6.7 as far as could be told, with 105 left open: 1 of 106 judged" in first
    assert Report((kernel,)).exit_status == 0
    strict = Report((kernel,), strict=True)
    assert strict.exit_status == 4
    assert json.loads(render(strict, "json"))["summary"]["exit_status"] == 4


@pytest.mark.parametrize(("given", "status"), [((), 0), (("--strict",), 4)])
def test_strict_makes_a_run_that_leaves_something_open_no_success(
    made_up_host: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    given: tuple[str, ...],
    status: int,
) -> None:
    made_up_host()
    play = host.play

    def disturbed(scenarios: Sequence[Scenario]) -> Session:
        made: Session = play(scenarios)
        cut = {"old-restore": Trace("old-restore", "made-up", ())} if "old-restore" in made.traces else {}
        return replace(made, traces={**made.traces, **cut})

    monkeypatch.setattr(host, "play", disturbed)
    assert status_of("run", "old-restore", "young-restore", *given) == status
    assert "with 1 left open: 1 of 2 judged" in " ".join(capsys.readouterr().out.split())
