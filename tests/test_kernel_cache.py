# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels in the cache: found and listed without asking anybody, and built again when damaged."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kvmharness.cli.main import main
from kvmharness.lab import cache, kernels
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import archive, names, stored, suites
from kvmharness.lab.kernels.apt import State
from kvmharness.lab.kernels.packages import KernelPackage
from tests.limits import GIVE_UP_S
from tests.made_up_kernels import RELEASE, put, put_tree

PACKAGE = KernelPackage("linux-image-6.1.0-9-cloud-amd64", "6.1.27-1", "6.1.0-9-cloud-amd64", usual=True)
NEWER = KernelPackage("linux-image-6.1.0-10-cloud-amd64", "6.1.38-1", "6.1.0-10-cloud-amd64", usual=True)

# What is kept


def test_what_is_built_for_the_cache_is_there_whole_or_not_at_all(cache_root: Path) -> None:
    place = cache.root() / "images" / "thing"

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise LabError("no luck")

    with pytest.raises(LabError, match="no luck"):
        cache.published(place, fail)
    assert [path.name for path in place.parent.iterdir()] == ["lock"]
    (place.parent / "building-of-a-dead-process").mkdir()
    cache.published(place, lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in place.parent.iterdir()) == ["lock", "thing"]


def is_free(folder: Path) -> bool:
    """Whether another process can lock a folder now."""
    code = (
        "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "try: os.lockf(fd, os.F_TLOCK, 0)\nexcept OSError: sys.exit(1)"
    )
    command = [sys.executable, "-c", code, str(folder / "lock")]
    return subprocess.run(command, check=False, timeout=GIVE_UP_S).returncode == 0


def test_a_folder_that_is_locked_twice_stays_locked_until_the_first_block_ends(cache_root: Path) -> None:
    folder = cache.root() / "trees"
    with cache.locked(folder):
        with cache.locked(folder):
            assert not is_free(folder)
        with cache.locked(folder / "other"):
            pass
        assert not is_free(folder)
        cache.removed(folder / "nothing")
        assert not is_free(folder)
    assert is_free(folder)


def put_used(folder: Path, *ages: int) -> list[Path]:
    """Folders that were used so many days ago."""
    found = []
    for age in ages:
        path = put(folder / f"thing-{age}" / "file").parent
        os.utime(path, (time.time() - age * 24 * 3600,) * 2)
        found.append(path)
    return found


def test_what_was_not_used_for_long_or_least_recently_goes(cache_root: Path) -> None:
    new, _, old, oldest = put_used(cache.root(), 0, 1, 10, 20)
    put_used(cache.root() / "building-now", 30)
    other = put(cache.root() / "other" / "file").parent
    os.utime(other, (0, 0))
    cache.used(new, "thing-*", lambda place: 15 * 24 * 3600)
    assert [old.exists(), oldest.exists()] == [True, False]
    cache.used(old, "thing-*", most=2)
    assert sorted(path.name for path in cache.root().glob("thing-*")) == ["thing-0", "thing-10"]
    # The one that is used now is the newest, whatever its age was.
    cache.used(new, "thing-*", most=1)
    assert [path.name for path in cache.root().glob("thing-*")] == ["thing-0"]
    assert other.exists()


def test_a_cache_that_cannot_be_written_is_explained(cache_root: Path) -> None:
    cache_root.parent.joinpath("kvmharness").write_text("a file where a folder should be")
    with pytest.raises(LabError, match="cannot be used: "):
        cache.published(cache.root() / "images" / "thing", lambda folder: None)


def test_a_damaged_kernel_in_the_cache_is_noticed(cache_root: Path) -> None:
    (cache_root / "vmlinux").parent.mkdir(parents=True, exist_ok=True)
    (cache_root / "vmlinux").write_bytes(b"12345")
    description = {"release": "r", "load_order": {}, "sizes": {"vmlinux": 6}}
    (cache_root / "kernel.json").write_text(json.dumps(description))
    with pytest.raises(LabError, match="was damaged"):
        stored.load("debian:6.1", cache_root)
    description |= {"sizes": {"vmlinux": 5}, "unchanged": {"vmlinux": stored.mark(cache_root / "vmlinux")}}
    (cache_root / "kernel.json").write_text(json.dumps(description))
    assert stored.load("debian:6.1", cache_root).release == "r"
    (cache_root / "vmlinux").write_bytes(b"12340")
    with pytest.raises(LabError, match="was damaged"):
        stored.load("debian:6.1", cache_root)
    (cache_root / "kernel.json").write_text("{")
    with pytest.raises(LabError, match="not what it was"):
        stored.load("debian:6.1", cache_root)


def test_a_kernel_damaged_in_the_cache_is_built_again(cache_root: Path, tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    kernel = kernels.find(str(tree))
    whole = kernel.vmlinux.read_bytes()
    for damaged in (whole[:-1], b"\0" + whole[1:]):
        kernel.vmlinux.write_bytes(damaged)
        assert kernels.find(str(tree)).vmlinux.read_bytes() == whole


def test_a_kernel_kept_in_another_format_is_unpacked_again(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = []

    def build(package: KernelPackage, folder: Path) -> None:
        builds.append(package.version)
        (folder / "kernel.json").write_text(
            json.dumps({"format": stored.FORMAT, "release": "r", "load_order": {}, "sizes": {}})
        )

    monkeypatch.setattr(archive, "offered", lambda refresh=False: [PACKAGE])
    monkeypatch.setattr(names, "_build", build)
    place = kernels.find("debian:6.1").folder
    kernels.find("debian:6.1")
    assert builds == [PACKAGE.version]
    (place / "kernel.json").write_text('{"format": 0}')
    kernels.find("debian:6.1")
    assert builds == [PACKAGE.version] * 2
    # What was kept before formats had numbers is of the first one.
    (place / "kernel.json").write_text('{"release": "r", "load_order": {}, "sizes": {}}')
    kernels.find("debian:6.1")
    assert len(builds) == 2


# What is found and listed


@pytest.fixture
def nobody_answers(cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No apt, so no network either."""

    def refuse(*arguments: Any, **options: Any) -> str:
        raise LabError("apt was asked")

    monkeypatch.setattr(State, "apt", refuse)


def put_kept(package: KernelPackage) -> Path:
    place = cache.root() / "kernels" / kernels.cache_name(package)
    description = {"release": package.release, "load_order": {"kvm_amd": []}, "sizes": {}}
    return put(place / "kernel.json", json.dumps(description)).parent


@pytest.mark.usefixtures("nobody_answers")
@pytest.mark.parametrize("name", ["6.1", "6.1.27", "6.1.0-9", "bookworm"])
def test_offline_a_kernel_in_the_cache_is_found_by_version_or_suite(name: str) -> None:
    place = put_kept(PACKAGE)
    # Looked up long ago; since then there is a newer one, which was never fetched.
    index = json.dumps([asdict(each) for each in (PACKAGE, NEWER)])
    os.utime(put(State("bookworm").root / "kernels.json", index), (0, 0))
    assert kernels.find(f"debian:{name}", offline=True).folder == place


@pytest.mark.usefixtures("nobody_answers")
@pytest.mark.parametrize("name", ["6.12", "sid"])
def test_offline_a_kernel_that_is_not_in_the_cache_is_answered_with_what_is(name: str) -> None:
    put_kept(PACKAGE)
    with pytest.raises(
        LabError, match=rf"^debian:{re.escape(name)} is not in the cache, which has debian:6\.1\.27-1, "
    ):
        kernels.find(f"debian:{name}", offline=True)


@pytest.mark.usefixtures("nobody_answers")
def test_the_list_of_kernels_offline_is_what_the_cache_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_kept(NEWER)
    put_kept(PACKAGE)
    tree = put_tree(tmp_path / "linux")
    kernels.find(str(tree))
    assert main(["list", "kernels", "--offline"]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["debian:6.1.27-1", PACKAGE.release, "in the cache"],
        ["debian:6.1.38-1", NEWER.release, "in the cache"],
        [str(tree), RELEASE, "in the cache"],
    ]
    assert main(["list", "kernels"]) == 2
    assert "in the cache" in capsys.readouterr().out
    for arguments in (["kernels", "--offline", "--all-suites"], ["machines", "--offline"]):
        assert main(["list", *arguments]) == 2


def test_the_list_of_kernels_says_where_each_is_to_be_had(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_kept(PACKAGE)
    of_sid = KernelPackage("linux-image-7.2-cloud-amd64", "7.2-1", "7.2-cloud-amd64")
    put(State("sid").root / "kernels.json", json.dumps([asdict(of_sid)]))
    monkeypatch.setattr(archive, "offered", lambda refresh=False: [PACKAGE])
    assert main(["list", "kernels"]) == 0
    listed = capsys.readouterr().out
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    own = ["debian:6.1.27-1", PACKAGE.release, "this machine's sources, in the cache"]
    assert rows == [own, ["debian:7.2-1", of_sid.release, "sid"]]
    answers = {"trixie": ([NEWER], []), "sid": ([], ["sid: no key"])}
    monkeypatch.setattr(suites, "offered", lambda suite, refresh=False: answers.get(suite, ([], [])))
    assert main(["list", "kernels", "--all-suites"]) == 0
    out, error = capsys.readouterr()
    newer = ["debian:6.1.38-1", NEWER.release, "trixie"]
    assert [line.split(maxsplit=2) for line in out.splitlines()] == [own, newer]
    assert error == "kvmharness: not asked: sid: no key\n"
