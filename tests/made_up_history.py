# SPDX-License-Identifier: GPL-2.0-or-later
"""A git history over a kernel's sources of KVM, made on the fly: thirty commits of our own wording, one of
which breaks the synchronization of TSCs and one of which mends it. Some do not build, some crash at boot.

    .venv/bin/python -m tests.made_up_history DIR [--kernel KERNEL] [--seed N]
"""

import argparse
import itertools
import os
import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness.lab import build, cache
from kvmharness.lab.build import user_tree

_X86 = "arch/x86/kvm/x86.c"
_SVM = "arch/x86/kvm/svm/svm.c"
_MAIN = "virt/kvm/kvm_main.c"

Sources = dict[str, str]


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one file: `old`, which stands in it once, becomes `new`; "" stands for the file's end."""

    path: str
    old: str
    new: str

    def done(self, sources: Mapping[str, str]) -> Sources:
        """The sources with it."""
        text = sources[self.path]
        if not self.old:
            return {**sources, self.path: text + self.new}
        assert text.count(self.old) == 1, f"{self.path} has {self.old!r} {text.count(self.old)} times"
        return {**sources, self.path: text.replace(self.old, self.new)}


def _behind(path: str, place: str, line: str) -> Edit:
    return Edit(path, place, place + line)


# What breaks the synchronization, by the name of what it does.
FAULTS = {
    "forgets-the-offset": Edit(
        _X86, "\t\tkvm->arch.cur_tsc_offset = offset;\n", "\t\t/* The offset stays. */\n"
    ),
    "counts-no-matches": Edit(
        _X86, "\t\tkvm->arch.nr_vcpus_matched_tsc++;\n", "\t\t/* Nobody counts them. */\n"
    ),
    "narrows-the-window": Edit(
        _X86,
        "synchronizing = data < tsc_exp + tsc_hz &&",
        "synchronizing = data < tsc_exp + tsc_hz / 1000 &&",
    ),
}
_UNBUILDABLE = (
    Edit(_X86, "", "static inline int history_sum(void)\n{\n\treturn history_one + 1;\n}\n"),
    Edit(_SVM, "", "static inline void history_open(void)\n{\n\tif (1) {\n}\n"),
    Edit(_MAIN, "", '#include "history_of_nothing.h"\n'),
    Edit(
        "arch/x86/kvm/lapic.c",
        "",
        "void history_nowhere(void);\nstatic void __used history_call(void)\n{\n\thistory_nowhere();\n}\n",
    ),
)
_SVM_INIT = "static int __init svm_init(void)\n{\n\tint r;\n"
DOES_NOT_LOAD = _behind(_SVM, _SVM_INIT, "\n\treturn -ENODEV;\n")
_CRASHING = (
    _behind(_SVM, _SVM_INIT, "\n\tBUG();\n"),
    _behind(
        _MAIN, "\tstruct kvm_cpu_compat_check c;\n\tint r;\n\tint cpu;\n", "\n\t*(volatile int *)8 = 1;\n"
    ),
    DOES_NOT_LOAD,
)
_HARMLESS_FILES = (
    *(_X86, _SVM, _MAIN, "virt/kvm/eventfd.c"),
    *(
        f"arch/x86/kvm/{name}.c"
        for name in ("cpuid", "i8254", "ioapic", "irq", "lapic", "mtrr", "pmu", "xen")
    ),
)
_HARMLESS = (
    "\n/* Change {number} of this history. */\n",
    "\nstatic inline int history_{number}(void)\n{{\n\treturn {number};\n}}\n",
    "\n#define HISTORY_{number} {number}\n",
)


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: its hash, and what it is: import, harmless, fault, fix, unbuildable, crashing or repair."""

    name: str
    kind: str


def sources_of(spec: str, folders: Sequence[str] = ("arch/x86/kvm", "virt/kvm")) -> Sources:
    """KVM's sources of a kernel, as the lab has them to build its modules."""
    on = build.ground(spec)
    with cache.locked(on.tree.place):
        paths = on.tree.originals(folders, user_tree.is_written)
        found = {path: on.tree.original(path) for path in paths}
    return {path: text for path, text in found.items() if text is not None}


def plan(seed: int) -> list[str]:
    """The kinds of thirty commits, in an order that the seed decides. Whatever does not build or boot is
    repaired before the fault and the fix, so that either can be told from the commit before it."""
    chance = random.Random(seed)
    pieces = [["unbuildable", "repair"]] * 3 + [["unbuildable", "harmless", "repair"]]
    pieces += [["crashing", "repair"]] * 2 + [["crashing", "harmless", "repair"]] + [["harmless"]] * 12
    chance.shuffle(pieces)
    third = len(pieces) // 3
    pieces.insert(chance.randint(third, 2 * third), ["fault"])
    pieces.insert(chance.randint(2 * third + 2, len(pieces) - 2), ["fix"])
    return list(itertools.chain.from_iterable(pieces))


def versions(sources: Sources, kinds: list[str], fault: str) -> Iterator[Sources]:
    """The sources after each commit of a plan."""
    breaking = {"unbuildable": itertools.cycle(_UNBUILDABLE), "crashing": itertools.cycle(_CRASHING)}
    files = itertools.cycle(_HARMLESS_FILES)
    broken = FAULTS[fault]
    undo: Edit | None = None
    for number, kind in enumerate(kinds):
        if kind in breaking:
            edit = next(breaking[kind])
            undo = edit
        elif kind == "repair":
            assert undo is not None
            edit = Edit(undo.path, undo.new, undo.old)
        elif kind == "fault":
            edit = broken
        elif kind == "fix":
            edit = Edit(broken.path, broken.new, broken.old)
        else:
            edit = Edit(next(files), "", _HARMLESS[number % len(_HARMLESS)].format(number=number))
        sources = edit.done(sources)
        yield sources


def make(folder: Path, sources: Sources, seed: int, fault: str) -> list[Commit]:
    """A repository of these sources and thirty commits; the same to the byte for the same seed and fault."""
    kinds = plan(seed)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commits: list[Commit] = []
    before: Sources = {}
    for kind, now in zip(["import", *kinds], [sources, *versions(sources, kinds, fault)], strict=True):
        for path, text in now.items():
            if before.get(path) != text:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(text.encode(errors="surrogateescape"))
        before = now
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", f"--message=Change {len(commits)}")
        commits.append(Commit(git(folder, "rev-parse", "HEAD").strip(), kind))
    return commits


def git(folder: Path, *words: str) -> str:
    """What git prints in a folder, of nobody's configuration and at one time."""
    who = {"NAME": "A. Developer", "EMAIL": "a@example.org", "DATE": "2026-01-01T00:00:00Z"}
    environment = {
        f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()
    }
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", folder, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"git {words[0]}: {done.stdout}{done.stderr}"
    return done.stdout


def main() -> None:
    """Make one, and list it."""
    parser = argparse.ArgumentParser(description="a git history with a fault in it, over a kernel's KVM")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kernel", default="debian:6.1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", choices=FAULTS, default=next(iter(FAULTS)))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    for commit in make(asked.folder, sources_of(asked.kernel), asked.seed, asked.fault):
        print(commit.name[:12], commit.kind)


if __name__ == "__main__":
    main()
