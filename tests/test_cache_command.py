# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept in the cache: shown, removed, and kept below a limit."""

import json
import os
import time
from pathlib import Path

import pytest

from kvmharness.lab import cache, kept
from kvmharness.lab.errors import LabError
from tests.command_line import Capture, one_line, status_of

HOUR = 3600
MB = 1_000_000


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.grown.clear()
    return tmp_path / "kvmharness"


def put(root: Path, place: str, size: int = 100_000, hours_ago: float = 0) -> Path:
    """A thing in the cache, last used so long ago."""
    folder = root / place
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(os.urandom(size))
    when = time.time() - hours_ago * HOUR
    os.utime(folder, (when, when))
    return folder


def names() -> list[str]:
    return [each.name for each in kept.everything()]


def test_what_is_kept_is_shown_by_kind_with_size_and_age(root: Path, capsys: Capture) -> None:
    put(root, "snapshots/1234", MB, hours_ago=50)
    put(root, "snapshots/5678", 2 * MB)
    kernel = put(root, "kernels/linux-image-x", hours_ago=3)
    (kernel / "kernel.json").write_text(json.dumps({"spec": "debian:6.1"}))
    os.utime(kernel, (time.time() - 3 * HOUR,) * 2)
    assert status_of("cache") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{root}: 3 MB, kept below 5.0 GB")
    assert [line.split() for line in lines if line.startswith(" ")] == [
        ["106", "kB", "3", "h", "debian:6.1"],
        ["2", "MB", "now", "5678"],
        ["1", "MB", "2", "d", "1234"],
    ]


def test_of_many_the_ones_used_last_are_shown_and_the_rest_counted(root: Path, capsys: Capture) -> None:
    for number in range(10):
        put(root, f"images/{number}", hours_ago=number)
    assert status_of("cache") == 0
    shown = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith(" ")]
    assert shown == [*map(str, range(8)), "(-v)"]
    assert status_of("cache", "-v") == 0
    shown = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith(" ")]
    assert shown == [*map(str, range(10))]


def test_the_same_as_json(root: Path, capsys: Capture) -> None:
    put(root, "trees/a-tree")
    assert status_of("cache", "--format", "json") == 0
    data = json.loads(capsys.readouterr().out)
    assert set(data) == {"schema", "place", "limit", "kept"}
    (only,) = data["kept"]
    assert (only["kind"], only["name"]) == ("trees", "a-tree")
    assert only["bytes"] >= 100_000


def test_an_empty_cache_is_shown_as_one(root: Path, capsys: Capture) -> None:
    assert status_of("cache") == 0
    assert capsys.readouterr().out.splitlines() == [f"{root}: 0 B, kept below 5.0 GB"]


def test_clear_removes_what_is_asked_for_alone(root: Path, capsys: Capture) -> None:
    put(root, "snapshots/old", hours_ago=72)
    put(root, "snapshots/new")
    put(root, "trees/old", hours_ago=72)
    assert status_of("cache", "clear", "snapshots", "--unused-for", "2") == 0
    assert set(names()) == {"new", "old"}
    assert not (root / "snapshots/old").exists()
    assert status_of("cache", "clear", "all") == 0
    assert names() == []
    assert status_of("cache", "clear", "all") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in said] == [
        "removed 1 of the cache",
        "removed 2 of the cache",
        "nothing to remove",
    ]


def test_above_its_limit_the_cache_loses_what_was_used_least_recently(root: Path, capsys: Capture) -> None:
    for number in range(4):
        put(root, f"snapshots/{number}", MB, hours_ago=100 - number)
    put(root, "kernels/just-used", MB)
    assert status_of("cache", "limit", "3.5M") == 0
    assert names() == ["2", "3", "just-used"]
    assert kept.limit() == 3_500_000
    # What may be in use stays, and that is said.
    assert status_of("cache", "limit", "0") == 0
    assert names() == ["just-used"]
    assert "1 MB stay for now" in capsys.readouterr().out


def test_a_command_that_put_something_into_the_cache_keeps_it_below_the_limit(root: Path) -> None:
    put(root, "trees/long-unused", MB, hours_ago=100)
    kept.set_limit(MB)
    assert status_of("list", "machines") == 0
    assert names() == ["long-unused"], "nothing was put there"
    cache.published(root / "trees" / "fetched", lambda folder: None)
    assert status_of("list", "machines") == 0
    assert names() == ["fetched"]


def test_what_cannot_be_removed_is_no_trouble_of_the_command(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "trees/long-unused", MB, hours_ago=100)
    kept.set_limit(0)

    def refuse(place: Path) -> None:
        raise LabError(f"{place} cannot be removed")

    monkeypatch.setattr(cache, "removed", refuse)
    assert kept.trim() == []
    assert names() == ["long-unused"]


@pytest.mark.parametrize("size", ["", "five", "-1", "nan", "inf", "1e400", "5X", "G"])
def test_a_size_that_is_none_is_one_line_and_status_2(size: str, capsys: Capture) -> None:
    assert status_of("cache", "limit", size) == 2
    assert "invalid" in one_line(capsys.readouterr().err)


def test_a_broken_note_of_the_limit_is_the_default(root: Path) -> None:
    root.mkdir()
    (root / "limit").write_text("much")
    assert kept.limit() == kept.DEFAULT_LIMIT
