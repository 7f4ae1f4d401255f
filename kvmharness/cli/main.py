# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness: the command."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from kvmharness import version
from kvmharness.cli import (
    about,
    bisect_step,
    docs,
    explore,
    judge,
    lab,
    list,
    predict,
    probe,
    progress,
    record,
    recording,
    reproduce,
    rules,
    run,
    vmms,
    writing,
)
from kvmharness.cli import cache as cache_command
from kvmharness.cli.errors import BAD_INPUT, INTERRUPTED, NOTHING_FAILED, UsageError
from kvmharness.cli.options import Parser
from kvmharness.judging.bisection import ANSWERS, GIVE_UP
from kvmharness.kvm import KvmError, KvmUnavailableError
from kvmharness.lab import cache as lab_cache
from kvmharness.lab import kept
from kvmharness.lab.errors import LabError
from kvmharness.model.written_rule import RuleError

_STATUSES = """\
exit status:
  0  nothing failed, and something was judged
  1  a scenario failed
  2  wrong usage or bad input; one line on stderr says what
  3  a machine was lost
  4  nothing could be judged

`kvmharness docs` has the documentation, the man page and the completions of shells.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    words = sys.argv[1:] if arguments is None else [*arguments]
    if words[:1] != [bisect_step.NAME]:
        return _run(words)
    try:
        status = _run(words)
    except SystemExit as leaving:  # argparse's
        status = BAD_INPUT if leaving.code else NOTHING_FAILED
    except Exception:  # KVMHARNESS_DEBUG: what Python itself makes of it is git's word for bad
        traceback.print_exc()
        status = BAD_INPUT
    return status if status in ANSWERS else GIVE_UP


def _run(words: Sequence[str]) -> int:
    _open_standard_files()
    writing.unwritten.clear()
    try:
        parsed = parser().parse_args(words)
        with progress.shown(getattr(parsed, "verbosity", 0), writing.complain):
            about.begin(parsed, words)
            status: int = parsed.run(parsed)
        sys.stdout.flush()
        if lab_cache.grown.is_set():
            kept.trim()
    except (UsageError, RuleError, LabError, KvmUnavailableError, KvmError) as error:
        return _give_up(str(error))
    except BrokenPipeError:
        # A reader that has seen enough (`| head`) ends us like any other filter. Not by the signal, which
        # would also come of an emulator that dies while it is being sent something.
        _drop_output()
        os._exit(128 + signal.SIGPIPE)  # for the same reason as below
    except OSError as error:
        return _give_up(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
    except KeyboardInterrupt:
        try:
            with suppress(OSError):
                print("kvmharness: interrupted", file=sys.stderr, flush=True)
        finally:
            # Not by way of the threads that wait for emulators: those die with this process.
            os._exit(INTERRUPTED)
    except Exception as error:
        if os.environ.get("KVMHARNESS_DEBUG"):
            raise
        kind = type(error).__name__
        return _give_up(f"fault in kvmharness itself: {kind}: {error} (KVMHARNESS_DEBUG=1 shows where)")
    return BAD_INPUT if status == NOTHING_FAILED and writing.unwritten else status


def _give_up(reason: str) -> int:
    writing.complain(f"kvmharness: {' '.join(reason.split())}")
    # What could not be written must not fail a second time when the interpreter closes it.
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return BAD_INPUT


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_files() -> None:
    """Put /dev/null where a daemon or cron job left 0, 1 or 2 closed: the next file would land there."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has no object for a file that was closed when it started.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


class _ShowVersion(argparse.Action):
    """Asks git for the revision only when somebody asks for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"kvmharness {version.described()}")
        parser.exit()


@cache
def parser() -> Parser:
    """The parser of the command line, made once."""
    whole = Parser(
        prog="kvmharness",
        description="Tells you whether a Linux kernel's KVM synchronizes guest TSCs as a patch intends.",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    for command in (
        probe,
        run,
        lab,
        explore,
        bisect_step,
        judge,
        predict,
        reproduce,
        rules,
        record,
        recording,
        vmms,
        cache_command,
        list,
        docs,
    ):
        command.add_parser(commands)
    return whole


if __name__ == "__main__":
    sys.exit(main())
