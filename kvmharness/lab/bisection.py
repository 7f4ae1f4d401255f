# SPDX-License-Identifier: GPL-2.0-or-later
"""A search of `git bisect` that is under way: its ends, what is left of it, and what earlier steps found.

What steps found is kept in a file in the git folder, which git's own bisection keeps its state in too.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvmharness.files import write_whole
from kvmharness.judging.bisection import Failure
from kvmharness.lab.errors import LabError
from kvmharness.lab.patches.commits import Repository

# The file's name in the git folder.
NAME = "kvmharness-bisect.json"
_SCHEMA = 1
_MARK = re.compile(r"# (\S+): \[([0-9a-f]{40,64})\]")


@dataclass(slots=True)
class Findings:
    """What the steps of a search found: the `failures` that make a kernel bad, those of the end that fails
    once it `end_was_judged`; and a hash of the modules of each commit that was built."""

    search: str
    end_was_judged: bool = False
    failures: list[Failure] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)


class Search:
    """A search in a repository. `fix` says that it is for the commit that mended something."""

    def __init__(self, repository: Repository, *, fix: bool = False) -> None:
        self._repository = repository
        self._folder = _git_folder(repository)
        terms = (_text(self._folder / "BISECT_TERMS") or "bad\ngood\n").split()
        self._new, self._old = terms[:2]
        self._failing = self._old if fix else self._new

    @property
    def place(self) -> Path:
        """Where its findings are kept."""
        return self._folder / NAME

    @property
    def failing_end(self) -> str:
        """The commit that was marked first as one that fails; "" where no search is under way."""
        marks = _MARK.findall(_text(self._folder / "BISECT_LOG"))
        return next((name for term, name in marks if term == self._failing), "")

    @property
    def here(self) -> str:
        """The commit that is checked out."""
        return self._repository.git("rev-parse", "HEAD").decode().strip()

    def culprit(self, here: str, *, fails: bool) -> str:
        """The commit that git will name once `here` is marked; "" as long as that is not clear."""
        is_new = fails is (self._failing == self._new)
        new = here if is_new else f"refs/bisect/{self._new}"
        old = self._refs(f"{self._old}-") | (set() if is_new else {here})
        listed = self._repository.git("rev-list", new, "--not", *sorted(old)).decode().split()
        return listed[0] if len(listed) == 1 else ""

    def parent(self, commit: str) -> str:
        """A commit's only parent; "" where it has none or several."""
        parents = self._repository.git("rev-list", "--parents", "-n1", commit).decode().split()[1:]
        return parents[0] if len(parents) == 1 else ""

    def _refs(self, begins: str) -> set[str]:
        """The commits that are marked so."""
        listed = self._repository.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/bisect")
        marked = (line.split() for line in listed.decode().splitlines())
        return {name for ref, name in marked if ref.startswith(f"refs/bisect/{begins}")}


def load(place: Path, search: str) -> Findings:
    """The findings of that search; none yet, where the file is of another. LabError where it is damaged."""
    text = _text(place)
    try:
        data: Mapping[str, Any] = json.loads(text or "{}")
        if data.get("schema") != _SCHEMA or data["search"] != search:
            return Findings(search)
        failures = [Failure.from_json(each) for each in data["failures"]]
        return Findings(search, bool(data["end_was_judged"]), failures, {**data["modules"]})
    except (ValueError, TypeError, KeyError, AttributeError):
        raise LabError(f"{place} was damaged: remove it and try again") from None


def save(place: Path, findings: Findings) -> None:
    """Keep them. LabError where that is not possible."""
    data = {
        "schema": _SCHEMA,
        "search": findings.search,
        "end_was_judged": findings.end_was_judged,
        "failures": [each.to_json() for each in findings.failures],
        "modules": findings.modules,
    }
    try:
        write_whole(place, json.dumps(data, indent=1).encode())
    except OSError as error:
        raise LabError(f"cannot write {place}: {error.strerror}") from None


def _git_folder(repository: Repository) -> Path:
    return Path(repository.git("rev-parse", "--absolute-git-dir").decode().rstrip("\n"))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from None
