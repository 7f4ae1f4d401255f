# SPDX-License-Identifier: GPL-2.0-or-later
"""A run of the kernel's make: what it is kept from, its log, and what went wrong in it."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvmharness.lab import cpus, distribution
from kvmharness.lab.errors import LabError

# How many errors of the compiler are shown; the log has all.
_SHOWN = 5
# What the environment of a make above us, or of a kernel developer, would change about the build.
_NOT_OURS = re.compile(
    r"MAKE|MFLAGS|KBUILD|KC|KAFLAGS|KCPP|ARCH$|CROSS_COMPILE|LLVM|CC$|HOSTCC|M$|O$|V$|W$|INSTALL"
)
_ERROR = re.compile(r"(?P<where>[\w./+-]+:\d+)(:\d+)?: (fatal )?error: (?P<what>.*)")
# Errors of others than the compiler, from what is plainest to what only comes of them.
_OTHERS = (
    re.compile(r".*error: unrecognized command-line option.*"),
    re.compile(r"ERROR: .*"),
    re.compile(r".*: (command )?not found|(\S*-)?ld(\.bfd)?: .*"),
    re.compile(r"make.*\*\*\* (?!Deleting|Waiting).*"),
)


class CompileError(LabError):
    """Make failed. `first` is the first error alone; `details` are the compiler's other first errors, each
    with its line of source."""

    def __init__(self, summary: str, details: Sequence[str], first: str) -> None:
        super().__init__(summary)
        self.details = tuple(details)
        self.first = first


def check_programs(others: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None) -> None:
    """LabError when a program that any build needs, one of these others, or a header is not there. It names
    the one command that installs all that is missing.

    `others` and `headers` are Debian's packages by the programs, and the headers, in them.
    """
    packages = {"make": "make", "gcc": "gcc", "ld": "binutils", "setpriv": "util-linux", **(others or {})}
    missing = {name: packages[name] for name in packages if shutil.which(name) is None}
    # Without a compiler nothing tells which headers there are: each that is there is installed already.
    missing |= {name: package for name, package in (headers or {}).items() if not _has_header(name)}
    if missing:
        lacking = distribution.install(*missing.values())
        raise LabError(f"there is no {' and no '.join(missing)} on this machine to build with: {lacking}")


def _has_header(name: str) -> bool:
    """Whether the compiler finds a header; not, where there is no compiler."""
    if shutil.which("gcc") is None:
        return False
    command = ["gcc", "-E", "-xc", "-"]
    text = f"#include <{name}>\n".encode()
    return not subprocess.run(command, input=text, capture_output=True, check=False).returncode


def run(failed: str, folder: Path, arguments: Sequence[str], log: Path, mind: Sequence[str] = ()) -> None:
    """Run make in a folder, with as many jobs as this process may use CPUs; all it says goes to `log`.

    CompileError when it fails: `failed` in words, the first error, and `mind`, which may have to do with it.
    """
    command = ["setpriv", "--pdeathsig", "TERM", "--", "make", "-C", str(folder)]
    command += [f"-j{cpus.usable()}", *arguments]
    environment = {name: value for name, value in os.environ.items() if not _NOT_OURS.match(name)}
    with (
        log.open("wb") as said,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**environment, "LC_ALL": "C"},
            start_new_session=True,
        ) as make,
    ):
        try:
            status = make.wait()
        except BaseException:
            make.terminate()
            raise
    if status:
        errors = complaints(log.read_text(errors="replace"))
        also = "".join(f"; {doubt}" for doubt in mind)
        summary = f"{failed}: {errors[0]}{also} (the whole log: {log})"
        raise CompileError(summary, errors[1:], errors[0])


def complaints(log: str) -> list[str]:
    """What went wrong in a log of make's: the compiler's first errors, each with its line of source after
    it, and how many more there are; where the compiler has none, the plainest of what the others said."""
    lines = log.splitlines()
    found = [at for at, line in enumerate(lines) if _ERROR.match(line)]
    if not found:
        by_kind = ([line for line in lines if each.fullmatch(line)] for each in _OTHERS)
        return next((kind[:_SHOWN] for kind in by_kind if kind), lines[-1:] or ["make failed without a word"])
    shown = []
    for at in found[:_SHOWN]:
        error = _ERROR.match(lines[at])
        shown.append(f"{error['where']}: {error['what']}" if error else lines[at])
        if re.match(r" +\d+ \|", lines[at + 1] if at + 1 < len(lines) else ""):
            shown.append(f"    {lines[at + 1].partition('|')[2].strip()}")
    more = len(found) - _SHOWN
    return shown + ([f"and {more} more"] if more > 0 else [])
