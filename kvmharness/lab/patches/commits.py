# SPDX-License-Identifier: GPL-2.0-or-later
"""Commits of the user's own git tree: what each changes, and KVM's sources at each. The tree is only read."""

import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab.errors import LabError

# A file as git lists it, neither a link nor a submodule.
_FILE = (b"100644", b"100755")
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: its hash, its author's name and address, and the files that it changes."""

    name: str
    title: str
    author: str
    paths: tuple[str, ...]

    @property
    def short(self) -> str:
        """As much of the hash as kernel developers write."""
        return self.name[:_SHOWN]


class Repository:
    """The git repository that a folder is in. LabError where there is none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._contents: dict[bytes, str] = {}
        self.git("rev-parse", "--git-dir")

    def line(self, span: str) -> tuple[str, list[Commit]]:
        """The commits of a range A..B, the oldest first, and the commit before them.

        LabError where git knows no such range, where it is empty, and where it has a merge: what a commit
        after one changes is not clear.
        """
        if ".." not in span or "..." in span or span.startswith("-"):
            raise LabError(f"{span!r} is no range of commits: expected A..B")
        listed = self.git("rev-list", "--reverse", "--topo-order", "--parents", span, "--").decode()
        lines = [line.split() for line in listed.splitlines()]
        if not lines:
            raise LabError(f"{span} holds no commit")
        before = ""
        for name, *parents in lines:
            if len(parents) != 1 or before not in ("", parents[0]):
                raise LabError(f"{span} is not one commit after the other: see {name[:_SHOWN]}")
            before = name
        return lines[0][1], [self._commit(name) for name, _ in lines]

    def sources(self, commit: str, is_wanted: Callable[[str], bool]) -> dict[str, str]:
        """The wanted files at a commit, contents by path; odd bytes are surrogates."""
        found: dict[str, bytes] = {}
        for line in self.git("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
            kind, _, path = line.partition(b"\t")
            name = path.decode(errors="surrogateescape")
            if kind.startswith(_FILE) and is_wanted(name):
                found[name] = kind.split()[2]
        self._read(set(found.values()) - self._contents.keys())
        return {path: self._contents[blob] for path, blob in found.items()}

    def has(self, commit: str, path: str) -> bool:
        """Whether there is such a file at a commit."""
        return bool(self.git("ls-tree", "--full-tree", commit, "--", path))

    def _commit(self, name: str) -> Commit:
        words = self.git("show", "-s", "--no-color", "--no-show-signature", "--format=%s%x00%an <%ae>", name)
        title, _, author = words.decode(errors="replace").strip("\n").partition("\0")
        changed = self.git("diff-tree", "-r", "-z", "--no-commit-id", "--name-only", "--no-renames", name)
        paths = changed.decode(errors="surrogateescape").split("\0")
        return Commit(name, title, author, tuple(filter(None, paths)))

    def _read(self, blobs: Iterable[bytes]) -> None:
        wanted = sorted(blobs)
        rest = self.git("cat-file", "--batch", say=b"".join(blob + b"\n" for blob in wanted))
        for blob in wanted:
            header, _, rest = rest.partition(b"\n")
            size = int(header.split()[2])
            self._contents[blob] = rest[:size].decode(errors="surrogateescape")
            rest = rest[size + 1 :]

    def git(self, *words: str, say: bytes = b"") -> bytes:
        """What git prints. LabError when it fails."""
        command = ["git", "--no-pager", "-C", str(self._folder), *words]
        environment = {**os.environ, "LC_ALL": "C"}
        try:
            done = subprocess.run(command, input=say, capture_output=True, check=False, env=environment)
        except FileNotFoundError:
            raise LabError("there is no git on this machine: install git") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it failed without a word"]
            raise LabError(f"git {words[0]} in {self._folder}: {said[0]}")
        return done.stdout
