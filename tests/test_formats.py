# SPDX-License-Identifier: GPL-2.0-or-later
"""Each format is what its readers take, and all formats of one run hold the same verdicts."""

import importlib.util
import json
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import kcidb_io
import pytest
from junitparser import JUnitXml

from kvmharness.judging.session import settle
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.lab.errors import LabError
from kvmharness.report import KernelReport, Report, render
from kvmharness.report.about import About
from kvmharness.scenarios import SCENARIOS
from tests import kernel_selftests, ktap, made_up
from tests.command_line import Capture, one_line, status_of
from tests.test_reports import failed

ABOUT = About(
    started="2026-11-26T20:00:00+00:00",
    seconds=1.5,
    command=("kvmharness", "lab", "run"),
    version="1",
    host="Linux",
    emulators={"qemu-system-x86_64": "7.2"},
    packages={"debian:6.1": "linux-image-6.1.0 6.1.192-2"},
)
CONTRACT = "It goes on."
# Of each verdict one, with what a parser may trip over in a reason.
RESULTS = (
    failed("young-restore"),
    Result("old-restore", Verdict.PASS, CONTRACT),
    Result("write-one", Verdict.XFAIL, CONTRACT, "it does not # SKIP of course", 3, kept=False),
    Result("offset-moved", Verdict.SKIP, CONTRACT, "no TSC # TODO"),
    Result("qemu-pair-young", Verdict.INCONCLUSIVE, CONTRACT, "too wide: 1..3"),
    Result("qemu-pair-old", Verdict.LOST, CONTRACT, "BUG: Oops: 0000 [#1]\nnot ok 1 x"),
)
ONE = KernelReport("debian:6.1", "amd", "6.1.0", RESULTS, notes=("last words # SKIP",), host={"a": "b"})
OTHER = replace(ONE, kernel="debian:6.12", release="6.12.0", results=RESULTS[1:4], notes=())


@cache
def made_up_run() -> Report:
    """What the scenarios of one page come to on a made-up kernel of before 6.7."""
    names = ("young-restore", "old-restore", "qemu-pair-young", "restore-then-again", "offset-moved")
    scenarios = [SCENARIOS[name] for name in names if name in SCENARIOS]
    played = settle(scenarios, lambda asked: made_up.session(asked, "mainline-before-6.7"))
    kernel = KernelReport(
        *("made-up:6.1", "amd", "6.1", played.results),
        identity=played.identity,
        sessions=played.sessions,
    )
    return Report((kernel,))


REPORTS = {
    "one kernel": Report((ONE,), about=ABOUT),
    "two kernels": Report((ONE, OTHER), about=ABOUT),
    "cut short": Report((ONE,), "debian:6.12 on amd was interrupted", 1, about=ABOUT),
}


@pytest.fixture(params=[*REPORTS, "a made-up kernel"])
def report(request: pytest.FixtureRequest) -> Report:
    """Each of them, and what was really judged."""
    return REPORTS.get(request.param) or made_up_run()


Verdicts = dict[tuple[str, str], str]


def in_data(report: Report) -> Verdicts:
    """The verdicts by kernel with its machine, and scenario."""
    return {(each.title, one.scenario): one.verdict.value for each in report.kernels for one in each.results}


def in_text(report: Report) -> Verdicts:
    """From the table, which -v makes whole."""
    lines = render(report, verbose=True).splitlines()
    titles = [each.title for each in report.kernels]
    names = {scenario for _, scenario in in_data(report)}
    values = {each.value for each in Verdict}
    rows = [
        (words[0], words[1:])
        for words in map(str.split, lines)
        if words and words[0] in names and len(words) == len(titles) + 1 and {*words[1:]} <= {*values, "-"}
    ]
    return {
        (title, name): cell
        for name, cells in rows
        for title, cell in zip(titles, cells, strict=True)
        if cell != "-"
    }


def in_ktap(report: Report) -> Verdicts:
    tests = ktap.read(render(report, "ktap"))
    titles = [each.title for each in report.kernels]
    levels = {each.name: each.subtests for each in tests} if tests[0].subtests else {titles[0]: tests}
    return {(title, each.name): verdict_of(each) for title, level in levels.items() for each in level}


def verdict_of(test: ktap.Test) -> str:
    if test.directive == "ERROR" and not test.ok:
        return "LOST"
    if test.directive == "SKIP":
        return "INCONCLUSIVE" if test.reason.startswith("inconclusive:") else "SKIP"
    return test.directive or ("PASS" if test.ok else "FAIL")


def in_json(report: Report) -> Verdicts:
    kernels = json.loads(render(report, "json"))["kernels"]
    return {
        (f"{each['kernel']} on {each['machine']}", one["scenario"]): one["verdict"]
        for each in kernels
        for one in each["results"]
    }


def in_junit(report: Report) -> Verdicts:
    found = {}
    for suite in JUnitXml.fromstring(render(report, "junit").encode()):
        for case in suite:
            if suite.name != "cut short":
                found[suite.name, case.name] = verdict_of_case(case.result)
    return found


def verdict_of_case(results: Any) -> str:
    if not results:
        return "PASS"
    (result,) = results
    kind = type(result).__name__
    if kind != "Skipped":
        return {"Failure": "FAIL", "Error": "LOST"}[kind]
    return next((name for name in ("XFAIL", "INCONCLUSIVE") if result.message.startswith(name)), "SKIP")


def in_kcidb(report: Report) -> Verdicts:
    data = json.loads(render(report, "kcidb"))
    builds = {each["id"]: each["comment"] for each in data["builds"]}
    return {
        (f"{builds[each['build_id']]} on {each['environment']['comment']}", each["path"].split(".")[1]): each[
            "misc"
        ]["verdict"]
        for each in data["tests"]
        if each["status"] != "MISS"
    }


class Page(HTMLParser):
    """The verdicts of a page: of its table's rows, and of the lines that name what is alike."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.found: Verdicts = {}
        self._titles = [each.title for each in report.kernels]
        self._in, self._row, self._alike = "", list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = dict(attrs).get("class") or ""
        if (tag, kind) == ("table", "matrix") or (tag == "p" and "alike" in kind):
            self._in, self._alike = tag, []
        if self._in == "table" and tag == "tr":
            self._row = []

    def handle_data(self, data: str) -> None:
        if self._in == "table" and data.strip():
            self._row.append(data.strip())
        elif self._in == "p" and data.strip():
            self._alike.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        if self._in == "table" and tag == "tr" and self._row[0] != "scenario":
            name, *cells = self._row
            of = zip(self._titles, cells, strict=True)
            self.found |= {(title, name): cell for title, cell in of if cell != "-"}
        if self._in == tag == "p":
            verdict, *_, names = self._alike
            self.found |= {(title, name): verdict for title in self._titles for name in names.split(", ")}
        if tag == self._in:
            self._in = ""


def in_html(report: Report) -> Verdicts:
    page = Page(report)
    page.feed(render(report, "html"))
    return page.found


FROM = {
    "html": in_html,
    "text": in_text,
    "ktap": in_ktap,
    "json": in_json,
    "junit": in_junit,
    "kcidb": in_kcidb,
}


@pytest.mark.parametrize("form", FROM)
def test_all_formats_of_one_run_hold_the_same_verdicts(report: Report, form: str) -> None:
    assert FROM[form](report) == in_data(report)
    assert {"FAIL", "PASS"} <= {*in_data(report).values()}


def test_b4_shows_the_worst_of_each_kernel(report: Report) -> None:
    checks = json.loads(render(report, "b4"))
    assert all({*each} == {"tool", "status", "summary", "url", "details"} for each in checks)
    assert all(isinstance(value, str) for each in checks for value in each.values())
    counted = {
        each.title: ", ".join(f"{count} {name}" for name, count in each.counts().items())
        for each in report.kernels
    }
    kernels = checks[: len(counted)]
    assert [each["summary"] for each in kernels] == [f"{title}: {said}" for title, said in counted.items()]
    assert kernels[0]["status"] == "fail"
    assert "expected (mainline-6.7):" in kernels[0]["details"]
    assert [each["status"] for each in checks[len(counted) :]] == ["warn"] * bool(report.cut_short)


def test_what_was_left_open_is_no_pass_for_b4() -> None:
    def status(*results: Result) -> str:
        (check,) = json.loads(render(Report((replace(ONE, results=results),)), "b4"))
        return str(check["status"])

    assert status(RESULTS[1], RESULTS[2], RESULTS[3]) == "pass"
    assert status(RESULTS[1], RESULTS[4]) == "warn"
    assert status(RESULTS[1], RESULTS[5]) == "warn"
    assert status(RESULTS[3]) == "warn"


def test_kcidb_takes_its_format(report: Report) -> None:
    data = json.loads(render(report, "kcidb"))
    kcidb_io.schema.V5_3.validate_exactly(data)
    assert data["version"] == {"major": 5, "minor": 3}
    ids = [each["id"] for each in data["tests"]]
    assert len({*ids}) == len(ids)
    missed = [each["comment"] for each in data["tests"] if each["status"] == "MISS"]
    assert missed == [report.cut_short] * bool(report.cut_short)


def test_kcidb_has_a_status_for_each_verdict() -> None:
    data = json.loads(render(REPORTS["one kernel"], "kcidb"))
    assert {each["misc"]["verdict"]: each["status"] for each in data["tests"]} == {
        "FAIL": "FAIL",
        "PASS": "PASS",
        "XFAIL": "PASS",
        "SKIP": "SKIP",
        "INCONCLUSIVE": "SKIP",
        "LOST": "ERROR",
    }
    failing = data["tests"][0]
    assert failing["path"] == "kvmharness.young-restore"
    assert "expected (mainline-6.7): offset -150 to -140" in failing["log_excerpt"]
    assert data["checkouts"][0]["comment"] == "debian:6.1 6.1.0 linux-image-6.1.0 6.1.192-2"


def test_kcidb_takes_no_more_than_16_kib_of_a_log() -> None:
    long = replace(ONE, results=(replace(RESULTS[5], reason="\N{SNOWMAN}" * 20_000),))
    data = json.loads(render(Report((long,)), "kcidb"))
    kcidb_io.schema.V5_3.validate_exactly(data)
    (test,) = data["tests"]
    assert 16_000 < len(test["log_excerpt"].encode()) <= 16_384


def test_a_ci_system_that_reports_its_builds_itself_gets_tests_of_those() -> None:
    data = json.loads(render(replace(REPORTS["two kernels"], kcidb_build="myci:17"), "kcidb"))
    kcidb_io.schema.V5_3.validate_exactly(data)
    assert {*data} == {"version", "tests"}
    assert {(each["build_id"], each["origin"]) for each in data["tests"]} == {("myci:17", "myci")}


def test_an_id_that_kcidb_would_not_take_is_refused(capsys: Capture) -> None:
    assert status_of("run", "--format", "kcidb", "--kcidb-build", "My CI:1") == 2
    assert "is no id of a build: ORIGIN:ID" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "wrong", ["1..2", "  1..1", "ok 2 x", "hello", "ok 1 a # SKIP b # c", "ok 1 a # NO b"]
)
def test_the_strict_reader_of_ktap_is_strict(wrong: str) -> None:
    with pytest.raises(ktap.KtapError):
        ktap.read(f"KTAP version 1\n1..1\n{wrong}\n" + "ok 1 x\n" * (wrong == "1..2"))


@pytest.mark.full
@pytest.mark.lab
def test_the_kernels_own_parser_reads_the_same_verdicts() -> None:
    try:
        folder = kernel_selftests.ktap_parser("6.1")
    except LabError as error:
        pytest.skip(f"no source of a kernel: {error}")
    parser = kunit_parser(folder)
    for report in (*REPORTS.values(), made_up_run()):
        text = render(report, "ktap")
        found = parser.parse_run_tests(text.splitlines())
        if len(report.kernels) == 1 and not report.missing:
            levels = {report.kernels[0].title: found.subtests}
        else:
            levels = {each.name: each.subtests for each in found.subtests if each.subtests}
        statuses = {(title, one.name): one.status.name for title, level in levels.items() for one in level}
        # It knows no XFAIL: what is ok is a success.
        known = {"XFAIL": "SUCCESS", "PASS": "SUCCESS", "FAIL": "FAILURE", "LOST": "FAILURE"}
        expected = {key: known.get(verdict, "SKIPPED") for key, verdict in in_data(report).items()}
        assert statuses == expected


def kunit_parser(folder: Path) -> Any:
    """The module, with what it imports from beside it."""
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("kunit_parser", folder / "kunit_parser.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["kunit_parser"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))
