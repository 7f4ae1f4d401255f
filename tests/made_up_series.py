# SPDX-License-Identifier: GPL-2.0-or-later
"""Series of patches of our own making, as a mailbox and as commits of a git tree."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.made_up_history import FAULTS, Edit, Sources, git
from tests.made_up_mails import mail, mailbox

_X86 = "arch/x86/kvm/x86.c"
_HOST = "arch/x86/include/asm/kvm_host.h"
_BROKEN = FAULTS["forgets-the-offset"]
_GROUP = "\tif (attr.group != KVM_VCPU_TSC_CTRL)\n"
_NO_GROUP = "\tif (attr.group != KVM_VCPU_TSC_CTRL || attr.attr == KVM_VCPU_TSC_OFFSET)\n"
_UNBUILDABLE = "static inline int series_sum(void)\n{\n\treturn series_one + 1;\n}\n"


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch: its subject, and the edits that it makes. A file that is not there is made."""

    title: str
    edits: tuple[Edit, ...]


# Ten patches to the KVM of 6.1.
TEN = (
    Patch(
        "Documentation: KVM: Say what a generation is",
        (
            Edit("Documentation/virt/kvm/generation.rst", "", "A generation is vCPUs with one offset.\n"),
            Edit("tools/testing/selftests/kvm/generation.txt", "", "Nothing is tested yet.\n"),
        ),
    ),
    Patch("KVM: x86: Say where the file ends", (Edit(_X86, "", "\n/* Here the file ends. */\n"),)),
    Patch("KVM: x86: Name a number", (Edit(_X86, "", "\n#define SERIES_NUMBER 3\n"),)),
    Patch("KVM: x86: Offer no TSC offset attribute", (Edit(_X86, _GROUP, _NO_GROUP),)),
    Patch("KVM: x86: Add what is not there", (Edit(_X86, "", _UNBUILDABLE),)),
    Patch(
        "KVM: x86: Add what was not there",
        (Edit(_X86, _UNBUILDABLE, _UNBUILDABLE.replace("series_one", "SERIES_NUMBER")),),
    ),
    Patch("KVM: x86: Forget the offset", (_BROKEN,)),
    Patch("KVM: x86: Remember the offset", (Edit(_BROKEN.path, _BROKEN.new, _BROKEN.old),)),
    Patch("KVM: x86: Offer the TSC offset attribute", (Edit(_X86, _NO_GROUP, _GROUP),)),
    Patch(
        "KVM: x86: Synchronize only once userspace has written",
        (
            Edit(
                _HOST,
                "\tint nr_vcpus_matched_tsc;\n",
                "\tint nr_vcpus_matched_tsc;\n\tbool user_wrote_tsc;\n",
            ),
            Edit(
                _X86,
                "\t\t\tsynchronizing = true;\n\t\t} else {\n",
                "\t\t\tsynchronizing = true;\n\t\t} else if (kvm->arch.user_wrote_tsc) {\n",
            ),
            Edit(
                _X86,
                "\t\tif (msr_info->host_initiated) {\n\t\t\tkvm_synchronize_tsc(vcpu, data);\n",
                "\t\tif (msr_info->host_initiated) {\n\t\t\tkvm_synchronize_tsc(vcpu, data);\n"
                "\t\t\tvcpu->kvm->arch.user_wrote_tsc = true;\n",
            ),
        ),
    ),
)


def versions(sources: Sources, patches: Sequence[Patch]) -> Iterator[tuple[Patch, Sources]]:
    """Each patch, and the sources with it and all before it."""
    for patch in patches:
        for edit in patch.edits:
            there = edit.path in sources
            sources = edit.done(sources) if there else {**sources, edit.path: edit.new}
        yield patch, sources


def as_mailbox(sources: Sources, patches: Sequence[Patch]) -> str:
    """The patches as mails, a cover letter before them."""
    count = len(patches)
    mails = [mail("What it is about.\n", f"[PATCH 0/{count}] A series", Message_ID="<0@example.org>")]
    before = sources
    for number, (patch, now) in enumerate(versions(sources, patches), 1):
        changed = [path for path in now if now[path] != before.get(path)]
        diff = "".join(_diff(path, before.get(path), now[path]) for path in changed)
        subject = f"[PATCH {number}/{count}] {patch.title}"
        mails.append(mail(f"{patch.title}.\n---\n{diff}", subject, Message_ID=f"<{number}@example.org>"))
        before = now
    return mailbox(*mails)


def _diff(path: str, before: str | None, now: str) -> str:
    old = "/dev/null" if before is None else f"a/{path}"
    lines = (before or "").splitlines(keepends=True), now.splitlines(keepends=True)
    # As many lines around a change as make it clear where it belongs.
    return "".join(difflib.unified_diff(*lines, old, f"b/{path}", n=6))


def as_commits(folder: Path, sources: Sources, patches: Sequence[Patch]) -> list[str]:
    """A repository with these sources, and a commit for each patch; their hashes, the import's first."""
    folder.mkdir(exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    names = []
    for title, now in [("Import", sources), *((each.title, now) for each, now in versions(sources, patches))]:
        for path, text in now.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(text.encode(errors="surrogateescape"))
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", f"--message={title}")
        names.append(git(folder, "rev-parse", "HEAD").strip())
    return names
