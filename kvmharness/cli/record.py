# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness record: what a VMM does to the time of its guests, from outside, as a file to replay."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from kvmharness.cli import writing
from kvmharness.cli.errors import BAD_INPUT, NOTHING_FAILED, UsageError
from kvmharness.printable import printable

DEFAULT = Path("recording.jsonl")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "record",
        help="record what a VMM does to its guests' time",
        usage="%(prog)s [-h] [-v] [--output FILE] [--note TEXT] [--with-command] "
        "(COMMAND... | --pid PROCESS)",
        description="Record every KVM ioctl of a VMM that concerns time or the life of a vCPU, to replay "
        "it on any kernel. Needs no root. The exit status is the command's.",
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help=f"write the recording to FILE (default: a new {DEFAULT})"
    )
    parser.add_argument(
        "--pid", metavar="PROCESS", help="record a process that runs, by number or name, until Ctrl-C"
    )
    parser.add_argument("--note", metavar="TEXT", default="", help="a line about it, for the file's head")
    parser.add_argument(
        "--with-command",
        action="store_true",
        help="keep the whole command line in the file, paths and all (default: the program's name)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the VMM with its arguments")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Record; the exit status of the command."""
    # Here, so that a checkout whose extension is not yet compiled can do all else.
    from kvmharness.recording import processes, tracer  # noqa: PLC0415

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if bool(command) == (arguments.pid is not None):
        raise UsageError("record: give a command, or --pid with the process to record")
    output = arguments.output or DEFAULT
    if arguments.output is None and output.exists():
        raise UsageError(f"there is a {output} already: say --output FILE")
    writing.check_places(output, None)
    try:
        pid = processes.find(arguments.pid) if arguments.pid is not None else 0
        name = processes.name_of(pid) if pid else Path(command[0]).name
        head: dict[str, Any] = {"vmm": name} | ({"note": arguments.note} if arguments.note else {})
        if arguments.with_command and command:
            head["command"] = shlex.join(command)
        show = _Line(name, shown=sys.stderr.isatty() and (bool(pid) or not sys.stdout.isatty()))
        if pid:
            done = tracer.record_process(pid, output, show.watch, head)
        else:
            done = tracer.record_command(command, output, show.watch, head)
    except tracer.RecordError as error:
        raise UsageError(str(error)) from None
    show.erase()
    if done.unwritten:
        writing.complain(f"kvmharness: {output} is not whole: {done.unwritten}")
    progress = done.progress
    writing.complain(
        f"kvmharness: recorded {progress.ioctls} ioctls of {progress.vms} VMs with {progress.vcpus} vCPUs "
        f"in {output}: `kvmharness recording {shlex.quote(str(output))}` shows them"
    )
    if done.unwritten:
        return BAD_INPUT
    return NOTHING_FAILED if done.status is None else done.status


class _Line:
    """The line of a terminal that shows what is being recorded."""

    def __init__(self, name: str, *, shown: bool) -> None:
        self._name = name
        self._shown = shown

    def watch(self, progress: Any) -> None:
        """Show how far it is."""
        if self._shown:
            text = (
                f"recording {self._name}: {progress.ioctls} ioctls, {progress.vms} VMs, "
                f"{progress.vcpus} vCPUs, {progress.threads} threads"
            )
            self._write(f"\r\x1b[K{printable(text)}")

    def erase(self) -> None:
        """Leave no line there."""
        if self._shown:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:  # nobody reads it any more
            self._shown = False
