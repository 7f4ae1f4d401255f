# SPDX-License-Identifier: GPL-2.0-or-later
"""On a whole Debian with the physical flavour of its kernel, reached by ssh: what docs/for-hardware.md and
docs/patches.md say of hardware, on a machine that honours TSC writes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kvmharness.cli.main import main
from kvmharness.lab import build, kernels
from kvmharness.lab.build import host, modules
from kvmharness.lab.kernels import Kernel
from tests import made_up_history as history
from tests.box import Box, Disk, booted, disk
from tests.made_up_bisection import SCRIPTS
from tests.made_up_kernels import put

pytestmark = [pytest.mark.lab, pytest.mark.full]

# Some of each kind: what 6.7 changed, pairs, offsets, clocks, another CPU.
SOME = (
    *("young-restore", "old-restore", "qemu-pair-old", "offsets-apart", "offset-moved", "write-zero"),
    *("page-by-guest", "page-follows-write", "set-clock-with-realtime", "stopped-is-told"),
)
BEFORE_67 = ("--expect", "mainline-before-6.7")
CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
# What makes 6.7's rule of 6.1's.
OF_67 = ("gate-user-wrote", "attribute-opens-gate")
PATCHES = [word for name in OF_67 for word in ("--patch", f"{Path(__file__).parent}/patches/{name}.patch")]
# As docs/patches.md says it; the modules are in the folder $d.
LOAD = "set -e; cd $d; modprobe -a -q irqbypass ccp; rmmod kvm_amd kvm; insmod ./kvm.ko; insmod ./kvm_amd.ko"
RESTORE = "rmmod kvm_amd kvm; modprobe kvm_amd"


@pytest.fixture(scope="module")
def debian12(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("disk")
    yield disk("bookworm", folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def box(debian12: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with booted(debian12, tmp_path_factory.mktemp("box")) as running:
        yield running


@pytest.fixture(scope="module")
def spec(box: Box) -> str:
    """The box's kernel, as `lab build host` would call it there."""
    release, version = box.said("uname -r; uname -v").splitlines()
    return host.spec(Path("/nowhere"), release, version)


def environment(box: Box) -> dict[str, str]:
    return {**os.environ, "PATH": f"{box.folder / 'bin'}:{os.environ['PATH']}"}


def started(box: Box, user: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "kvmharness", *arguments, "--on", box.name(user)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(box), stdout=pipe, stderr=pipe, text=True)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, err


def report(end: tuple[int, str, str]) -> Mapping[str, Any]:
    """The report of a run in which nothing may fail."""
    status, out, err = end
    assert status == 0, out + err
    data: dict[str, Any] = json.loads(out)
    assert data["summary"]["FAIL"] == 0
    (kernel,) = data["kernels"]
    assert isinstance(kernel, dict)
    return kernel


def play(box: Box, *arguments: str, user: str = "root") -> Mapping[str, Any]:
    return report(ended(started(box, user, "run", *(arguments or BEFORE_67), "--format", "json")))


def test_root_and_a_user_of_group_kvm_play_all_of_it_at_once_on_a_busy_box(box: Box) -> None:
    """Each has VMs while the other plays, and the CPUs have other work."""
    load = box.command("exec timeout 600 sh -c 'while :; do :; done'", "plain")
    with subprocess.Popen(load) as loading:
        try:
            both = [started(box, user, "run", *BEFORE_67, "--format", "json") for user in ("root", "dev")]
            ends = [ended(each) for each in both]
        finally:
            loading.kill()
    kernels = [report(each) for each in ends]
    for each in kernels:
        # What would distinguish it from others may be inconclusive, where all of them share two CPUs.
        assert "mainline-before-6.7" in each["behaves_as"]
        assert each["release"] == box.release
    complaints = "dmesg | grep -E 'duplicate|WARNING|BUG|Oops|unchecked' || true"
    assert box.said(complaints) == ""


@pytest.mark.parametrize(
    ("user", "prepare", "shows"),
    [
        ("root", "true", "shows"),
        ("root", "umount /sys/kernel/debug", "does not show"),
        (
            "dev",
            "mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug",
            "does not show",
        ),
    ],
)
def test_the_rule_is_recognised_with_debugfs_and_without(
    box: Box, user: str, prepare: str, shows: str
) -> None:
    box.said(prepare)
    status, out, err = ended(started(box, user, "probe"))
    assert status == 0, err
    assert f"debugfs     {shows} the offsets of vCPUs" in out
    assert "mainline-before-6.7" in play(box, *SOME, *BEFORE_67, user=user)["behaves_as"]


def test_a_user_who_may_not_is_told_in_one_line(box: Box) -> None:
    status, out, err = ended(started(box, "plain", "run", *SOME))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"kvmharness: {box.name('plain')}: ")
    assert "/dev/kvm" in line
    assert "kvm" in line.partition("/dev/kvm")[2]


@pytest.mark.parametrize(
    ("change", "back", "what"),
    [
        (f"echo hpet >{CLOCKSOURCE}", f"echo tsc >{CLOCKSOURCE}", "clocksource was tsc and is hpet"),
        (
            "echo 0 >/sys/devices/system/cpu/cpu1/online",
            "echo 1 >/sys/devices/system/cpu/cpu1/online",
            "0-1 and is 0",
        ),
    ],
)
def test_what_changes_underneath_is_noticed_and_makes_nothing_fail(
    box: Box, change: str, back: str, what: str
) -> None:
    """As soon as the player has /dev/kvm open; what is played again is played on what is there then."""
    waits = "until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/kvm; do sleep 0.2; done"
    with subprocess.Popen(box.command(f"{waits}; {change}", "root")) as changing:
        try:
            kernel = play(box, *SOME, *BEFORE_67)
        finally:
            changing.wait()
            box.said(back)
    assert any(what in note for note in kernel["notes"]), kernel["notes"]


def packed(kernel: Kernel, *names: str) -> bytes:
    """Modules of a kernel, as an archive."""
    command = ["tar", "-cf", "-", "-C", str(kernel.folder), *names]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_patched_modules_are_recognised_and_told_from_the_kernels_own(box: Box, spec: str) -> None:
    before = play(box, "young-restore", *BEFORE_67)
    name = "test-box"
    assert main(["lab", "build", spec, *PATCHES, "--name", name]) == 0
    files = packed(kernels.find(f"built:{name}"), "kvm.ko", "kvm_amd.ko")
    box.said(f"d=$(mktemp -d) && tar -xf - -C $d; {LOAD}", stdin=files)
    try:
        there = "od -An -v -tx1 /sys/module/kvm/notes/.note.gnu.build-id | tr -d ' \\n'"
        kernel = play(box, *SOME, "--expect", "mainline-6.7")
        assert "mainline-6.7" in kernel["behaves_as"]
        assert "mainline-before-6.7" not in kernel["behaves_as"]
        assert kernel["build_ids"]["kvm"] != before["build_ids"]["kvm"]
        assert box.said(there).endswith(kernel["build_ids"]["kvm"])
        assert "module verification failed" in box.said("dmesg")
    finally:
        box.said(RESTORE)
    assert play(box, "young-restore", *BEFORE_67)["build_ids"] == before["build_ids"]


def test_a_bisect_over_ssh_finds_its_commit_past_one_that_does_not_load(
    box: Box, spec: str, tmp_path: Path
) -> None:
    tree = tmp_path / "linux"
    on = build.ground(spec)
    subprocess.run(["cp", "-a", on.tree.source, tree], check=True)
    put(tree / ".gitignore", "*\n!*/\n!/arch/x86/kvm/**/*.[ch]\n!/virt/kvm/*.[ch]\n!.gitignore\n")
    names = commits(tree, history.sources_of(spec))
    history.git(tree, "bisect", "start", names[-1], names[0])
    compiler = modules._compiler(tree)[0]
    make = f"make -s -j2 {' '.join(modules.MODULES)} CC={compiler} modules"
    asked = ["--judge", "contract", "--scenario", "qemu-pair-old"]
    kvmharness = str(Path(sys.executable).with_name("kvmharness"))
    done = subprocess.run(
        ["git", "bisect", "run", SCRIPTS / "bisect-on-box", box.name(), *asked],
        cwd=tree,
        env={**environment(box), "BUILD": make, "KVMHARNESS": kvmharness},
        capture_output=True,
        text=True,
        check=False,
    )
    box.said(f"{RESTORE} || modprobe kvm_amd")
    assert f"{names[4]} is the first bad commit" in done.stdout, done.stdout + done.stderr
    assert "skip: its modules do not load" in done.stdout


def commits(tree: Path, sources: history.Sources) -> list[str]:
    """A history over a kernel's sources of KVM: 0 and 1 are good, 2 does not load, 3 does again, 4 forgets
    the offset, 5 changes nothing."""
    fault, refuses = history.FAULTS["forgets-the-offset"], history.DOES_NOT_LOAD
    edits = (
        None,
        history.Edit(fault.path, "", "\n/* 1 */\n"),
        refuses,
        history.Edit(refuses.path, refuses.new, refuses.old),
        fault,
        history.Edit(fault.path, "", "\n/* 5 */\n"),
    )
    history.git(tree, "init", "--quiet", "--initial-branch=main")
    names = []
    for number, edit in enumerate(edits):
        sources = edit.done(sources) if edit else sources
        for path, text in sources.items():
            content = text.encode(errors="surrogateescape")
            if (tree / path).read_bytes() != content:
                (tree / path).write_bytes(content)
        history.git(tree, "add", "--all")
        history.git(tree, "commit", "--quiet", f"--message=Change {number}")
        names.append(history.git(tree, "rev-parse", "HEAD").strip())
    return names


def test_an_unstable_tsc_and_a_lockdown_are_what_the_documentation_says(
    debian12: Disk, spec: str, tmp_path: Path
) -> None:
    with booted(debian12, tmp_path, "tsc=unstable lockdown=integrity") as box:
        kernel = play(box)
        assert kernel["host"]["clocksource"] != "tsc"
        files = packed(kernels.find(spec), "kvm.ko")
        done = box.run("cd $(mktemp -d) && tar -xf - && rmmod kvm_amd kvm && insmod ./kvm.ko", stdin=files)
        assert done.returncode
        assert "Operation not permitted" in done.stderr
        assert "Lockdown: insmod: unsigned module loading is restricted" in box.said("dmesg")
        box.said("modprobe kvm_amd")
