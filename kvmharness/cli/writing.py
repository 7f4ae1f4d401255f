# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands write: reports and traces, to a file or to stdout, and what is wrong to stderr."""

import argparse
import errno
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from kvmharness.cli import about
from kvmharness.cli.errors import UsageError
from kvmharness.files import write_whole
from kvmharness.judging import saved
from kvmharness.judging.session import Session
from kvmharness.lab.kernels import Kernel
from kvmharness.printable import printable
from kvmharness.report import Report, colour, render

# What a command was to write and could not, though it was told that it can. Its exit status is not 0 then.
unwritten: list[Path] = []


def check_places(output: Path | None, save_traces: Path | None) -> None:
    """UsageError unless report and traces can be written, before anything is measured."""
    if output is not None:
        _check_place(output)
    if save_traces is not None:
        try:
            save_traces.mkdir(parents=True, exist_ok=True)
            _try_to_write(save_traces)
        except OSError as error:
            raise UsageError(f"cannot write to {save_traces}: {error.strerror}") from None


def _check_place(output: Path) -> None:
    """UsageError, saying why, where this is no file that can be written."""
    try:
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not output.exists():
            _try_to_write(output.parent)
        elif not os.access(output, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UsageError(f"cannot write to {output}: {error.strerror}") from None


def _try_to_write(folder: Path) -> None:
    """OSError where no file can be written in a folder, for want of room too."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")


def write_report(report: Report, arguments: argparse.Namespace, kernels: Iterable[Kernel] = ()) -> None:
    """Write the report as --format, --output and -v say (see write_text()). `kernels` are the lab's."""
    if arguments.format not in ("text", "ktap"):
        machines = [each.machine for each in report.kernels]
        run = about.of(arguments, machines, kernels)
        report = replace(report, about=run, kcidb_build=arguments.kcidb_build or "")
    verbose = getattr(arguments, "verbosity", 0) > 0
    text = render(report, arguments.format, verbose=verbose)
    write_text(text, arguments.output, for_people=arguments.format == "text")


def write_text(text: str, output: Path | None, *, for_people: bool = True) -> None:
    """Write a text there, or to stdout: also where `output` has become unwritable, so that nothing is lost.

    On a terminal the verdicts of what is `for_people` are coloured.
    """
    if output is not None:
        try:
            # A link stays one, and what an earlier run left there stays until this is there as a whole.
            write_whole(output.resolve(), text.encode())
            return
        except OSError as error:
            unwritten.append(output)
            complain(f"kvmharness: cannot write to {output}: {error.strerror}; the report follows on stdout")
    sys.stdout.write(colour.verdicts(text) if for_people and colour.is_wanted() else text)
    sys.stdout.flush()


def save_sessions(
    scenarios: Iterable[str], sessions: Sequence[Session], kernel: str, machine: str, folder: Path | None
) -> None:
    """Write what was played of each scenario to `folder`, a file each (see `saved`)."""
    for name in scenarios if folder is not None else ():
        path = Path(folder or "") / saved.file_name(kernel, machine, name)
        try:
            write_whole(path, "".join(f"{line}\n" for line in saved.lines(name, sessions)).encode())
        except OSError as error:
            unwritten.append(path)
            complain(f"kvmharness: cannot write to {path}: {error.strerror}")


def complain(line: str) -> None:
    """A line on stderr, made printable; where nobody reads that any more, the exit status has to say it."""
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
