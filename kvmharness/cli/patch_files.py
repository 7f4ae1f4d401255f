# SPDX-License-Identifier: GPL-2.0-or-later
"""The patches that a command is given: in files, on stdin, or kept in the cache by an earlier run."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmharness.cli.errors import UsageError
from kvmharness.lab import patches
from kvmharness.lab.patches import Patch, PatchError, kept
from kvmharness.printable import printable

_STDIN = "-"


class _Picks(argparse.Action):
    """--pick N belongs to the --patch before it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Note it beside the number of that --patch."""
        if not namespace.patch:
            parser.error("--pick N must follow the --patch FILE it picks from")
        namespace.pick = [*namespace.pick, (len(namespace.patch) - 1, values)]


def add_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """--patch, --pick and --allow-build-scripts."""
    parser.add_argument(
        "--patch",
        action="append",
        default=[],
        metavar="FILE",
        required=required,
        help="a diff, a mail or a mailbox; - is stdin (can be repeated: applied in this order)",
    )
    parser.add_argument(
        "--pick",
        action=_Picks,
        type=int,
        default=[],
        metavar="N",
        help="apply patch N of the --patch FILE before it (can be repeated)",
    )
    parser.add_argument(
        "--allow-build-scripts",
        action="store_true",
        help="apply also what the build executes, such as a Makefile: then the patch's author may run any "
        "command as you",
    )


@dataclass(frozen=True, slots=True)
class PatchFile:
    """A file that --patch names: its content, the patches in it, and which of them are picked, from 1."""

    file: str
    data: bytes
    found: tuple[Patch, ...]
    picks: tuple[int, ...]

    @property
    def called(self) -> str:
        """How it is called in messages."""
        return "stdin" if self.file == _STDIN else self.file

    @property
    def short_name(self) -> str:
        """A short name, with what is picked: thread-2."""
        stem = self.called if self.file == _STDIN else Path(self.file.removeprefix(kept.PREFIX)).stem
        return stem + "".join(f"-{pick}" for pick in self.picks)

    def chosen(self, *, build_scripts: bool) -> list[Patch]:
        """The patches to apply, in order. UsageError, with all patches listed, if it is not clear."""
        return self._chosen(patches.choose, build_scripts=build_scripts)

    def chosen_each(self, *, build_scripts: bool) -> list[tuple[Patch, str]]:
        """The patches to apply one by one, as patches.choose_each() has them, with where each is from."""
        chosen = self._chosen(patches.choose_each, build_scripts=build_scripts)
        mails = [each.mail for each in self.found]
        return [(patch, self._origin(patch, mails.index(patch.mail) + 1)) for patch in chosen]

    def _chosen(self, choose: Callable[..., list[Patch]], *, build_scripts: bool) -> list[Patch]:
        try:
            return choose(self.found, self.picks, build_scripts=build_scripts)
        except PatchError as error:
            if len(self.found) > 1:
                self.show(sys.stderr)
            raise UsageError(f"{self.called} {error}") from None

    def show(self, where: Any = None) -> None:
        """A line for each patch: its number, how often it is quoted, what it changes, its mail."""
        if not self.found:
            print(printable(f"{self.called} holds no patch"), file=where)
        for number, patch in enumerate(self.found, 1):
            quoted = f", quoted {patch.quoted}x" if patch.quoted else ""
            paths = ", ".join(diff.path for diff in patch.files) or "-"
            line = f"{self.called} {number}{quoted}: {paths}  {patch.title}"
            print(printable(line).rstrip(), file=where)
            if patch.fault:
                print(printable(f"    it {patch.fault}"), file=where)

    def described(self, chosen: Sequence[Patch]) -> list[str]:
        """The chosen patches for readers elsewhere: subject, author and Message-ID, or else the file and its
        hash."""
        said = []
        for patch in chosen:
            where = self._origin(patch, self.found.index(patch) + 1)
            who = f"{'quoted by ' * bool(patch.quoted)}{patch.author}, " if patch.author else ""
            said.append(f"{patch.title or self.called} ({who}{where})")
        return said

    def _origin(self, patch: Patch, number: int) -> str:
        """Where a patch is from: its Message-ID, or else the file's hash."""
        if patch.message_id:
            return f"<{patch.message_id}>"
        which = f", patch {number}" if len(self.found) > 1 else ""
        return f"sha256 {kept.digest(self.data)}{which}"


def read(arguments: argparse.Namespace) -> list[PatchFile]:
    """What --patch names. UsageError for a file that cannot be read."""
    if arguments.patch.count(_STDIN) > 1:
        raise UsageError("--patch - can be given only once: stdin can be read only once")
    files = []
    for number, file in enumerate(arguments.patch):
        data = _content(file)
        picks = tuple(pick for of_file, pick in arguments.pick if of_file == number)
        files.append(PatchFile(file, data, tuple(patches.read(data)), picks))
    return files


def _content(file: str) -> bytes:
    if file.startswith(kept.PREFIX):
        return kept.load(file)
    try:
        return sys.stdin.buffer.read() if file == _STDIN else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
