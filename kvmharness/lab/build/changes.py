# SPDX-License-Identifier: GPL-2.0-or-later
"""The changes of a series, one patch or commit after the other, as what KVM's modules are built of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvmharness.lab.build import user_tree
from kvmharness.lab.build.modules import Contents, Ground, contents_of_patch, contents_of_sources
from kvmharness.lab.errors import LabError
from kvmharness.lab.patches import Patch
from kvmharness.lab.patches.commits import Commit, Repository
from kvmharness.lab.patches.series import is_script, is_source


@dataclass(frozen=True, slots=True)
class Change:
    """A patch or commit: its subject, its author, and where it is from (a Message-ID, a commit, a file).

    `left_out` are files that KVM's modules are not made of. One with a `fault` cannot be applied; one that
    `is_ours` changes something that the modules are made of. `applied` makes of the contents before it those
    with it, and may raise PatchRefusedError.
    """

    title: str
    author: str
    origin: str
    left_out: tuple[str, ...]
    is_ours: bool
    applied: Callable[[Contents], Contents] = field(repr=False, compare=False)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """A series: what the modules are built of without it, and the changes in their order."""

    before: Contents
    all: tuple[Change, ...]


def of_patches(on: Ground, patches: Sequence[tuple[Patch, str]]) -> Changes:
    """Patches with where each is from: they are applied to the kernel's own source."""
    return Changes({}, tuple(_of_patch(on, patch, origin) for patch, origin in patches))


def _of_patch(on: Ground, patch: Patch, origin: str) -> Change:
    return Change(
        *(patch.title, patch.author, origin, patch.passed_over, bool(patch.files)),
        applied=lambda contents: contents_of_patch(on, contents, patch),
        fault=patch.fault,
    )


def of_commits(on: Ground, folder: Path, span: str, *, build_scripts: bool) -> Changes:
    """A range A..B of a git tree's commits: KVM's sources there take the place of the kernel's.

    LabError where the range is none, where there is no KVM, and for a commit that changes what the build may
    execute, unless `build_scripts` allows it.
    """
    repository = Repository(folder)
    first, commits = repository.line(span)
    whole = repository.has(first, "Kconfig")

    def is_wanted(path: str) -> bool:
        return user_tree.is_of_kvm(path, whole=whole)

    def contents_at(name: str) -> Contents:
        return contents_of_sources(on, repository.sources(name, is_wanted))

    before = repository.sources(first, is_wanted)
    if not any(path.startswith("arch/x86/kvm/") for path in before):
        raise LabError(f"{folder} has no source of KVM: there is no arch/x86/kvm in its commits")
    for commit in commits if not build_scripts else ():
        scripts = [path for path in commit.paths if is_source(path) and is_script(path)]
        if scripts:
            raise LabError(
                f"commit {commit.short} changes {', '.join(scripts)}, which the build may execute: read it, "
                "and give --allow-build-scripts"
            )
    changes = (_of_commit(commit, is_wanted, contents_at) for commit in commits)
    return Changes(contents_of_sources(on, before), tuple(changes))


def _of_commit(
    commit: Commit, is_wanted: Callable[[str], bool], contents_at: Callable[[str], Contents]
) -> Change:
    return Change(
        *(commit.title, commit.author, f"commit {commit.short}"),
        left_out=tuple(path for path in commit.paths if not is_wanted(path)),
        is_ours=any(map(is_wanted, commit.paths)),
        applied=lambda contents: contents_at(commit.name),
    )
