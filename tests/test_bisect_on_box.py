# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bisect-on-box: a search over the modules of a made-up box, whatever they do when they are loaded.

The `ssh` here runs the remote command on this machine, with programs that load modules into a folder.
"""

import subprocess
from pathlib import Path

import pytest

from tests.made_up_bisection import SCRIPTS, commits
from tests.made_up_history import git
from tests.made_up_kernels import put
from tests.made_up_mails import SOURCE_PATH

ON_BOX = SCRIPTS / "bisect-on-box"
# What the other end has, by the name of the program. Modules are files in the folder {loaded}.
PROGRAMS = {
    "ssh": """\
echo "$@" | head -n 1 >>{log}
[ -e {box}/unreachable ] && {{ echo 'ssh: connect to host box: No route to host' >&2; exit 255; }}
for last; do :; done
cd / && exec env -i PATH={there}:/usr/bin:/bin HOME={box} TMPDIR={box}/tmp sh -c "$last"
""",
    "lsmod": "ls {loaded} | sed 's/$/ 16384 0/'",
    "modprobe": "exit 1 # ccp is not everywhere",
    "sudo": '[ "$1" = -n ] && shift; exec "$@"',
    "rmmod": """\
grep -q in-use {loaded}/$1 && {{ echo "rmmod: ERROR: Module $1 is in use" >&2; exit 1; }}
exec rm {loaded}/$1
""",
    "insmod": """\
name=$(basename $1 .ko | tr - _)
[ -e {loaded}/$name ] && {{ echo "insmod: ERROR: could not insert module $1: File exists" >&2; exit 1; }}
fails() {{ echo "insmod: ERROR: could not insert module $1: $2" >&2; exit 1; }}
case $name:$(cat $1) in
kvm_*:*not-there*) fails $1 "No such device" ;;
kvm:*locked-down*) fails $1 "Operation not permitted" ;;
kvm_*:*panics*) touch {box}/unreachable ;;
esac
cp $1 {loaded}/$name
""",
}
# Stands for the harness: judges what is loaded.
KVMHARNESS = """\
#!/bin/sh
[ "$1" = --version ] && exit {version_status}
echo "$@" >>{log}
grep -q frozen {loaded}/kvm && exit 1
grep -q mystery {loaded}/kvm && exit 2
exit 0
"""
BUILD = (
    "grep -q hate {source} && exit 2; "
    "for each in kvm kvm-amd kvm-intel; do cp {source} arch/x86/kvm/$each.ko; done"
)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The box, as a folder; its modules are in `loaded`."""
    box, there = tmp_path / "box", tmp_path / "there"
    (box / "tmp").mkdir(parents=True)
    (box / "loaded").mkdir()
    words = {"log": tmp_path / "log", "box": box, "there": there, "loaded": box / "loaded"}
    for name, text in PROGRAMS.items():
        folder = tmp_path / "bin" if name == "ssh" else there
        put(folder / name, f"#!/bin/sh\n{text.format(**words)}\n").chmod(0o755)
    harness = put(tmp_path / "kvmharness", KVMHARNESS.format(version_status=0, **words))
    harness.chmod(0o755)
    monkeypatch.setenv("KVMHARNESS", str(harness))
    monkeypatch.setenv("BUILD", BUILD.format(source=SOURCE_PATH))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}", prepend=":")
    return box


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    put(folder / ".gitignore", "*.ko\n")
    return folder


def step(repository: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    words = [str(ON_BOX), *(arguments or ("ssh://me@box:2222", "--scenario", "young-restore"))]
    return subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)


def test_a_search_goes_on_after_a_module_that_does_not_load(repository: Path, box: Path) -> None:
    history = [
        "a",
        "b",
        "not-there c",
        "not-there d",
        "e",
        "hate f",
        "frozen g",
        "frozen not-there h",
        "frozen i",
    ]
    names = commits(repository, *history)
    git(repository, "bisect", "start", names[-1], names[0])
    words = ["git", "bisect", "run", str(ON_BOX), "ssh://me@box:2222", "--scenario", "young-restore"]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)
    # f does not build, so git cannot tell it from g.
    assert f"could be any of:\n{names[5]}\n{names[6]}\n" in done.stdout
    assert [*(box / "tmp").iterdir()] == []


@pytest.mark.parametrize("bad", range(1, 6))
def test_the_culprit_is_found_between_commits_that_do_not_load(repository: Path, box: Path, bad: int) -> None:
    said = [f"{'frozen' if number >= bad else ''} {number}" for number in range(6)]
    unloadable = {2, 4} - {bad, bad - 1}
    names = commits(repository, *(f"{'not-there ' * (n in unloadable)}{each}" for n, each in enumerate(said)))
    git(repository, "bisect", "start", names[-1], names[0])
    words = ["git", "bisect", "run", str(ON_BOX), "ssh://box"]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)
    assert f"{names[bad]} is the first bad commit" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("said", "status", "line"),
    [
        ("good", 0, ""),
        ("frozen", 1, ""),
        ("mystery", 128, ""),
        ("hate", 125, "skip: it does not build"),
        ("not-there", 125, "skip: its modules do not load"),
        ("locked-down", 128, "bisect-on-box: ssh://me@box:2222 loads no module of ours: it is locked down"),
    ],
)
def test_what_git_is_told_of_a_step(repository: Path, box: Path, said: str, status: int, line: str) -> None:
    commits(repository, said)
    done = step(repository)
    assert done.returncode == status, done.stderr
    assert line in done.stdout + done.stderr
    # Whatever came of it, the next step goes on.
    put(repository / SOURCE_PATH, "good\n")
    assert step(repository).returncode == 0
    assert sorted(path.name for path in (box / "loaded").iterdir()) in (
        ["kvm", "kvm_amd"],
        ["kvm", "kvm_intel"],
    )


def test_a_vm_that_runs_there_ends_the_search(repository: Path, box: Path) -> None:
    commits(repository, "good")
    put(box / "loaded/kvm_amd", "in-use")
    done = step(repository)
    assert done.returncode == 128
    assert "cannot be unloaded: does a VM run there?" in done.stderr


def test_a_box_that_crashes_under_a_module_ends_the_search_and_no_commit_is_marked(
    repository: Path, box: Path
) -> None:
    commits(repository, "panics")
    assert step(repository).returncode == 0  # the made-up harness does not ask the box
    done = step(repository)
    assert done.returncode == 128
    assert done.stderr.splitlines()[-1].startswith(
        "bisect-on-box: ssh://me@box:2222 does not answer: if it crashed"
    )


def test_the_options_are_those_of_bisect_step(repository: Path, box: Path, tmp_path: Path) -> None:
    commits(repository, "good")
    assert step(repository).returncode == 0
    asked = (tmp_path / "log").read_text().splitlines()[-1]
    assert asked == "bisect-step --host --on ssh://me@box:2222 --scenario young-restore"


def test_wrong_usage_and_a_harness_that_does_not_start_end_the_search(
    repository: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits(repository, "good")
    assert "name the box first" in step(repository, "--scenario", "x").stderr
    assert step(repository, "--scenario", "x").returncode == 128
    done = subprocess.run([ON_BOX, "ssh://box"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "has no arch/x86/kvm" in done.stderr) == (128, True)
    monkeypatch.setenv("KVMHARNESS", "/bin/false")
    assert step(repository).returncode == 128
