# SPDX-License-Identifier: GPL-2.0-or-later
"""What pip users get: a wheel for every CPython from 3.11 on, and an sdist with all that the checkout has."""

import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.lab.kernels import Kernel
from tests.made_up_kernels import put

ROOT = Path(__file__).parent.parent
SCRIPTS = ("bisect-fault", "bisect-fix", "bisect-on-box")
# What only git needs.
_OF_GIT = re.compile(r"\.git(ignore|attributes)")
# The glibc of a manylinux wheel made on Debian 12 may be no newer than that of 2022's distributions.
_MOST_GLIBC = 35


def said(*command: object, folder: Path | None = None, status: int = 0) -> str:
    """What a command prints, that ends with this status."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == status, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(("answer", "fault", "fix"), [(0, 0, 1), (1, 1, 0), (125, 125, 125), (2, 128, 128)])
def test_the_scripts_for_git_start_the_kvmharness_that_pip_put_beside_them(
    answer: int, fault: int, fix: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KVMHARNESS", raising=False)
    program = put(tmp_path / "kvmharness", f'#!/bin/sh\n[ "$1" = --version ] || exit {answer}\n')
    program.chmod(0o755)
    for name in SCRIPTS:
        shutil.copy(ROOT / "scripts" / name, tmp_path)
    said(tmp_path / "bisect-fault", "--kernel", "debian:6.1", status=fault)
    said(tmp_path / "bisect-fix", "--kernel", "debian:6.1", status=fix)


def test_the_script_for_a_box_starts_the_kvmharness_that_pip_put_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KVMHARNESS", raising=False)
    put(tmp_path / "kvmharness", "#!/bin/sh\necho 'no Python here' >&2\nexit 1\n").chmod(0o755)
    shutil.copy(ROOT / "scripts/bisect-on-box", tmp_path)
    words = [str(tmp_path / "bisect-on-box"), "ssh://box"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128, "no Python here\n")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with wheel and sdist, as scripts/dist makes them."""
    if not (ROOT / ".git").exists():
        pytest.skip("missing capability checkout: there is no .git")
    clone, folder = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    said("git", "clone", "--quiet", ROOT, clone)
    said("env", f"PYTHON={sys.executable}", clone / "scripts/dist", folder)
    return folder


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.full
def test_one_wheel_is_for_every_cpython_and_every_glibc_of_these_years(dist: Path) -> None:
    wheel = one(dist, "*.whl")
    tag = re.search(r"-cp311-abi3-manylinux_2_(\d+)_x86_64\.whl$", wheel.name)
    assert tag is not None, wheel.name
    assert int(tag[1]) <= _MOST_GLIBC
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        metadata = files.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    shared = [name for name in names if name.endswith(".so")]
    assert len(shared) == 2
    assert all(name.endswith(".abi3.so") for name in shared)
    assert "License-Expression: GPL-2.0-or-later" in metadata
    assert not any(name.startswith(("tests/", "cdefs/")) for name in names)


@pytest.mark.full
def test_the_sdist_has_everything_that_git_has(dist: Path) -> None:
    with tarfile.open(one(dist, "*.tar.gz")) as files:
        there = {name.partition("/")[2] for name in files.getnames()}
    tracked = said("git", "-C", ROOT, "ls-files").splitlines()
    assert [name for name in tracked if name not in there and not _OF_GIT.fullmatch(name)] == []


@pytest.mark.full
@pytest.mark.lab
@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_what_pip_installs_plays_on_a_kernel(
    pattern: str, dist: Path, tmp_path: Path, kernel: Callable[[str], Kernel]
) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    said(place / "bin/pip", "install", "--quiet", one(dist, pattern))
    command = place / "bin/kvmharness"
    assert said(command, "--version", folder=tmp_path).startswith("kvmharness ")
    assert str(place / "share/doc/kvmharness") in said(command, "docs", folder=tmp_path)
    assert "# " in said(command, "docs", "for-ci", folder=tmp_path)
    kernel("debian:6.12")  # no reason to fail for is that it is not to be had
    told = said(command, "lab", "run", "debian:6.12", "--scenario", "young-restore", folder=tmp_path)
    assert told.startswith("PASS  debian:6.12 on amd ")
    for name in SCRIPTS:
        said(place / "bin" / name, "--kernel", "nothing", folder=tmp_path, status=128)


@pytest.mark.full
def test_the_tests_of_the_sdist_pass_in_it(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(one(dist, "*.tar.gz")) as files:
        files.extractall(tmp_path, filter="data")
    (top,) = tmp_path.iterdir()
    said("scripts/setup", "test", folder=top)
    said(".venv/bin/pytest", "-q", "tests/test_docs_command.py", "tests/test_model_purity.py", folder=top)
