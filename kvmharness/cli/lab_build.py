# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab build: only KVM's modules of a kernel, with a patch."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from kvmharness.cli import lab_options, patch_files, writing
from kvmharness.cli.errors import NOTHING_FAILED
from kvmharness.cli.patch_files import PatchFile
from kvmharness.lab import build
from kvmharness.lab.build.make import CompileError
from kvmharness.lab.build.modules import Built
from kvmharness.lab.errors import LabError
from kvmharness.lab.patches.apply import PatchRefusedError


def add_parser(lab_commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = lab_commands.add_parser(
        "build", help="build KVM's modules of a kernel with a patch; the result is a kernel for `lab run`"
    )
    add_kernel_and_patches(parser)
    parser.add_argument("--list", action="store_true", help="list the patches in the files; build nothing")
    parser.set_defaults(run=run)


def add_kernel_and_patches(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """KERNEL and the options that say what is built; whether a patch is `required`."""
    parser.add_argument(
        "kernel",
        metavar="KERNEL",
        help="debian:VERSION (such as debian:6.1, or debian:6.1:amd64 for the flavour of physical machines), "
        "host (this machine's kernel), or a built tree",
    )
    patch_files.add_options(parser, required=required)
    parser.add_argument(
        "--name", metavar="NAME", help="call the kernel built:NAME (default: a name made of the files' names)"
    )
    lab_options.add_offline(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build, and print the name of the kernel that came of it."""
    files = patch_files.read(arguments)
    if arguments.list:
        for each in files:
            each.show()
        return NOTHING_FAILED
    print(build_kernel(arguments, files).kernel.spec)
    return NOTHING_FAILED


def build_kernel(arguments: argparse.Namespace, files: Sequence[PatchFile]) -> Built:
    """Build what the options ask for. What is to be said of it goes to stderr."""
    chosen = [patch for each in files for patch in each.chosen(build_scripts=arguments.allow_build_scripts)]
    name = arguments.name or default_name(arguments.kernel, [each.short_name for each in files])
    try:
        built = build.build(arguments.kernel, chosen, name, arguments.offline)
    except PatchRefusedError as refused:
        _tell(refused.details)
        raise LabError(f"{arguments.kernel}: {refused}: nothing was built") from None
    except CompileError as error:
        _tell(error.details)
        raise LabError(str(error)) from None
    for path in (path for patch in chosen for path in patch.passed_over):
        writing.complain(f"kvmharness: ignored: {path}, which is no source of KVM's modules")
    for doubt in built.doubts:
        writing.complain(f"kvmharness: warning: {doubt}")
    _tell(built.applied)
    return built


def default_name(kernel: str, patches: Sequence[str]) -> str:
    """A kernel's name made of its spec and what its patches are called: debian-6.1+thread-2."""
    words = [Path(kernel).name, *patches]
    return "+".join(re.sub(r"[^A-Za-z0-9._~]+", "-", word).strip("-") or "patch" for word in words)


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        writing.complain(line)
