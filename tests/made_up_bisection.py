# SPDX-License-Identifier: GPL-2.0-or-later
"""Bisections by git of a made-up history, each step in a process of its own with a made-up machine."""

import subprocess
from pathlib import Path

from tests.made_up_builds import SPEC
from tests.made_up_history import git
from tests.made_up_kernels import put
from tests.made_up_mails import SOURCE, SOURCE_PATH

SCRIPTS = Path(__file__).parents[1] / "scripts"
# What the scripts start in place of kvmharness.
STEP = """\
import sys
from kvmharness.cli import bisect_step
from kvmharness.lab import runs
from kvmharness.cli.main import main
from tests.made_up_steps import play_on
runs.play_on = play_on
bisect_step.check_emulator = lambda machine: None
sys.exit(main())
"""


def commits(repository: Path, *said: str, path: str = SOURCE_PATH) -> list[str]:
    """A commit for each of these words, which a file then holds; their hashes."""
    git(repository, "init", "--quiet", "--initial-branch=main")
    names = []
    for number, each in enumerate(said):
        put(repository / path, f"{SOURCE}/* {number}: {each} */\n")
        git(repository, "add", "--all")
        git(repository, "commit", "--quiet", "--message", each)
        names.append(git(repository, "rev-parse", "HEAD").strip())
    return names


def run_step(repository: Path, script: str, *more: str) -> "subprocess.CompletedProcess[str]":
    """`git bisect run` with one of the scripts."""
    words = ["git", "bisect", "run", str(SCRIPTS / script), "--kernel", SPEC, "--offline", *more]
    return subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)
