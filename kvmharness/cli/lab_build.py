# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab build: only KVM's modules of a kernel, with a patch."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvmharness.cli import options
from kvmharness.cli.errors import NOTHING_FAILED, UsageError
from kvmharness.lab import build, patches
from kvmharness.lab.build.make import CompileError
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.patches import Patch, PatchError
from kvmharness.lab.patches.apply import RefusedError
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


def add_parser(lab_commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = lab_commands.add_parser(
        "build", help="build KVM's modules of a kernel with a patch; the result is a kernel for `lab run`"
    )
    add_kernel_and_patches(parser)
    parser.add_argument("--list", action="store_true", help="list the patches in the files; build nothing")
    parser.set_defaults(run=run)


def add_kernel_and_patches(parser: argparse.ArgumentParser) -> None:
    """KERNEL and the options that say what is built."""
    parser.add_argument(
        "kernel", metavar="KERNEL", help="debian:VERSION (such as debian:6.1), or a built tree"
    )
    parser.add_argument(
        "--patch",
        action="append",
        default=[],
        metavar="FILE",
        required=True,
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
        "--name", metavar="NAME", help="call the kernel built:NAME (default: a name made of the files' names)"
    )
    parser.add_argument(
        "--offline", action="store_true", help="use only what is in the cache; download nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Build, and print the name of the kernel that came of it."""
    if arguments.list:
        for file, found in _read_patches(arguments):
            _list(file, found)
        return NOTHING_FAILED
    print(build_kernel(arguments).spec)
    return NOTHING_FAILED


def build_kernel(arguments: argparse.Namespace) -> Kernel:
    """Build what the options ask for. What is to be said of it goes to stderr."""
    files = _read_patches(arguments)
    chosen = _chosen(arguments, files)
    name = arguments.name or _default_name(arguments)
    try:
        built = build.build(arguments.kernel, chosen, name, arguments.offline)
    except RefusedError as refused:
        _tell(refused.details)
        raise LabError(f"{arguments.kernel}: {refused}: nothing was built") from None
    except CompileError as error:
        _tell(error.details)
        raise LabError(str(error)) from None
    for path in (path for patch in chosen for path in patch.passed_over):
        options.complain(f"kvmharness: ignored: {path}, which is no source of KVM's modules")
    for doubt in built.doubts:
        options.complain(f"kvmharness: warning: {doubt}")
    _tell(built.applied)
    return built.kernel


def called(arguments: argparse.Namespace) -> list[str]:
    """What is applied, in words: each file, and what was picked of it."""
    said = []
    for number, file in enumerate(arguments.patch):
        picked = ", ".join(map(str, picks(arguments, number)))
        said.append(_called(file) + (f", patch {picked}" if picked else ""))
    return said


def _read_patches(arguments: argparse.Namespace) -> list[tuple[str, list[Patch]]]:
    """Each file that --patch names, and the patches in it. UsageError for one that cannot be read."""
    if arguments.patch.count(_STDIN) > 1:
        raise UsageError("--patch - can be given only once: stdin can be read only once")
    return [(file, patches.read(_read(file))) for file in arguments.patch]


def _chosen(arguments: argparse.Namespace, files: Sequence[tuple[str, list[Patch]]]) -> list[Patch]:
    """The patches to apply, in order. UsageError, with a file's patches listed, if it is not clear."""
    chosen: list[Patch] = []
    for number, (file, found) in enumerate(files):
        try:
            chosen += patches.choose(found, picks(arguments, number))
        except PatchError as error:
            if len(found) > 1:
                _list(file, found, sys.stderr)
            raise UsageError(f"{_called(file)} {error}") from None
    return chosen


def _default_name(arguments: argparse.Namespace) -> str:
    """A kernel's name made of its spec and its patches': debian-6.1+thread-2."""
    words = [Path(arguments.kernel).name]
    for number, file in enumerate(arguments.patch):
        picked = "".join(f"-{pick}" for pick in picks(arguments, number))
        words.append(("stdin" if file == _STDIN else Path(file).stem) + picked)
    return "+".join(re.sub(r"[^A-Za-z0-9._~]+", "-", word).strip("-") or "patch" for word in words)


def picks(arguments: argparse.Namespace, number: int) -> list[int]:
    """The patches picked of the file that is number `number`, from 0."""
    return [pick for of_file, pick in arguments.pick if of_file == number]


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == _STDIN else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def _called(file: str) -> str:
    return "stdin" if file == _STDIN else file


def _list(file: str, found: Sequence[Patch], where: Any = None) -> None:
    """A line for each patch of a file: its number, how often it is quoted, what it changes, its mail."""
    if len(found) == 0:
        print(printable(f"{_called(file)} holds no patch"), file=where)
    for number, patch in enumerate(found, 1):
        quoted = f", quoted {patch.quoted}x" if patch.quoted else ""
        paths = ", ".join(diff.path for diff in patch.files) or "-"
        line = f"{_called(file)} {number}{quoted}: {paths}  {patch.title}"
        print(printable(line).rstrip(), file=where)
        if patch.fault:
            print(printable(f"    it {patch.fault}"), file=where)


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        options.complain(line)
