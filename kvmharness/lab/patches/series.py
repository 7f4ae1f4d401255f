# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches, read out of diffs, mails and whole threads. Pure: bytes in, patches out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kvmharness.lab.patches import diffs, mails
from kvmharness.lab.patches.diffs import Diff, FileDiff

_NUMBER = re.compile(r"\[[^]]*\b(\d+)/\d+\]")
_REPLY = re.compile(r"(re|aw|antw)\s*:", re.IGNORECASE)
# What the modules are made of, and what changes nothing about them.
_SOURCES = ("arch/x86/kvm/", "arch/x86/include/", "include/", "virt/kvm/")
_COMPILED = (".c", ".h", ".S")
# Parts of a path that make and the shell take as they are.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_NO_SOURCES = ("Documentation/", "tools/", "MAINTAINERS")


class PatchError(Exception):
    """A file holds no patch, or none that can be taken. The text follows its name, in one line."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch of the mail number `mail`, whose subject is `title`; there it is `quoted` so many times.

    `passed_over` are files that the modules are not made of. One with a `fault` cannot be applied.
    `scripts` are files that the build executes. `author` and `message_id` are the mail's. `damage` is a fault
    that is of no file alone.
    """

    title: str
    files: tuple[FileDiff, ...]
    mail: int = 0
    quoted: int = 0
    passed_over: tuple[str, ...] = ()
    fault: str = ""
    scripts: tuple[str, ...] = ()
    author: str = ""
    message_id: str = ""
    damage: str = ""

    @property
    def is_reply(self) -> bool:
        """Whether its mail answers another."""
        return _REPLY.match(self.title) is not None


def read(data: bytes) -> list[Patch]:
    """The patches of a diff, a mail or a mailbox, in the order in which they stand there."""
    return [
        replace(_checked(diff, mail.subject, number), author=mail.author, message_id=mail.message_id)
        for number, mail in enumerate(mails.read(data))
        for diff in diffs.read(mail.text)
    ]


def choose(
    patches: Sequence[Patch], picks: Sequence[int] = (), *, build_scripts: bool = False
) -> list[Patch]:
    """The patches of one file that are to be applied, in order.

    They are those with the numbers `picks`, from 1; without any, the only patch there is, or the series:
    one patch a mail, in mails that answer none. PatchError when that does not say which, and for one that
    changes what the build executes, unless `build_scripts` allows it.
    """
    chosen = _chosen(patches, picks)
    for patch in chosen:
        if patch.fault:
            raise PatchError(_which(patch, patches) + patch.fault)
        if not build_scripts:
            _refuse_scripts(patch, patch.scripts, patches)
    return chosen


def choose_each(
    patches: Sequence[Patch], picks: Sequence[int] = (), *, build_scripts: bool = False
) -> list[Patch]:
    """The same for patches that are applied one by one: each as far as KVM's modules are made of its files.

    One that changes nothing of these has no files; what cannot be applied keeps its fault.
    """
    chosen = [(patch, _part_for_modules(patch)) for patch in _chosen(patches, picks)]
    for whole, part in chosen if not build_scripts else ():
        _refuse_scripts(whole, part.scripts, patches)
    return [part for _, part in chosen]


def _chosen(patches: Sequence[Patch], picks: Sequence[int]) -> list[Patch]:
    if not patches:
        raise PatchError("holds no patch")
    for pick in picks:
        if not 1 <= pick <= len(patches):
            raise PatchError(f"holds {len(patches)} of them, and none has the number {pick}")
    chosen = [patches[pick - 1] for pick in picks] or _series(patches)
    if not chosen:
        raise PatchError(f"holds {len(patches)} of them: choose with --pick N")
    return chosen


def _refuse_scripts(patch: Patch, scripts: Sequence[str], patches: Sequence[Patch]) -> None:
    if scripts:
        raise PatchError(
            f"{_which(patch, patches)}changes {', '.join(scripts)}, which the build may execute: read it, "
            "and give --allow-build-scripts"
        )


def _which(patch: Patch, patches: Sequence[Patch]) -> str:
    """Which of several it is, as words before what is said of it."""
    return f"patch {patches.index(patch) + 1} " if len(patches) > 1 else ""


def _part_for_modules(patch: Patch) -> Patch:
    """The patch without the files that KVM's modules are not made of, which it passes over."""
    ours = tuple(file for file in patch.files if is_source(file.path))
    others = tuple(file.path for file in patch.files if not is_source(file.path))
    faults = [patch.damage * bool(ours), *(file.fault or _fault(file) for file in ours)]
    scripts = tuple(path for path in patch.scripts if is_source(path))
    return replace(
        patch,
        files=ours,
        passed_over=(*patch.passed_over, *others),
        fault=next(filter(None, faults), ""),
        scripts=scripts,
    )


def is_source(path: str) -> bool:
    """Whether KVM's modules are made of files there."""
    return path.startswith(_SOURCES) and not path.endswith("/Kconfig")


def is_script(path: str) -> bool:
    """Whether the build may execute what stands in that file: no compiler or assembler reads it."""
    return not path.endswith(_COMPILED)


def _series(patches: Sequence[Patch]) -> list[Patch]:
    if len(patches) == 1:
        return list(patches)
    own = [patch for patch in patches if not patch.quoted]
    series = [patch for patch in own if not patch.is_reply]
    numbers = [_NUMBER.search(patch.title) for patch in series]
    order = [int(match[1]) if match else 0 for match in numbers]
    of_series = {patch.mail for patch in series}
    one_a_mail = len(of_series) == sum(patch.mail in of_series for patch in patches)
    twice = any(order) and len(set(order)) < len(order)  # two versions of a series, say
    if len(own) != len(series) or not one_a_mail or twice:
        return []
    return [series[place] for place in sorted(range(len(series)), key=order.__getitem__)]


def _checked(diff: Diff, title: str, mail: int) -> Patch:
    kept = [file for file in diff.files if not file.path.startswith(_NO_SOURCES)]
    over = tuple(file.path for file in diff.files if file.path.startswith(_NO_SOURCES))
    faults = [diff.fault, *(_fault(file) for file in kept)]
    fault = next(filter(None, faults), "")
    if not kept and not fault:
        fault = f"changes only {', '.join(over)}: KVM's modules are not made of that"
    # What a compiler or an assembler reads; make and the shell may do anything with the rest.
    scripts = tuple(file.path for file in kept if is_script(file.path))
    damage = diff.fault if diff.fault not in [file.fault for file in diff.files] else ""
    return Patch(title, tuple(kept), mail, diff.quoted, over, fault, scripts, damage=damage)


def _fault(file: FileDiff) -> str:
    parts = file.path.split("/")
    if not file.path.startswith(_SOURCES) or not all(map(_PLAIN_NAME.fullmatch, parts)):
        return f"changes {file.path}: KVM's modules are not made of that"
    if parts[-1] == "Kconfig":
        return f"changes {file.path}: the kernel's configuration is fixed"
    return "" if file.hunks else f"does not say what it changes in {file.path}"
