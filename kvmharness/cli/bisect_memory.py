# SPDX-License-Identifier: GPL-2.0-or-later
"""What a step of `git bisect run` knows from earlier steps: which failure makes a kernel bad, and what was
built."""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from kvmharness.cli.errors import UsageError
from kvmharness.judging import bisection
from kvmharness.judging.bisection import BAD, GOOD, SKIP, BisectAnswer
from kvmharness.judging.verdict import Result
from kvmharness.lab.bisection import Search, load, save
from kvmharness.lab.build import user_tree
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel, stored
from kvmharness.lab.patches.commits import Repository

Sources = dict[str, str]
_SHOWN = 12
# What makes two searches different ones.
_ASKED = (
    "kernel",
    "machine",
    "host",
    "on",
    "scenario",
    "scenario_file",
    "expect",
    "judge",
    "policy_file",
    "fix",
)


class Memory:
    """The findings of the search that a step belongs to, in a file."""

    def __init__(self, place: Path, asked: str, repository: Repository | None, search: Search | None) -> None:
        self._place = place
        self._repository = repository
        self._search = search
        self._findings = load(place, asked)

    @property
    def end_to_judge(self) -> str:
        """The commit at the end that fails, as long as it has to be judged; else ""."""
        if self._search is None or self._findings.failures or self._findings.end_was_judged:
            return ""
        return self._search.failing_end

    def sources(self, commit: str) -> Sources:
        """KVM's sources at a commit."""
        assert self._repository
        whole = self._repository.has(commit, "Kconfig")
        return self._repository.sources(commit, lambda path: user_tree.is_of_kvm(path, whole=whole))

    def note_end(
        self, found: BisectAnswer, results: Sequence[Result], modules: str, *, by_name: bool
    ) -> None:
        """Keep the failure at the end that fails. UsageError where nothing fails there."""
        end = self.end_to_judge
        if found.status == GOOD:
            raise UsageError(f"{end[:_SHOWN]}, which is marked as bad, does not fail: {found.reason}")
        self._findings.end_was_judged = True
        if found.status == BAD:
            self._findings.failures = bisection.failures(results, by_name=by_name)
            self._findings.modules[end] = modules
        save(self._place, self._findings)

    def judged(self, found: BisectAnswer, results: Sequence[Result], *, by_name: bool) -> BisectAnswer:
        """The answer, now that it is known which failure makes a kernel bad; the first, if none is known."""
        if found.status == BAD and not self._findings.failures:
            self._findings.failures = bisection.failures(results, by_name=by_name)
            save(self._place, self._findings)
            return replace(found, reason=f"{found.reason} (from here on this failure alone is bad)")
        return bisection.unless_another(found, results, self._findings.failures)

    def doubted(
        self, found: BisectAnswer, modules: str, kernel_of: Callable[[Sources], Kernel]
    ) -> BisectAnswer:
        """The answer, with a word if it makes a commit the culprit whose modules are its parent's.

        `modules` is the hash of this step's modules, `kernel_of` builds those of other sources.
        """
        if self._search is None or found.status == SKIP:
            return found
        known = self._findings.modules
        here = self._search.here
        known[here] = modules
        culprit = self._search.culprit(here, fails=found.status == BAD)
        parent = self._search.parent(culprit) if culprit else ""
        for commit in (culprit, parent) if parent else ():
            if commit not in known:
                known[commit] = self._modules(commit, kernel_of)
        save(self._place, self._findings)
        if not parent or known[culprit] != known[parent]:
            return found
        doubt = (
            f"DOUBTFUL: git will name {culprit[:_SHOWN]}, but its modules are its parent's, byte for byte: "
            "something else than this commit makes the difference"
        )
        return replace(found, reason=f"{found.reason}. {doubt}")

    def _modules(self, commit: str, kernel_of: Callable[[Sources], Kernel]) -> str:
        """A hash of a commit's modules; its own name where it does not build."""
        try:
            return stored.modules_hash(kernel_of(self.sources(commit)))
        except LabError:
            return commit


def recall(arguments: argparse.Namespace, tree: Path) -> Memory | None:
    """The memory of the search that a step in this tree belongs to; None where there is neither a search nor
    a file to keep it in."""
    try:
        repository = Repository(tree)
        search: Search | None = Search(repository, fix=arguments.fix)
    except LabError:
        repository, search = None, None
    end = search.failing_end if search else ""
    if not end:
        search = None
    place = arguments.failure or (search.place if search else None)
    if place is None:
        return None
    asked = [str(getattr(arguments, name)) for name in _ASKED] + ([] if arguments.failure else [end])
    return Memory(place, hashlib.sha256("\n".join(asked).encode()).hexdigest(), repository, search)
