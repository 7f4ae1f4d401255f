# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress: at once on a terminal or with -v, now and then in a log."""

import io
import logging
import sys
import threading

import pytest

from kvmharness.cli import progress
from tests.limits import GIVE_UP_S

LOG = logging.getLogger("kvmharness.lab.made_up")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(verbosity: int) -> list[str]:
    """What is shown of two lines, one of them a detail."""
    shown: list[str] = []
    with progress.shown(verbosity, shown.append):
        LOG.info("%s boots", "a kernel")
        LOG.debug("from a snapshot")
    LOG.info("too late")
    return shown


def test_on_a_terminal_progress_is_shown_at_once_and_details_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert said(0) == ["kvmharness: a kernel boots"]


def test_a_command_that_ends_soon_leaves_no_progress_in_a_log() -> None:
    assert said(0) == []


def test_with_v_progress_is_shown_everywhere_and_with_vv_in_detail() -> None:
    assert [line.partition(" s: ")[2] for line in said(1)] == ["a kernel boots"]
    assert [line.partition(" s: ")[2] for line in said(2)] == ["a kernel boots", "from a snapshot"]


def test_a_log_moves_with_the_newest_line_now_and_then() -> None:
    shown: list[str] = []
    moved = threading.Event()

    def show(line: str) -> None:
        shown.append(line)
        moved.set()

    with progress.shown(0, show, every_s=0.01):
        LOG.info("old")
        LOG.info("new")
        for _ in range(2):  # it moves, also while nothing new is said
            assert moved.wait(GIVE_UP_S)
            moved.clear()
    assert {line.partition(": after ")[2].partition(" s: ")[2] for line in shown[1:]} == {"new"}


def test_a_terminal_has_a_bar_with_what_is_done_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    with progress.shown(0, lambda line: print(line, file=terminal)):
        LOG.info("two to play", extra={"left": ["6.1 on amd", "6.12 on amd"], "of": 2})
        LOG.info("6.1 is done", extra={"left": ["6.12 on amd"], "of": 2})
        LOG.info("6.12 boots")
        LOG.info("6.12 is done", extra={"left": [], "of": 2})
    half = "[##########----------] 1 of 2 done, left: 6.12 on amd"
    assert terminal.getvalue().split("\r\x1b[K") == [
        "kvmharness: two to play\n[--------------------] 0 of 2 done, left: 6.1 on amd, 6.12 on "[:83],
        f"kvmharness: 6.1 is done\n{half}",
        f"kvmharness: 6.12 boots\n{half}",
        "kvmharness: 6.12 is done\n",
    ]
