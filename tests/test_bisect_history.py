# SPDX-License-Identifier: GPL-2.0-or-later
"""Bisections of a made-up history over the real sources of a real kernel's KVM, unattended."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvmharness.lab.kernels import Kernel
from tests import made_up_history
from tests.made_up_history import git

SCRIPTS = Path(__file__).parents[1] / "scripts"
SPEC = "debian:6.1"


@pytest.mark.parametrize("seed", range(40))
def test_a_history_has_thirty_commits_and_its_fault_and_fix_can_be_told(seed: int) -> None:
    kinds = made_up_history.plan(seed)
    assert len(kinds) == 30
    assert (kinds.count("fault"), kinds.count("fix")) == (1, 1)
    fault, fix = kinds.index("fault"), kinds.index("fix")
    assert 3 < fault < fix < 29
    for at in (fault, fix):
        assert kinds[at - 1] in ("harmless", "repair", "fault")
    assert {"unbuildable", "crashing"} <= set(kinds)


@dataclass(frozen=True, slots=True)
class Search:
    """A bisection: of which history, for its fault or its fix, judged how; and what git is led over."""

    seed: int
    fault: str
    sought: str
    options: tuple[str, ...]
    meets: tuple[str, ...]


BUILD, CRASH = "does not build", "the machine was lost"
SEARCHES = (
    Search(
        *(4, "forgets-the-offset", "fault", ("--judge", "contract", "--scenario", "qemu-pair-old")),
        (BUILD, CRASH),
    ),
    Search(
        *(9, "counts-no-matches", "fix", ("--scenario", "clock-flags", "--expect", "mainline-before-6.7")),
        (CRASH,),
    ),
    Search(7, "narrows-the-window", "fault", ("--expect", "mainline-before-6.7"), (BUILD,)),
)


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize("search", SEARCHES, ids=lambda each: each.fault)
def test_git_finds_the_commit_unattended(
    kernel: Callable[[str], Kernel], tmp_path: Path, search: Search
) -> None:
    kernel(SPEC)
    sources = made_up_history.sources_of(SPEC)
    commits = made_up_history.make(tmp_path, sources, search.seed, search.fault)
    at = {each.kind: number for number, each in enumerate(commits)}
    if search.sought == "fault":
        git(tmp_path, "bisect", "start", commits[at["fix"] - 1].name, commits[0].name)
    else:
        terms = ("--term-old=broken", "--term-new=mended")
        git(tmp_path, "bisect", "start", *terms, commits[-1].name, commits[at["fault"]].name)
    script = str(SCRIPTS / f"bisect-{search.sought}")
    environment = {**os.environ, "KVMHARNESS": str(Path(sys.executable).with_name("kvmharness"))}
    done = subprocess.run(
        ["git", "bisect", "run", script, "--kernel", SPEC, *search.options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    word = "bad" if search.sought == "fault" else "mended"
    assert f"{commits[at[search.sought]].name} is the first {word} commit" in done.stdout
    assert done.returncode == 0
    assert all(each in done.stdout for each in search.meets)
