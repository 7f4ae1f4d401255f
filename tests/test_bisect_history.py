# SPDX-License-Identifier: GPL-2.0-or-later
"""Bisections of a made-up history over the real sources of a real kernel's KVM, unattended."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.lab.kernels import Kernel
from tests import made_up_history
from tests.made_up_history import FAULTS, git

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


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize(
    ("fault", "sought", "options"),
    [
        ("forgets-the-offset", "fault", ("--judge", "contract", "--scenario", "qemu-pair-old")),
        ("counts-no-matches", "fix", ("--scenario", "clock-flags", "--expect", "mainline-before-6.7")),
        ("narrows-the-window", "fault", ("--expect", "mainline-before-6.7")),
    ],
)
def test_git_finds_the_commit_unattended(
    kernel: Callable[[str], Kernel],
    tmp_path: Path,
    fault: str,
    sought: str,
    options: tuple[str, ...],
) -> None:
    kernel(SPEC)
    sources = made_up_history.sources_of(SPEC)
    seed = list(FAULTS).index(fault)
    commits = made_up_history.make(tmp_path, sources, seed, fault)
    at = {each.kind: number for number, each in enumerate(commits)}
    if sought == "fault":
        git(tmp_path, "bisect", "start", commits[at["fix"] - 1].name, commits[0].name)
    else:
        terms = ("--term-old=broken", "--term-new=mended")
        git(tmp_path, "bisect", "start", *terms, commits[-1].name, commits[at["fault"]].name)
    command = ["git", "bisect", "run", str(SCRIPTS / f"bisect-{sought}"), "--kernel", SPEC, *options]
    environment = {**os.environ, "KVMHARNESS": str(Path(sys.executable).with_name("kvmharness"))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    word = "bad" if sought == "fault" else "mended"
    assert f"{commits[at[sought]].name} is the first {word} commit" in done.stdout
    assert done.returncode == 0
