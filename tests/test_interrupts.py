# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C ends the command, whenever it comes, with nothing but a word."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import GIVE_UP_S

# Interrupts the command when it imports the nth module after its own first one.
IMPORTS = """\
import os, runpy, signal, sys

class Importing:
    left = int(sys.argv.pop(1))

    def find_spec(self, name, path=None, target=None):
        if Importing.left and (name.startswith("kvmharness.cli") or self.begun):
            self.begun = True
            Importing.left -= 1
            if not Importing.left:
                os.kill(os.getpid(), signal.SIGINT)

    begun = False

sys.meta_path.insert(0, Importing())
runpy.run_module("kvmharness", run_name="__main__", alter_sys=True)
"""
# Interrupts the command when its report is to be written, and once more when it says so.
TWICE = """\
import os, signal, sys
from kvmharness.cli import list as listing
from kvmharness.__main__ import main

class Interrupting:
    def write(self, text):
        os.kill(os.getpid(), signal.SIGINT)

    flush = write

sys.stdout = sys.stderr = Interrupting()
sys.exit(main())
"""


def run(code: str, *arguments: str, ignoring: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run a program that interrupts itself. What starts it may ignore SIGINT itself."""
    as_in_a_terminal = [] if ignoring else ["env", "--default-signal=INT"]
    return subprocess.run(
        [*as_in_a_terminal, sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=GIVE_UP_S,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignoring else None,
    )


@pytest.mark.parametrize("moment", [1, 2, 10, 50, 100])
def test_an_interrupt_while_the_command_is_loaded_leaves_no_traceback(moment: int) -> None:
    done = run(IMPORTS, str(moment), "list", "machines")
    assert done.returncode == -signal.SIGINT
    assert (done.stdout, done.stderr) == ("", "")


def test_whoever_ignores_interrupts_is_not_interrupted() -> None:
    done = run(IMPORTS, "10", "list", "machines", ignoring=True)
    assert done.returncode == 0
    assert "amd" in done.stdout.splitlines()


def test_an_interrupt_while_an_interrupt_is_reported_changes_nothing() -> None:
    done = run(TWICE, "list", "machines")
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == ("", "")
