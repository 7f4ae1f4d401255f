# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels in the cache: found and listed without asking anybody, and built again when damaged."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kvmharness.cli.main import main
from kvmharness.lab import apt, cache, kernels, suites
from kvmharness.lab.apt import KernelPackage, State
from kvmharness.lab.errors import LabError
from tests.made_up_kernels import RELEASE, put, put_tree

PACKAGE = KernelPackage("linux-image-6.1.0-9-cloud-amd64", "6.1.27-1", "6.1.0-9-cloud-amd64", usual=True)
NEWER = KernelPackage("linux-image-6.1.0-10-cloud-amd64", "6.1.38-1", "6.1.0-10-cloud-amd64", usual=True)


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
    monkeypatch.setattr(apt, "offered", lambda refresh=False: [PACKAGE])
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


def test_a_kernel_damaged_in_the_cache_is_built_again(cache_root: Path, tmp_path: Path) -> None:
    tree = put_tree(tmp_path / "linux")
    kernel = kernels.find(str(tree))
    whole = kernel.vmlinux.read_bytes()
    for damaged in (whole[:-1], b"\0" + whole[1:]):
        kernel.vmlinux.write_bytes(damaged)
        assert kernels.find(str(tree)).vmlinux.read_bytes() == whole
