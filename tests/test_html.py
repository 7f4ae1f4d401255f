# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of HTML: what it shows of a run, that it needs nothing else, and that a browser lays it out."""

import html
import importlib.util
import json
import re
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from kvmharness.judging.session import settle
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST
from kvmharness.report import KernelReport, Report, render
from kvmharness.report.html import timeline
from kvmharness.scenarios import SCENARIOS
from tests import made_up
from tests.command_line import Capture, one_line, status_of
from tests.limits import GIVE_UP_S
from tests.test_formats import made_up_run

RESTORE = SCENARIOS["young-restore"]


def kernel_of(policy: str, *names: str) -> KernelReport:
    scenarios = [SCENARIOS[name] for name in names]
    played = settle(scenarios, lambda asked: made_up.session(asked, policy))
    return KernelReport(
        *(f"made-up:{policy}", "amd", "6.1", played.results),
        identity=played.identity,
        sessions=played.sessions,
    )


NAMES = ("young-restore", "old-restore", "qemu-pair-old")


@cache
def both() -> Report:
    """Two made-up kernels, of which the first fails."""
    return Report((kernel_of("mainline-before-6.7", *NAMES), kernel_of("mainline-6.7", *NAMES)))


def text_of(page: str) -> str:
    """What a reader sees of a page, tags left out."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S)).split())


def test_the_page_says_that_the_restore_went_astray_and_whereto() -> None:
    said = text_of(render(both(), "html"))
    assert re.search(
        r"FAIL made-up:mainline-before-6.7 on amd "
        r"Step 4 set vCPU 0 to 900\.0 ms; its TSC went to 50\.\d ms: 8\d\d\.\d ms below what was written\.",
        said,
    )
    assert "PASS made-up:mainline-6.7 on amd Step 4 set vCPU 0 to 900.0 ms; its TSC went to 900.0 ms" in said
    assert "expected (mainline-6.7)" in said


def test_the_page_needs_no_network_and_no_script() -> None:
    page = render(both(), "html")
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|https?:|\bsrc=|javascript:", page)
    assert [each for each in re.findall(r'href="([^"]*)"', page) if not each.startswith("#")] == []
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_each_link_of_the_page_leads_somewhere() -> None:
    page = render(made_up_run(), "html")
    links = {each.removeprefix("#") for each in re.findall(r'href="([^"]*)"', page)}
    assert links
    assert links <= {*re.findall(r'id="([^"]*)"', page)}


def test_what_a_kernel_is_called_is_no_html() -> None:
    hostile = '<script>alert(1)</script>"&'
    kernel = replace(both().kernels[0], kernel=hostile, notes=(hostile,))
    odd = Result("young-restore", Verdict.FAIL, hostile, hostile, finding=hostile)
    page = render(Report((kernel, replace(kernel, results=(odd,), sessions={})), hostile), "html")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_fail_that_left_no_trace_is_shown_without_a_picture() -> None:
    page = render(Report((replace(both().kernels[0], sessions={}),)), "html")
    assert "<svg" not in page
    assert "expected (mainline-6.7)" in page


def test_a_line_jumps_to_what_was_written_where_the_write_is_honoured() -> None:
    def at_the_end(policy: str) -> float:
        way = timeline.of(made_up.play("young-restore", RESTORE.script, policy), HOST)
        (line,) = way.lines
        tsc = line.at(way.moments[-1])
        assert tsc is not None
        return tsc

    assert 50e6 < at_the_end("mainline-before-6.7") < 51e6
    assert 900e6 < at_the_end("mainline-6.7") < 901e6


def test_without_debugfs_a_line_goes_by_what_was_read() -> None:
    trace = made_up.play("young-restore", RESTORE.script, "mainline-before-6.7")
    assert not any(event.debugfs for event in trace.events)
    (line,) = timeline.of(trace, replace(HOST, khz=None)).lines
    assert line.at(0.0) is None
    assert len(line.points) == 2


def test_a_write_knows_what_kvm_expected_there_and_whether_that_is_within_the_second() -> None:
    (young,) = timeline.of(made_up.play("young", RESTORE.script, "mainline-6.7"), HOST).writes
    assert (young.step, young.vcpu, young.value) == (4, 0, 900e6)
    assert young.expected is not None
    assert 50e6 < young.expected < 51e6
    assert young.is_within_second
    script = SCENARIOS["old-restore"].script
    assert not any(each.is_within_second for each in timeline.of(made_up.play("old", script), HOST).writes)


def test_policies_are_predicted_at_the_moments_at_which_the_steps_came() -> None:
    """A player that was held up for 2 s before the write: then nobody takes it as a request."""
    late = made_up.play("young-restore", RESTORE.script, held_up=("tsc-new", 2 * 10**9))
    asked = [POLICIES["mainline-before-6.7"], POLICIES["mainline-6.7"]]
    in_time = made_up.play("young-restore", RESTORE.script)
    found = timeline.predicted(in_time, asked, HOST)
    assert [each.policies for each in found] == [("mainline-before-6.7",), ("mainline-6.7",)]
    assert found[1].timeline.is_like(timeline.of(in_time, HOST))
    assert not found[0].timeline.is_like(timeline.of(in_time, HOST))
    assert [each.policies for each in timeline.predicted(late, asked, HOST)] == [
        ("mainline-before-6.7", "mainline-6.7")
    ]


def test_predict_draws_policies_beside_each_other(tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    asked = ("young-restore", "qemu-pair-old")
    assert status_of("predict", *asked, "--format", "html", "--output", str(output)) == 0
    page = output.read_text()
    assert page.count("<svg") == len(asked)
    assert '<text x="' in page
    said = text_of(page)
    assert "A mainline-before-6.7, like-xu-v1" in said
    assert "contract broken kept" in said


def test_without_its_libraries_one_line_says_how_to_get_them(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "drawsvg" else found(name))
    for command in ("run", "predict"):
        assert status_of(command, "--format", "html") == 2
        assert "--format html needs drawsvg: pip install 'kvmharness[html]'" in one_line(
            capsys.readouterr().err
        )


MEASURE = """<iframe src="page.html" style="width:{width}px;height:800px;border:0" onload="
const page = this.contentDocument, one = page.querySelector('svg').getBoundingClientRect();
const out = [...page.querySelectorAll('svg text')].filter(each => {{
  const svg = each.closest('svg').getBoundingClientRect(), box = each.getBoundingClientRect();
  return box.left < svg.left - 1 || box.right > svg.right + 1 || box.bottom > svg.bottom + 1;
}}).length;
document.title = JSON.stringify([page.documentElement.scrollWidth, one.width, out]);"></iframe>"""


@pytest.mark.full
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_lays_the_page_out_within_its_width(tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("missing capability chromium: install chromium")
    (tmp_path / "page.html").write_text(render(both(), "html"))
    (tmp_path / "frame.html").write_text(MEASURE.format(width=width))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile"]
    command = [browser, *options, "--window-size=1300,900", "--dump-dom", f"file://{tmp_path}/frame.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GIVE_UP_S, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr
    whole, picture, outside = json.loads(html.unescape(title[1]))
    assert whole <= width
    assert picture > 0.4 * width
    assert outside == 0


def test_a_write_that_was_honoured_is_not_what_is_said_of_a_broken_contract() -> None:
    """Each vCPU gets what was written to it; that they count apart is what is wrong."""
    report = Report((kernel_of("mainline-6.7", "restore-one-by-one"),))
    assert [each.verdict for each in report.kernels[0].results] == [Verdict.XFAIL]
    assert "its TSC went to" not in text_of(render(report, "html"))


def test_there_is_no_heading_over_nothing() -> None:
    """A report that a program makes says nothing of its run."""
    assert both().about is None
    assert "This run" not in render(both(), "html")
    said = replace(both().kernels[0], notes=("the host changed",))
    assert "This run" in render(Report((said,)), "html")
